//! Order between devices: messages come through whole on every schedule, and every ordering step that is left out is
//! caught within a stated number of seeds.

use tileweave::driver::Driver;
use tileweave::driver::sim::{Fault, Lateness, SimConfig, Site};

use crate::support::{Bench, PACKETS, grid, no_params, report};

const BYTES: u32 = 4096;
const ROUNDS: u32 = 6;

#[test]
fn messages_come_through_on_every_schedule() {
    for seed in 0..40 {
        let bench = Bench::new(SimConfig::new(2 + seed as usize % 3, seed));
        let sums = bench
            .messages(BYTES, ROUNDS)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(sums, bench.expected_messages(BYTES, ROUNDS), "seed {seed}");
    }
}

/// Seeds of `seeds` on which a fault shows, as a report or as a wrong sum.
fn caught_among(ranks: usize, fault: Fault, seeds: u64) -> u64 {
    (0..seeds)
        .filter(|seed| {
            let bench = Bench::new(SimConfig {
                faults: vec![fault],
                ..SimConfig::new(ranks, *seed)
            });
            match bench.messages(BYTES, ROUNDS) {
                Err(tileweave::Error::Simulator { .. }) => true,
                Err(e) => panic!("seed {seed}: {e}"),
                Ok(sums) => sums != bench.expected_messages(BYTES, ROUNDS),
            }
        })
        .count() as u64
}

#[test]
fn order_left_out_is_caught_on_every_seed() {
    for site in [
        Site::TileRelease,
        Site::TileAcquire,
        Site::TileBarrier,
        Site::TileAcquired,
        Site::TilePoll,
    ] {
        assert_eq!(caught_among(2, Fault::Ignore(site), 20), 20, "{site:?}");
    }
    assert_eq!(caught_among(2, Fault::EarlySignal(Site::TileRelease), 20), 20);
}

#[test]
fn overwriting_what_was_not_given_back_is_caught() {
    // Whether the reader is done is read off what the writer knows, not off the data.
    for site in [Site::CreditRelease, Site::CreditAcquire, Site::CreditBarrier] {
        assert_eq!(caught_among(3, Fault::Ignore(site), 20), 20, "{site:?}");
    }
    // A credit that nobody waits for may happen to be there.
    let n = caught_among(3, Fault::Ignore(Site::CreditPoll), 20);
    assert!(n >= 10, "{n} of 20 seeds");
}

#[test]
fn a_report_names_both_sides() {
    let texts: Vec<String> = (0..10)
        .map(|seed| {
            let faults = vec![Fault::Ignore(Site::TileAcquire)];
            let config = SimConfig {
                faults,
                lateness: Some(Lateness::Often),
                ..SimConfig::new(2, seed)
            };
            report(Bench::new(config).messages(BYTES, ROUNDS))
        })
        .collect();
    for part in ["device", "selftest_message", "CTA 0", "thread", "offset"] {
        assert!(texts.iter().all(|t| t.contains(part)), "{part:?} in {texts:?}");
    }
    let both = texts
        .iter()
        .find(|t| t.contains("missing is a barrier"))
        .expect("one where the data came by itself");
    assert_eq!(both.matches("selftest_message").count(), 2, "{both}");
}

#[test]
fn lateness_is_what_was_asked_for() {
    // With the acquire gone, data that never comes by itself is read as memory nobody wrote.
    let faults = vec![Fault::Ignore(Site::TileAcquire)];
    let config = SimConfig {
        faults,
        lateness: Some(Lateness::Never),
        ..SimConfig::new(2, 1)
    };
    let text = report(Bench::new(config).messages(BYTES, ROUNDS));
    assert!(text.contains("nobody has written"), "{text}");
}

#[test]
fn dropped_signals_end_at_the_deadline_of_the_receiver() {
    let fault = Fault::DropSignals { from: 0, to: 1 };
    let bench = Bench::new(SimConfig {
        faults: vec![fault],
        ..SimConfig::new(2, 5)
    });
    // Nobody is stuck: rank 1 gives up at its deadline, and rank 0, which gets no credit, at its own.
    let sums = bench.messages(BYTES, ROUNDS).unwrap();
    assert_ne!(sums, bench.expected_messages(BYTES, ROUNDS));
    assert!(bench.node.simulated_time_ns().unwrap() >= 10_000_000_000);
}

#[test]
fn a_slow_device_changes_nothing_but_the_schedule() {
    for seed in 0..4 {
        let plain = Bench::new(SimConfig::new(3, seed));
        let slow = Bench::new(SimConfig {
            faults: vec![Fault::Slow { device: 1, factor: 50 }],
            ..SimConfig::new(3, seed)
        });
        let expected = plain.expected_messages(BYTES, ROUNDS);
        assert_eq!(plain.messages(BYTES, ROUNDS).unwrap(), expected);
        assert_eq!(slow.messages(BYTES, ROUNDS).unwrap(), expected);
        assert_ne!(
            plain.node.schedule_digest().unwrap(),
            slow.node.schedule_digest().unwrap()
        );
    }
}

fn packets(config: SimConfig) -> Result<bool, tileweave::Error> {
    let bench = Bench::new(config);
    let n = 3u32;
    let mut right = true;
    for tag in 1..4 {
        let outs: Vec<_> = (0..2).map(|d| bench.alloc(d, 64 * 4)).collect();
        for (d, out) in outs.iter().enumerate() {
            let mut p = bench.params(d);
            (p.n, p.k, p.out) = (n, tag, *out);
            bench
                .node
                .launch("selftest_packets", grid(1, 64, 0), &p, bench.streams[d])?;
        }
        for (d, out) in outs.iter().enumerate() {
            let sums = bench.read_u32(d, *out, 64)?;
            let expected: Vec<u32> = (0..64).map(|t| (0..n).map(|i| 2 * (i * 64 + t) + 7).sum()).collect();
            right &= sums == expected;
        }
        // The area is reused under another tag, as if of another epoch: other data would be told apart by it alone.
        for (heap, stream) in bench.heaps.iter().zip(&bench.streams) {
            bench.node.fill(*heap + PACKETS, 0xff, 64 * 16 * n as usize, *stream)?;
            bench.node.stream_synchronize(*stream)?;
        }
    }
    Ok(right)
}

#[test]
fn packets_tear_and_their_tags_hold_them_together() {
    for seed in 0..30 {
        assert!(packets(SimConfig::new(2, seed)).unwrap(), "seed {seed}");
    }
    let torn = (0..20).filter(|seed| {
        let faults = vec![Fault::Ignore(Site::PacketPoll)];
        !packets(SimConfig {
            faults,
            ..SimConfig::new(2, *seed)
        })
        .unwrap()
    });
    assert_eq!(torn.count(), 20);
}

fn counter(config: SimConfig) -> Result<u32, tileweave::Error> {
    let bench = Bench::new(config);
    let (x, count, out) = (bench.alloc(0, 16 * 32), bench.alloc(0, 16), bench.alloc(0, 4));
    bench.node.fill(count, 0, 16, bench.streams[0])?;
    let mut p = no_params();
    (p.x, p.weight, p.out) = (x, count, out);
    bench
        .node
        .launch("selftest_counter", grid(12, 64, 0), &p, bench.streams[0])?;
    let counts = bench.read_u32(0, count, 4)?;
    assert_eq!((counts[0], counts[2]), (12, 12 * 64));
    Ok(bench.read_u32(0, out, 1)?[0])
}

#[test]
fn the_last_of_many_sees_what_all_wrote() {
    for seed in 0..20 {
        assert_eq!(counter(SimConfig::new(1, seed)).unwrap(), 78, "seed {seed}");
        for site in [Site::CreditArrive, Site::CreditBarrier] {
            let config = SimConfig {
                faults: vec![Fault::Ignore(site)],
                ..SimConfig::new(1, seed)
            };
            // Thread 0 writes and arrives itself, so that only the counter's order matters here.
            if site == Site::CreditArrive {
                let text = report(counter(config));
                assert!(
                    text.contains("nothing orders the write before the read"),
                    "seed {seed}: {text}"
                );
            } else {
                assert_eq!(counter(config).unwrap(), 78);
            }
        }
    }
}

#[test]
fn traffic_is_counted_as_it_leaves() {
    let bench = Bench::new(SimConfig::new(2, 0));
    bench.messages(BYTES, ROUNDS).unwrap();
    for d in 0..2 {
        let (payload, signals) = bench.node.observed_traffic(crate::support::place(d)).unwrap();
        // Each round one signal and one credit.
        assert_eq!((payload, signals), (u64::from(BYTES * ROUNDS), u64::from(2 * ROUNDS)));
    }
}
