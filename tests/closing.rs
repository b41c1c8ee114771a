//! What a rank hears of its operations: when it is closed, when it launches again, and how it has fared.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Data, ready, run_on, small_case, small_config, three_devices};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{Error, Node, Op, Path};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn closing_tells_how_things_were() {
    let c = small_case(Op::GemmAllReduce);
    let (_sim, node) = three_devices(8);
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let mut work = ready(&ranks, &c);
    for (plan, loaded) in &mut work {
        loaded.launch(plan, c.m).unwrap();
    }
    for rank in ranks {
        rank.close(LONG).unwrap();
    }
    // Some handles are left: what they launch is theirs to look after.
    let (plan, loaded) = &mut work[2];
    loaded.launch(plan, c.m).unwrap();
    let rank = plan.rank().clone();
    let error = rank.close(LONG).unwrap_err();
    assert!(matches!(&error, Error::Wait { root, .. } if root.rank == 2), "{error}");
}

/// Nobody waits for the node but the one that closes, and not long enough for the kernel to give up by itself.
#[test]
fn closing_over_work_that_is_not_done_gives_it_up() {
    let c = small_case(Op::GemmAllReduce);
    let (_sim, node) = three_devices(9);
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let mut work = ready(&ranks, &c);
    let (plan, loaded) = &mut work[0];
    loaded.launch(plan, c.m).unwrap();
    let error = ranks[0].clone().close(Duration::ZERO).unwrap_err().to_string();
    let told = "the group was aborted: rank 0 was closed with work that was not done after 0.000 s";
    assert_eq!(error, told);
    for rank in &ranks {
        assert_eq!(rank.health().unwrap_err().to_string(), told);
    }
}

/// A launch after a failure that nobody has asked about is refused with what went wrong, not with a wait of its own.
#[test]
fn a_launch_hears_of_a_failure_first() {
    let c = small_case(Op::AllGatherGemm);
    let (sim, node) = three_devices(10);
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let mut work = ready(&ranks, &c);
    for (plan, loaded) in &mut work[..2] {
        loaded.launch(plan, c.m).unwrap();
    }
    // The caller's own synchronisation: the crate hears nothing of it.
    node.driver().stream_synchronize(ranks[0].stream()).unwrap();
    assert!(sim.simulated_time_ns().unwrap() > 20_000_000, "the deadline passed");
    let (plan, loaded) = &mut work[0];
    let error = loaded.launch(plan, c.m).unwrap_err();
    let Error::Poisoned(first) = &error else {
        panic!("{error}")
    };
    assert!(
        matches!(&**first, Error::Wait { root, .. } if root.peer == 2),
        "{error}"
    );
}

/// What ranks are told of themselves: by path, and whom they waited for.
#[test]
fn operations_are_counted_by_path() {
    let c = small_case(Op::GemmReduceScatter);
    let mut sim = SimConfig::new(3, 11);
    sim.faults = vec![tileweave::driver::sim::Fault::Slow { device: 1, factor: 50 }];
    let node = Node::new(Arc::new(SimNode::new(sim).unwrap()));
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let data = Data::new(&c);
    for (path, times) in [(Path::Fused, 2), (Path::Unfused, 3)] {
        for _ in 0..times {
            run_on(&ranks, &c, &data, path).unwrap();
        }
    }
    for rank in &ranks {
        let stats = rank.stats();
        assert_eq!((stats.fused.operations, stats.unfused.operations), (2, 3));
        // Two of three partials of every tile leave each rank, whatever the path.
        assert!(stats.fused.bytes_sent > 0 && stats.fused.bytes_sent * 3 == stats.unfused.bytes_sent * 2);
        assert_eq!(stats.longest_wait.len(), 3);
        assert!(stats.longest_wait[rank.rank()].is_zero(), "nobody waits for himself");
        if rank.rank() != 1 {
            assert_eq!(stats.straggler().map(|(rank, _)| rank), Some(1), "{stats:?}");
        }
    }
}
