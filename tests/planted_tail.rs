//! The tests of the tail can fail: `planted_faults.rs` for its sites, in the portable kernels and in Hopper's, whose
//! communicators, or CTAs that only reduce, run it.
//! `TILEWEAVE_DEEP=1 cargo test --test planted_tail -- --nocapture` prints how many of 50 seeds catch each.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tileweave::driver::sim::{Fault, SimNode, Site};
use tileweave::{DType, GroupConfig, Mainloop, Node, Op};

/// What runs. Rows are more than CTAs, and wider than a block.
#[derive(Clone, Copy)]
enum Work {
    /// All-reduce, two-shot or one-shot.
    Plain,
    /// GEMM+AR, two-shot or one-shot.
    Portable,
    /// GEMM+AR two-shot: each CTA's communicator; or those of the CTAs that only reduce.
    Hopper,
    /// GEMM+AR of few rows, one-shot.
    Slim,
}

/// `Some(how)` if the fault is caught.
fn caught(plant: Plant, work: Work, seed: u64) -> Option<String> {
    let even = seed.is_multiple_of(2);
    let one_shot = match work {
        Work::Slim => true,
        Work::Hopper => false,
        _ => even,
    };
    let (m, n) = match work {
        Work::Plain => (40, 300),
        Work::Portable => (70, 200),
        Work::Hopper => (140, 264),
        Work::Slim => (70, 264),
    };
    let (op, mainloop) = match work {
        Work::Plain => (Op::AllReduce, None),
        Work::Portable => (Op::GemmAllReduce, Some(Mainloop::Portable)),
        Work::Hopper | Work::Slim => (Op::GemmAllReduce, Some(Mainloop::Hopper)),
    };
    let mut case = Case::new(op, 2, m, n, 2 * 64, DType::Bf16).tail(1e-5);
    case.mainloop = mainloop;
    if matches!(work, Work::Hopper) && even {
        case = case.reducers(2);
    }
    let mut config = planted(plant, 2, seed);
    config.sms = 4;
    let node = Node::new(Arc::new(SimNode::new(config).unwrap()));
    let group = GroupConfig::default()
        .one_shot_bytes(if one_shot { 64 << 10 } else { 0 })
        .deadline(Duration::from_millis(50));
    let ranks = node.group(2, &group.sized_for(&case.all_specs(), 2).unwrap()).unwrap();
    launches(&ranks, &case, case.routes()[0], seed).err()
}

fn rows() -> Vec<Row<Work>> {
    let sites = [
        ("no barrier before a CTA's arrival", machine(Site::MeetBarrier)),
        ("count of CTAs that meet relaxed", machine(Site::MeetArrive)),
        ("release of the meeting dropped", machine(Site::MeetRelease)),
        ("no wait for the other CTAs", machine(Site::MeetPoll)),
        ("acquire of the meeting dropped", machine(Site::MeetAcquire)),
        ("no barrier behind the meeting", machine(Site::MeetArrived)),
        (
            "the meeting's word before what it covers",
            Plant::Machine(Fault::EarlySignal(Site::MeetRelease)),
        ),
        ("no barrier before the squares' sums are read", machine(Site::TailSums)),
    ];
    let works = [Work::Plain, Work::Portable, Work::Hopper, Work::Slim];
    let of = |work| sites.iter().map(move |(name, plant)| row(name, *plant, work, 4));
    works.into_iter().flat_map(of).collect()
}

#[test]
fn each_planted_fault_is_caught() {
    all_caught(&rows(), caught);
}

#[test]
fn nothing_is_caught_without_a_fault() {
    nothing_caught(&[Work::Plain, Work::Portable, Work::Hopper, Work::Slim], 8, caught);
}
