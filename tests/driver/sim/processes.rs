//! Several nodes that share memory, as processes do: mostly nodes of this process, whose arenas map the same memfd at
//! different addresses; where it matters, processes of their own.

mod inside;
mod side;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use side::{Side, sides};
use tileweave::Error;
use tileweave::driver::sim::{Fault, Lateness, SimConfig, SimNode, Site};
use tileweave::driver::{DevicePtr, Driver};

use crate::support::{Bench, HEAP, STAGING, grid, no_params, place, report};

const BYTES: u32 = 4096;
const ROUNDS: u32 = 6;

fn messages(config: &SimConfig) -> Result<Vec<Vec<u32>>, Error> {
    let sides = sides(config);
    let start = |side: &Side| side.start_messages(BYTES, ROUNDS, Duration::from_secs(60));
    let outs: Vec<DevicePtr> = sides.iter().map(start).collect();
    let read = |(side, out): (&Side, &DevicePtr)| side.read_u32(*out, ROUNDS as usize * 128);
    sides.iter().zip(&outs).map(read).collect()
}

fn expected(ranks: usize) -> Vec<Vec<u32>> {
    Bench::new(SimConfig::new(ranks, 0)).expected_messages(BYTES, ROUNDS)
}

const LATENESS: [Lateness; 3] = [Lateness::Never, Lateness::Rarely, Lateness::Often];

#[test]
fn messages_come_through_between_nodes() {
    for seed in 0..18 {
        let ranks = 2 + seed as usize % 3;
        let config = SimConfig {
            lateness: Some(LATENESS[seed as usize / 3 % 3]),
            ..SimConfig::new(ranks, seed)
        };
        let sums = messages(&config).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(sums, expected(ranks), "seed {seed}");
    }
}

/// No clock of this process knows the other's stores: what shows is the data.
#[test]
fn a_release_left_out_shows_as_stale_data() {
    for site in [
        Fault::Ignore(Site::TileRelease),
        Fault::Ignore(Site::TileBarrier),
        Fault::EarlySignal(Site::TileRelease),
    ] {
        let wrong = |seed: u64| {
            let config = SimConfig {
                faults: vec![site],
                lateness: Some(LATENESS[seed as usize % 3]),
                ..SimConfig::new(2, seed)
            };
            messages(&config).map_or(true, |sums| sums != expected(2))
        };
        let caught: Vec<u64> = (0..6).filter(|seed| wrong(*seed)).collect();
        // Data that never comes by itself is missing for certain.
        assert!([0, 3].iter().all(|seed| caught.contains(seed)), "{site:?}: {caught:?}");
    }
}

#[test]
fn packets_come_through_between_nodes() {
    for seed in 0..6 {
        let sides = sides(&SimConfig::new(2, seed));
        let n = 3u32;
        for tag in 1..3 {
            let launch = |side: &Side| {
                let mut p = side.params();
                (p.n, p.k, p.out) = (n, tag, side.alloc(64 * 4));
                side.node
                    .launch("selftest_packets", grid(1, 64, 0), &p, side.stream)
                    .unwrap();
                p.out
            };
            let outs: Vec<DevicePtr> = sides.iter().map(launch).collect();
            let expected: Vec<u32> = (0..64).map(|t| (0..n).map(|i| 2 * (i * 64 + t) + 7).sum()).collect();
            for (side, out) in sides.iter().zip(outs) {
                assert_eq!(side.read_u32(out, 64).unwrap(), expected, "seed {seed}");
            }
        }
    }
}

/// Counters in the memory of rank 0 that all CTAs of both ranks add to.
#[test]
fn two_nodes_that_add_to_one_word_lose_nothing() {
    let sides = sides(&SimConfig::new(2, 1));
    let count = |side: &Side| side.heaps[0] + STAGING;
    // So that no CTA takes itself for the last.
    sides[0].node.poke(count(&sides[0]), &1000u64.to_le_bytes()).unwrap();
    let rounds = 40;
    for side in &sides {
        for _ in 0..rounds {
            let mut p = no_params();
            (p.x, p.weight, p.out) = (side.alloc(16 * 12), count(side), side.alloc(4));
            let launched = side.node.launch("selftest_counter", grid(12, 64, 0), &p, side.stream);
            launched.unwrap();
        }
    }
    for side in &sides {
        side.node.stream_synchronize(side.stream).unwrap();
    }
    for side in &sides {
        let mut words = [0; 16];
        side.node.peek(&mut words, count(side)).unwrap();
        let word = |i: usize| u64::from_le_bytes(words[i..i + 8].try_into().unwrap());
        assert_eq!((word(0), word(8)), (1000 + 2 * 12 * rounds, 2 * 12 * 64 * rounds));
    }
}

#[test]
fn a_deadline_is_the_walls() {
    let sides = sides(&SimConfig::new(2, 3));
    let began = Instant::now();
    let deadline = Duration::from_millis(60);
    let out = sides[0].wait(sides[0].heaps[0] + STAGING, 7, deadline);
    let (seen, ns) = sides[0].waited(out);
    assert!(!seen && ns >= deadline.as_nanos() as u64, "{ns} ns");
    assert!(began.elapsed() >= deadline);
}

#[test]
fn words_and_pokes_cross_under_a_waiting_kernel() {
    let sides = sides(&SimConfig::new(2, 4));
    // The word of rank 0 by rank 1's mapping, and one of rank 1 where it is: rank 0 polls across.
    for (home, by) in [(0, 1), (1, 1)] {
        let at = |side: usize| sides[side].heaps[home] + STAGING + 64;
        let out = sides[0].wait(at(0), 42, Duration::from_secs(60));
        assert!(
            !sides[0]
                .node
                .stream_wait(sides[0].stream, Duration::from_millis(5))
                .unwrap()
        );
        sides[by].node.poke(at(by), &42u64.to_le_bytes()).unwrap();
        assert!(sides[0].waited(out).0);
        let mut seen = [0; 8];
        sides[0].node.peek(&mut seen, at(0)).unwrap();
        assert_eq!(u64::from_le_bytes(seen), 42);
    }
}

/// A linked node runs as a device does: nobody needs to wait for it, and its last work is found done.
#[test]
fn a_linked_node_runs_by_itself() {
    let sides = sides(&SimConfig::new(2, 5));
    let _attached = sides[0].node.attach_thread();
    let outs: Vec<DevicePtr> = sides
        .iter()
        .map(|side| side.start_messages(BYTES, ROUNDS, Duration::from_secs(60)))
        .collect();
    for side in &sides {
        // Ends by itself, or fails in the harness's time.
        while !side.node.stream_wait(side.stream, Duration::ZERO).unwrap() {
            std::thread::yield_now();
        }
    }
    for (side, (out, sums)) in sides.iter().zip(outs.into_iter().zip(expected(2))) {
        assert_eq!(side.read_u32(out, ROUNDS as usize * 128).unwrap(), sums);
        let (payload, signals) = side.node.observed_traffic(place(side.rank)).unwrap();
        assert_eq!((payload, signals), (u64::from(BYTES * ROUNDS), u64::from(2 * ROUNDS)));
        let other = side.node.observed_traffic(place(1 - side.rank)).unwrap();
        assert_eq!(other, (0, 0));
    }
}

/// What this node can tell by itself is still an error, also in memory of another.
#[test]
fn own_faults_are_still_reported() {
    let sides = sides(&SimConfig::new(2, 6));
    let text = report(sides[0].node.stream_synchronize({
        let mut p = sides[0].params();
        p.group.heap[1] += HEAP as u64;
        (p.n, p.k, p.out) = (BYTES, ROUNDS, sides[0].alloc(ROUNDS as usize * 512));
        sides[0]
            .node
            .launch("selftest_message", grid(1, 128, 0), &p, sides[0].stream)
            .unwrap();
        sides[0].stream
    }));
    assert!(text.contains("outside any allocation"), "{text}");
}

#[test]
fn a_node_that_only_exports_runs_as_ever() {
    for seed in 0..6 {
        let plain = Bench::new(SimConfig::new(2, seed));
        let plain = (
            plain.messages(BYTES, ROUNDS).unwrap(),
            plain.node.schedule_digest().unwrap(),
        );
        let bench = Bench::new(SimConfig::new(2, seed));
        let memory = bench.node.physical_create(place(0), HEAP).unwrap();
        let fd = bench.node.physical_export(memory).unwrap();
        // Back through its own descriptor it is the memory it was.
        let back = bench.node.physical_import(fd.as_fd(), place(0), HEAP).unwrap();
        assert_eq!(back, memory);
        bench.node.physical_map(back, HEAP, &[place(1)]).unwrap();
        let again = (
            bench.messages(BYTES, ROUNDS).unwrap(),
            bench.node.schedule_digest().unwrap(),
        );
        assert_eq!(plain, again, "seed {seed}");
    }
}

/// As with one GPU visible to each process: each is device 0 where it is seen, and what it is on the machine elsewhere.
#[test]
fn a_device_may_be_the_only_one_that_is_seen() {
    let (mut sides, fds): (Vec<Side>, Vec<OwnedFd>) = (0..2)
        .map(|rank| {
            let config = SimConfig {
                visible: Some(vec![rank]),
                ..SimConfig::new(2, 30 + rank as u64)
            };
            Side::new(config, rank)
        })
        .unzip();
    for (rank, side) in sides.iter_mut().enumerate() {
        side.import(1 - rank, &fds[1 - rank]);
        assert_eq!((side.node.device_count(), side.at.device), (1, 0));
        assert_eq!(side.node.stream_place(side.stream).unwrap(), side.at);
        let described = side.node.describe().unwrap().unwrap();
        let identity = side.node.identity(0).unwrap();
        assert_eq!((described.gpus.len(), &described.gpus[0].uuid), (1, &identity.uuid));
        assert!(identity.uuid.ends_with(&rank.to_string()), "{identity:?}");
        assert!(side.node.alloc(place(1), 16).is_err());
    }
    let start = |side: &Side| side.start_messages(BYTES, ROUNDS, Duration::from_secs(60));
    let outs: Vec<DevicePtr> = sides.iter().map(start).collect();
    for (side, (out, sums)) in sides.iter().zip(outs.into_iter().zip(expected(2))) {
        assert_eq!(side.read_u32(out, ROUNDS as usize * 128).unwrap(), sums);
        let traffic = side.node.observed_traffic(side.at).unwrap();
        assert_eq!(traffic, (u64::from(BYTES * ROUNDS), u64::from(2 * ROUNDS)));
    }
    for visible in [vec![], vec![0, 0], vec![2]] {
        let config = SimConfig {
            visible: Some(visible.clone()),
            ..SimConfig::new(2, 0)
        };
        let error = SimNode::new(config).unwrap_err().to_string();
        assert!(error.contains(&format!("visible is {visible:?}")), "{error}");
    }
}

/// Without anything mapped of others a node is its own again.
#[test]
fn the_last_unmapping_unlinks() {
    let mut sides = sides(&SimConfig::new(2, 8));
    let side = sides.remove(0);
    side.node.physical_unmap(side.heaps[1], HEAP).unwrap();
    let out = side.wait(side.heaps[0] + STAGING, 7, Duration::from_secs(1_000_000));
    let (seen, ns) = side.waited(out);
    assert!(!seen && ns >= 1_000_000_000_000_000);
}

#[test]
fn multicast_stays_within_a_process() {
    let config = SimConfig {
        multicast: true,
        ..SimConfig::new(2, 0)
    };
    let node = SimNode::new(config).unwrap();
    let object = node.multicast_create(2, HEAP).unwrap();
    let error = node.multicast_export(object).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert!(error.to_string().contains("devices of one process"), "{error}");
}
