//! CUDA graphs, as a runtime uses them: operations captured from a rank's stream, replayed by the thousand, between eager
//! launches and other graphs; and what happens when ranks replay different ones.

mod common;

use std::time::Duration;

use common::{Captured, Case, Data, Loaded, Rng, Sum, judge, replay_all, results_of, sums, synchronize};
use tileweave::{DType, Error, Mainloop, Op, Result};

/// Wall time that no test comes near.
const LONG: Duration = Duration::from_secs(60);

/// What is captured does not run; each replay is an operation like any other, and its bits are those of an eager launch.
#[test]
fn every_operation_replays_bit_for_bit() {
    let mut cases: Vec<Case> = Op::ALL.map(|op| Case::new(op, 3, 70, 140, 24, DType::Bf16)).into();
    // With tensor maps among the parameters, and products of shared blocks in memory that no launch clears.
    let hopper = Case::new(Op::GemmAllReduce, 2, 64, 256, 128, DType::Bf16).mainloop(Mainloop::Hopper);
    cases.extend([
        hopper.clone(),
        Case {
            op: Op::AllGatherGemm,
            ..hopper
        },
    ]);
    cases.push(Case::new(Op::GemmAllReduce, 2, 3, 70, 2048, DType::F16));
    for (seed, c) in cases.into_iter().enumerate() {
        let (node, data) = (common::node(c.world, seed as u64), Data::new(&c));
        let ranks = common::group_for(&node, &c).unwrap();
        for &path in c.routes() {
            let eager = common::run_on(&ranks, &c, &data, path).unwrap();
            judge(&c, &data, &eager, "eager");
            let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, &c, &data).unwrap()).collect();
            let before = ranks[0].stats().operations();
            let graphs: Vec<_> = ranks
                .iter()
                .zip(&mut loaded)
                .map(|(rank, loaded)| {
                    let plan = rank.plan(&c.spec(rank.rank(), path)).unwrap();
                    Captured::new(rank, || loaded.launch(&plan, c.m)).unwrap()
                })
                .collect();
            synchronize(&ranks);
            assert_eq!(ranks[0].stats().operations(), before, "a capture ran");
            assert_ne!(results_of(&loaded), eager);
            for replay in 1..=3 {
                replay_all(&graphs);
                synchronize(&ranks);
                assert_eq!(ranks[0].stats().operations(), before + replay);
                assert!(results_of(&loaded) == eager, "{c:?}, {path}, replay {replay}");
            }
        }
    }
}

/// Ten thousand replays, across the round where packet tags begin again, on operands that change under the graph.
#[test]
fn ten_thousand_replays() {
    const REPLAYS: usize = 10_000;
    const AT_ONCE: usize = 200;
    let node = common::node(2, 11);
    let (ranks, mut sums) = sums(&node, 2, 1);
    for rank in &ranks {
        // The second word of the control block is the round.
        let round = u64::from(u32::MAX) - REPLAYS as u64 / 2;
        node.driver()
            .poke(rank.heap_address() + 8, &round.to_le_bytes())
            .unwrap();
    }
    let graphs: Vec<_> = sums.iter_mut().map(|sum| sum.capture(1).unwrap()).collect();
    let mut eager = 0;
    for batch in 0..REPLAYS / AT_ONCE {
        let value = batch as f32;
        sums.iter_mut().for_each(|sum| sum.refill(1, value - 1.0));
        (0..AT_ONCE - 1).for_each(|_| replay_all(&graphs));
        if batch % 10 == 3 {
            sums.iter_mut().for_each(|sum| sum.launch(1).unwrap());
            eager += 1;
        }
        sums.iter_mut().for_each(|sum| sum.refill(1, value));
        replay_all(&graphs);
        synchronize(&ranks);
        sums.iter().for_each(|sum| sum.check(1, value));
    }
    for rank in &ranks {
        assert_eq!(rank.stats().operations(), REPLAYS as u64 + eager);
    }
}

/// A graph for each batch size, in any order, with eager launches of sizes that have none in between.
#[test]
fn buckets_and_eager_launches_in_any_order() {
    let (buckets, max_m) = ([1, 2, 3, 8, 20, 600], 600);
    let node = common::node(3, 4);
    let (ranks, mut sums) = sums(&node, 3, max_m);
    let plan = &sums[0].plan;
    assert_ne!(
        plan.route(1).kernel,
        plan.route(600).kernel,
        "both algorithms are among them"
    );
    let graphs: Vec<Vec<_>> = buckets
        .iter()
        .map(|m| sums.iter_mut().map(|sum| sum.capture(*m).unwrap()).collect())
        .collect();
    let mut rng = Rng(5);
    for step in 0..60 {
        let bucket = rng.below(buckets.len() + 1);
        let m = buckets.get(bucket).copied().unwrap_or(5 + rng.below(40));
        sums.iter_mut().for_each(|sum| sum.refill(m, step as f32));
        match graphs.get(bucket) {
            Some(graphs) => replay_all(graphs),
            None => sums.iter_mut().for_each(|sum| sum.launch(m).unwrap()),
        }
        if step % 3 == 0 {
            synchronize(&ranks);
        }
        sums.iter().for_each(|sum| sum.check(m, step as f32));
    }
    synchronize(&ranks);
}

/// One rank replays another bucket: both are named. Afterwards replays end, without a result and without a wait, and what goes through
/// a plan is refused.
#[test]
fn the_wrong_bucket_is_named() {
    let node = common::node(3, 2);
    let (ranks, mut sums) = sums(&node, 3, 8);
    let graphs: Vec<_> = sums
        .iter_mut()
        .map(|sum| (sum.capture(4).unwrap(), sum.capture(8).unwrap()))
        .collect();
    let two: Vec<_> = sums.iter_mut().map(|sum| sum.capture(2).unwrap()).collect();
    sums.iter_mut().for_each(|sum| sum.refill(8, 0.0));
    for (four, _) in &graphs {
        four.replay().unwrap();
    }
    synchronize(&ranks);
    for (rank, (four, eight)) in graphs.iter().enumerate() {
        let graph = if rank == 1 { eight } else { four };
        graph.replay().unwrap();
        // What comes behind, of yet another size, tells nothing of what went wrong.
        (0..3).for_each(|_| two[rank].replay().unwrap());
    }
    let error = ranks[0].synchronize().unwrap_err();
    let Error::Disagreed {
        epoch: 2, ours, theirs, ..
    } = &error
    else {
        panic!("{error}")
    };
    // A flat all-reduce counts elements.
    let both = [ours, theirs].map(|words| [256, 512].map(|m| words.contains(&format!("M {m} "))));
    assert!(
        both == [[true, false], [false, true]] || both == [[false, true], [true, false]],
        "{error}"
    );
    assert!(error.to_string().contains("rank 1"), "{error}");

    let started = ranks[0].stats().operations();
    sums.iter_mut().for_each(|sum| sum.refill(4, 1.0));
    for (four, _) in &graphs {
        four.replay().unwrap();
    }
    for (rank, sum) in ranks.iter().zip(&mut sums) {
        assert_eq!(rank.synchronize().unwrap_err().to_string(), error.to_string());
        assert_eq!(rank.health().unwrap_err().to_string(), error.to_string());
        assert!(
            sum.out.to_vec::<f32>(4 * Sum::N).unwrap().iter().any(|y| y.is_nan()),
            "a result after a failure"
        );
        assert!(matches!(sum.launch(4), Err(Error::Poisoned(_))));
        assert!(matches!(sum.capture(4), Err(Error::Poisoned(_))));
    }
    assert!(ranks[0].stats().operations() >= started);
}

/// A rank that replays less often than the others is told by name.
#[test]
fn a_rank_that_does_not_replay() {
    let node = common::node(2, 8);
    let (ranks, mut sums) = sums(&node, 2, 2);
    let graphs: Vec<_> = sums.iter_mut().map(|sum| sum.capture(2).unwrap()).collect();
    sums.iter_mut().for_each(|sum| sum.refill(2, 0.0));
    replay_all(&graphs);
    graphs[0].replay().unwrap();
    let Err(Error::Wait { root, verdict, .. }) = ranks[0].synchronize() else {
        panic!()
    };
    assert_eq!((root.peer, root.epoch), (1, 2), "{root}; {verdict}");
}

/// Every rank's thread captures, all meet, and only then does the first one launch.
#[test]
fn a_thread_for_each_rank_and_a_barrier_between() {
    let node = common::node(3, 6);
    let (ranks, sums) = sums(&node, 3, 2);
    let attached = std::sync::Barrier::new(ranks.len());
    let run = |mut sum: Sum| -> Result<()> {
        let (_guard, rank) = (sum.rank.node().attach_thread(), sum.rank.clone());
        attached.wait();
        for step in 0..4 {
            if rank.rank() == step % 3 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let graph = sum.capture(2)?;
            rank.host_barrier(LONG)?;
            sum.refill(2, step as f32);
            graph.replay()?;
            // Rank 0 is blocked in the driver while the others wait for it: they do not hold its work up.
            if rank.rank() == 0 {
                rank.synchronize()?;
            }
            rank.host_barrier(LONG)?;
            rank.synchronize()?;
            sum.check(2, step as f32);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = sums.into_iter().map(|sum| scope.spawn(|| run(sum))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}
