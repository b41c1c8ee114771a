//! Determinism, time, streams and threads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, Place};

use crate::support::{Bench, grid, no_params, place, report};

/// Four ranks, each driven by a thread of its own in whatever order the system runs them.
fn threaded_digest(seed: u64) -> u64 {
    let bench = Bench::new(SimConfig::new(4, seed));
    let before = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for rank in 0..4 {
            let (bench, before) = (&bench, &before);
            scope.spawn(move || {
                let guard = bench.node.attach_thread();
                before.wait();
                let out = bench.alloc(rank, 5 * 128 * 4);
                let mut p = bench.params(rank);
                (p.n, p.k, p.out) = (2048, 5, out);
                for launch in 0..2 {
                    // Words and staging of its own: nothing says that the peers are done with the first launch's.
                    p.group.signals = crate::support::SIGNALS + 1024 * launch;
                    p.group.staging = crate::support::STAGING + 2 * crate::support::HALF * launch;
                    bench
                        .node
                        .launch("selftest_message", grid(1, 128, 0), &p, bench.streams[rank])
                        .unwrap();
                    bench.node.stream_synchronize(bench.streams[rank]).unwrap();
                }
                drop(guard);
            });
        }
    });
    bench.node.schedule_digest().unwrap()
}

#[test]
fn same_seed_same_run() {
    let digest = |seed| {
        let bench = Bench::new(SimConfig::new(3, seed));
        bench.messages(4096, 5).unwrap();
        (
            bench.node.schedule_digest().unwrap(),
            bench.node.simulated_time_ns().unwrap(),
        )
    };
    let all: Vec<_> = (0..8).map(digest).collect();
    assert_eq!((0..8).map(digest).collect::<Vec<_>>(), all);
    let mut distinct = all.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), all.len(), "other seeds give other runs");
}

#[test]
fn threads_do_not_change_the_run() {
    for seed in 0..3 {
        let first = threaded_digest(seed);
        for _ in 0..4 {
            assert_eq!(threaded_digest(seed), first, "seed {seed}");
        }
    }
}

fn wait_for(bench: &Bench, deadline_ns: u64) -> (u64, u64) {
    let (x, out) = (bench.alloc(0, 16), bench.alloc(0, 16));
    bench.node.fill(x, 0, 16, bench.streams[0]).unwrap();
    let mut p = no_params();
    (p.x, p.k, p.out, p.group.deadline_ns) = (x, 42, out, deadline_ns);
    bench
        .node
        .launch("selftest_wait", grid(1, 64, 0), &p, bench.streams[0])
        .unwrap();
    let words = bench.read_u32(0, out, 4).unwrap();
    (u64::from(words[0]), u64::from(words[2]) | u64::from(words[3]) << 32)
}

#[test]
fn an_idle_node_jumps_to_the_deadline() {
    for seed in 0..8 {
        let bench = Bench::new(SimConfig::new(1, seed));
        // An hour, at once, and not much more.
        let (seen, waited) = wait_for(&bench, 3_600_000_000_000);
        assert_eq!(seen, 0);
        assert!((3_600_000_000_000..3_600_000_100_000).contains(&waited), "{waited}");
    }
}

#[test]
fn time_passes_slowly_while_work_is_done() {
    let bench = Bench::new(SimConfig::new(4, 1));
    bench.messages(16384, 20).unwrap();
    assert!(
        bench.node.simulated_time_ns().unwrap() < 10_000_000,
        "a healthy run is far from any deadline"
    );
}

#[test]
fn a_poke_reaches_a_waiting_kernel() {
    let bench = Bench::new(SimConfig::new(1, 3));
    let (x, out) = (bench.alloc(0, 16), bench.alloc(0, 16));
    bench.node.fill(x, 0, 16, bench.streams[0]).unwrap();
    bench.node.stream_synchronize(bench.streams[0]).unwrap();
    let mut p = no_params();
    (p.x, p.k, p.out, p.group.deadline_ns) = (x, 42, out, 1_000_000_000);
    bench
        .node
        .launch("selftest_wait", grid(1, 64, 0), &p, bench.streams[0])
        .unwrap();
    // Behind no stream: before the kernel has had a chance to run.
    bench.node.poke(x, &42u64.to_le_bytes()).unwrap();
    assert_eq!(bench.read_u32(0, out, 1).unwrap(), [1]);
}

#[test]
fn streams_keep_their_order_and_events_carry_it() {
    for seed in 0..20 {
        let bench = Bench::new(SimConfig::new(2, seed));
        let node = &bench.node;
        let (a, b) = (bench.streams[0], node.stream_create(place(0)).unwrap());
        let buffers: Vec<_> = (0..7).map(|_| bench.alloc(0, 8 * 32 * 4)).collect();
        node.fill(buffers[0], 0, 1024, a).unwrap();
        for i in 0..6 {
            let (here, there) = if i % 2 == 0 { (a, b) } else { (b, a) };
            let mut p = no_params();
            (p.x, p.out) = (buffers[i], buffers[i + 1]);
            node.launch("selftest_stream", grid(8, 32, 0), &p, here).unwrap();
            let event = node.event_create(place(0)).unwrap();
            node.event_record(event, here).unwrap();
            node.stream_wait_event(there, event).unwrap();
            node.event_destroy(event).unwrap();
        }
        assert_eq!(bench.read_u32(0, buffers[6], 256).unwrap(), [6; 256], "seed {seed}");
    }
}

#[test]
fn a_missing_event_is_caught() {
    let failures = (0..20).filter(|seed| {
        let bench = Bench::new(SimConfig::new(1, *seed));
        let node = &bench.node;
        let other = node.stream_create(place(0)).unwrap();
        let buffers: Vec<_> = (0..3).map(|_| bench.alloc(0, 8 * 32 * 4)).collect();
        node.fill(buffers[0], 0, 1024, bench.streams[0]).unwrap();
        for (i, stream) in [bench.streams[0], other].into_iter().enumerate() {
            let mut p = no_params();
            (p.x, p.out) = (buffers[i], buffers[i + 1]);
            node.launch("selftest_stream", grid(8, 32, 0), &p, stream).unwrap();
        }
        node.stream_synchronize(other).is_err()
    });
    assert_eq!(failures.count(), 20);
}

#[test]
fn groups_that_fill_each_others_devices_deadlock_and_are_told_of() {
    // Room for sixteen such CTAs; two kernels want ten each, and every CTA of both waits for ever.
    let bench = Bench::new(SimConfig::new(1, 0));
    let other = bench.node.stream_create(place(0)).unwrap();
    let x = bench.alloc(0, 1024);
    bench.node.fill(x, 0, 1024, bench.streams[0]).unwrap();
    bench.node.stream_synchronize(bench.streams[0]).unwrap();
    let mut p = no_params();
    (p.x, p.k, p.out) = (x, 4, x);
    for stream in [bench.streams[0], other] {
        bench
            .node
            .launch("selftest_barrier", grid(10, 64, 0), &p, stream)
            .unwrap();
    }
    let text = report(bench.node.stream_synchronize(other));
    assert!(text.contains("of 10 CTAs wait for room on the SMs"), "{text}");
}

#[test]
fn virtual_ranks_have_their_own_sms() {
    let bench = Bench::new(SimConfig {
        sms: 8,
        ..SimConfig::new(1, 0)
    });
    let sms: Vec<u32> = (0..3)
        .map(|share| {
            bench
                .node
                .place_info(Place {
                    device: 0,
                    share,
                    shares: 3,
                })
                .unwrap()
                .sms
        })
        .collect();
    assert_eq!(sms.iter().sum::<u32>(), 8);
    // A share's kernel that waits for ever leaves the others' SMs alone.
    let x = bench.alloc(0, 1024);
    bench.node.fill(x, 0, 1024, bench.streams[0]).unwrap();
    bench.node.stream_synchronize(bench.streams[0]).unwrap();
    let streams: Vec<_> = (0..2)
        .map(|share| {
            bench
                .node
                .stream_create(Place {
                    device: 0,
                    share,
                    shares: 2,
                })
                .unwrap()
        })
        .collect();
    let mut p = no_params();
    (p.x, p.k, p.out) = (x, 4, x);
    bench
        .node
        .launch("selftest_barrier", grid(16, 64, 0), &p, streams[0])
        .unwrap();
    (p.k, p.n, p.out) = (9, 64, bench.alloc(0, 256));
    bench
        .node
        .launch("selftest_fill", grid(32, 128, 0), &p, streams[1])
        .unwrap();
    bench.node.stream_synchronize(streams[1]).unwrap();
}

#[test]
fn a_node_can_be_dropped_with_kernels_running() {
    for seed in 0..4 {
        let bench = Bench::new(SimConfig::new(1, seed));
        let x = bench.alloc(0, 1024);
        bench.node.fill(x, 0, 1024, bench.streams[0]).unwrap();
        bench.node.stream_synchronize(bench.streams[0]).unwrap();
        let mut p = no_params();
        (p.x, p.k, p.out) = (x, 4, x);
        bench
            .node
            .launch("selftest_barrier", grid(4, 64, 1024), &p, bench.streams[0])
            .unwrap();
        // Let it start: another stream's work drives the node past it.
        let other = bench.node.stream_create(place(0)).unwrap();
        (p.k, p.n, p.out) = (1, 64, bench.alloc(0, 256));
        bench.node.launch("selftest_fill", grid(1, 128, 0), &p, other).unwrap();
        bench.node.stream_synchronize(other).unwrap();
    }
}

#[test]
fn an_attached_thread_that_stays_away_is_told_of() {
    let config = SimConfig {
        patience: Duration::from_millis(50),
        ..SimConfig::new(1, 0)
    };
    let node = SimNode::new(config).unwrap();
    let stream = node.stream_create(place(0)).unwrap();
    let ptr = node.alloc(place(0), 64).unwrap();
    let _guard = node.attach_thread();
    std::thread::scope(|scope| {
        let result = scope
            .spawn(|| {
                node.fill(ptr, 0, 64, stream).unwrap();
                node.stream_synchronize(stream)
            })
            .join()
            .unwrap();
        let text = report(result);
        assert!(text.contains("attached thread"), "{text}");
    });
}

#[test]
fn a_launch_hook_sees_and_edits_parameters() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let hook = move |launch: tileweave::driver::sim::LaunchSeen<'_>, p: &mut tileweave::abi::TwParams| {
        log.lock()
            .unwrap()
            .push((launch.kernel.to_string(), launch.place.device, p.group.staging_half));
        p.group.staging_half = 0;
    };
    let caught = (0..20).filter(|seed| {
        let config = SimConfig {
            launch_hook: Some(Arc::new(hook.clone())),
            ..SimConfig::new(4, *seed)
        };
        let bench = Bench::new(config);
        // One staging half instead of two: overwritten before it was given back.
        bench
            .messages(4096, 6)
            .map_or(true, |sums| sums != bench.expected_messages(4096, 6))
    });
    assert_eq!(caught.count(), 20);
    assert_eq!(
        seen.lock().unwrap()[1],
        ("selftest_message".to_string(), 1, crate::support::HALF)
    );
}

#[test]
fn exported_memory_is_the_same_memory() {
    use std::os::fd::AsFd;
    let bench = Bench::new(SimConfig::new(2, 0));
    let places = [place(0), place(1)];
    let memory = bench.node.physical_create(place(1), 1 << 16).unwrap();
    let at = bench.node.physical_map(memory, 1 << 16, &places).unwrap();
    let fd = bench.node.physical_export(memory).unwrap();
    let again = bench.node.physical_import(fd.as_fd(), place(1), 1 << 16).unwrap();
    assert_eq!(again, memory);
    assert_eq!(bench.node.physical_map(again, 1 << 16, &places).unwrap(), at);
    // Another node, as another process would be, sees the bytes.
    let other = SimNode::new(SimConfig::new(2, 0)).unwrap();
    let theirs = other.physical_import(fd.as_fd(), place(1), 1 << 16).unwrap();
    let there = other.physical_map(theirs, 1 << 16, &places).unwrap();
    bench.node.poke(at + 64, b"tileweave").unwrap();
    let mut bytes = [0; 9];
    other.peek(&mut bytes, there + 64).unwrap();
    assert_eq!(&bytes, b"tileweave");
    for _ in 0..2 {
        bench.node.physical_unmap(at, 1 << 16).unwrap();
        bench.node.physical_release(memory).unwrap();
    }
    assert!(bench.node.physical_map(memory, 1 << 16, &places).is_err());
    assert!(bench.node.peek(&mut bytes, at).is_err());
}

#[test]
fn thousands_of_launches_on_one_node() {
    let bench = Bench::new(SimConfig::new(2, 11));
    let outs = [0, 1].map(|d| bench.alloc(d, 4 * 512));
    for round in 0..3000u32 {
        for (out, stream) in outs.iter().zip(&bench.streams) {
            let mut p = no_params();
            (p.n, p.k, p.out) = (64 + round % 448, round, *out);
            bench
                .node
                .launch("selftest_fill", grid(1 + round % 3, 128, 0), &p, *stream)
                .unwrap();
        }
    }
    for (d, out) in outs.into_iter().enumerate() {
        assert_eq!(bench.read_u32(d, out, 64).unwrap(), [2999; 64]);
    }
}
