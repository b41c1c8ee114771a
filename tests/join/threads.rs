//! Threads of one process, on one node: they share a group, and its runs are as reproducible as any.

use std::sync::Barrier;

use tileweave::Error;

use super::*;
use crate::common::{judge, run};

/// Results of all ranks, and what tells one schedule of the node from another.
fn once(c: &Case, path: Path, seed: u64, id: &Id) -> (Vec<Vec<u8>>, u64, u64) {
    let (sim, node) = sim(c.world, seed);
    let (data, all_here) = (Data::new(c), Barrier::new(c.world));
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..c.world)
            .map(|rank| {
                let (node, data, all_here) = (&node, &data, &all_here);
                scope.spawn(move || {
                    let _here = node.attach_thread();
                    all_here.wait();
                    // A rank's number says nothing of its device.
                    let rank = join(node, c.world - 1 - rank, rank, c.world, id, &config(c)).unwrap();
                    assert_eq!(rank.place().device, c.world - 1 - rank.rank());
                    perform(&rank, c, data, path).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (
        results,
        sim.schedule_digest().unwrap(),
        sim.simulated_time_ns().unwrap(),
    )
}

#[test]
fn threads_share_a_group_and_the_same_seed_gives_the_same_run() {
    for (seed, op) in Op::ALL.into_iter().enumerate() {
        let c = case(op, 3);
        let path = c.routes()[0];
        let (results, digest, time) = once(&c, path, seed as u64, &fresh());
        judge(&c, &Data::new(&c), &results, "joined threads");
        assert_eq!(results, run(&c, path, seed as u64).unwrap(), "{op:?}");
        let (_, digest_again, time_again) = once(&c, path, seed as u64, &fresh());
        assert_eq!((digest, time), (digest_again, time_again), "{op:?}");
    }
}

#[test]
fn a_group_that_cannot_be_made_is_told_to_all_and_the_id_serves_again() {
    let (_, node) = sim(2, 0);
    let id = fresh();
    let both = |devices: [usize; 2], config: &GroupConfig| -> Vec<Result<Rank>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|rank| {
                    let (node, id) = (&node, &id);
                    scope.spawn(move || join(node, devices[rank], rank, 2, id, config))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let c = case(Op::AllReduce, 2);
    for error in both([1, 1], &config(&c)) {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("share 0 of 1 of device 1, as is rank 0's"), "{error}");
    }
    for error in both([0, 1], &config(&c).heap_bytes(64)) {
        assert!(matches!(error, Err(Error::HeapTooSmall { .. })), "{error:?}");
    }
    for _ in 0..3 {
        let ranks: Vec<Rank> = both([0, 1], &config(&c)).into_iter().map(Result::unwrap).collect();
        let results = crate::common::run_on(&ranks, &c, &Data::new(&c), c.routes()[0]).unwrap();
        judge(&c, &Data::new(&c), &results, "the same id again");
    }
}

#[test]
fn subgroups_with_ids_of_their_own_join_at_once() {
    let (_, node) = sim(4, 3);
    let world = fresh();
    std::thread::scope(|scope| {
        for rank in 0..4 {
            let (node, world) = (&node, &world);
            scope.spawn(move || {
                let c = case(Op::AllReduce, 2);
                let half = Id::of([&world.0[..], &[rank as u8 / 2]].concat());
                let all = join(node, rank, rank, 4, world, &config(&c)).unwrap();
                let part = join(node, rank, rank % 2, 2, &half, &config(&c)).unwrap();
                assert_eq!((all.world(), part.world()), (4, 2));
                assert_eq!(part.place().device, rank);
            });
        }
    });
}
