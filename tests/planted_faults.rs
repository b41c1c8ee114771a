//! The tests can fail. One fault at a time is planted in the machine: it ignores one site, raises a flag before its data,
//! or the host is made to hand over a wrong parameter. Kernels stay as they are. Each fault must be caught, as an error of
//! the machine's checks, a failed wait, or wrong bits, within a stated number of schedule seeds; without a fault nothing is
//! caught on any of them. `TILEWEAVE_DEEP=1 cargo test --test planted_faults -- --nocapture` prints how many seeds catch each.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tileweave::driver::sim::{Fault, SimNode, Site};
use tileweave::{DType, GroupConfig, Mainloop, Node, Op};

/// What runs: together they pass every site of the protocol and the portable mainloops.
#[derive(Clone, Copy)]
enum Work {
    /// GEMM+RS and GEMM+AR in one round.
    Tiles,
    /// One-shot GEMM+AR.
    Packets,
    /// GEMM+AR of few rows, K split over CTAs: one-shot and unfused.
    Splits,
    /// RS and GEMM+RS in a heap that holds their smallest round.
    Rounds,
    /// AG and AG+GEMM.
    Rows,
    /// One-shot GEMM+AR in rounds whose packets are cleared at their end.
    Clearing,
}

/// `Some(how)` if the fault is caught.
fn caught(plant: Plant, work: Work, seed: u64) -> Option<String> {
    // Without a GEMM no barrier of its mainloop hides that another is missing.
    let pick = |even, odd| if seed.is_multiple_of(2) { even } else { odd };
    let (world, op) = match work {
        Work::Tiles => (3, pick(Op::GemmReduceScatter, Op::GemmAllReduce)),
        Work::Packets | Work::Clearing => (3, Op::GemmAllReduce),
        Work::Splits => (2, Op::GemmAllReduce),
        Work::Rounds => (2, pick(Op::ReduceScatter, Op::GemmReduceScatter)),
        Work::Rows => (3, pick(Op::AllGather, Op::AllGatherGemm)),
    };
    let (m, n, k) = match work {
        Work::Tiles => (200, 100, 192),
        Work::Packets | Work::Clearing => (20, 200, 192),
        Work::Splits => (20, 100, 2 * 1100),
        Work::Rounds => (900, 64, 64),
        Work::Rows => (300, 200, 64),
    };
    let case = Case::new(op, world, m, n, k, DType::Bf16).mainloop(Mainloop::Portable);
    let node = Node::new(Arc::new(SimNode::new(planted(plant, world, seed)).unwrap()));
    let one_shot = if matches!(work, Work::Packets | Work::Clearing | Work::Splits) {
        64 << 10
    } else {
        0
    };
    let group = GroupConfig::default()
        .one_shot_bytes(one_shot)
        .deadline(Duration::from_millis(50));
    let group = match work {
        Work::Rounds => group.heap_bytes(smallest_heap(&node, &case, case.routes()[0])),
        _ => group.sized_for(&case.all_specs(), world).unwrap(),
    };
    let ranks = node.group(world, &group).unwrap();
    // The control block is at the start of a rank's heap; its first words are epoch and round.
    let poke = |rank: usize, at: u64, value: u64| {
        node.driver()
            .poke(ranks[rank].heap_address() + at, &value.to_le_bytes())
            .unwrap();
    };
    if let Plant::Ahead { at } = plant {
        poke(1, at, 2);
    }
    if matches!(work, Work::Clearing) {
        (0..world).for_each(|rank| poke(rank, 8, 1 << 30));
    }
    let unfused = matches!(work, Work::Splits) && !seed.is_multiple_of(2);
    launches(&ranks, &case, case.routes()[usize::from(unfused)], seed).err()
}

fn rows() -> Vec<Row<Work>> {
    use Work::*;
    vec![
        row("release of a tile dropped", machine(Site::TileRelease), Tiles, 2),
        row("acquire of a tile dropped", machine(Site::TileAcquire), Tiles, 2),
        row(
            "no barrier before a tile's release",
            machine(Site::TileBarrier),
            Tiles,
            4,
        ),
        row(
            "no barrier after a tile's acquire",
            machine(Site::TileAcquired),
            Tiles,
            4,
        ),
        row("no wait for a tile", machine(Site::TilePoll), Tiles, 2),
        row(
            "a tile's flag raised before its data",
            Plant::Machine(Fault::EarlySignal(Site::TileRelease)),
            Tiles,
            4,
        ),
        row("release of the hello dropped", machine(Site::HelloSend), Tiles, 20),
        row("acquire of the hello dropped", machine(Site::HelloAcquire), Tiles, 20),
        row("no wait for the hello", machine(Site::HelloPoll), Tiles, 4),
        row("no wait for a packet", machine(Site::PacketPoll), Packets, 4),
        row("no wait for a packet of an item", machine(Site::PacketPoll), Splits, 4),
        row(
            "count of a block's splits relaxed",
            machine(Site::SplitArrive),
            Splits,
            4,
        ),
        row(
            "no barrier before a split is counted",
            machine(Site::SplitBarrier),
            Splits,
            4,
        ),
        row(
            "no barrier after a split is counted",
            machine(Site::SplitArrived),
            Splits,
            4,
        ),
        row("no wait for cp.async", machine(Site::CopyWait), Tiles, 2),
        row("no barrier between stages", machine(Site::StageBarrier), Tiles, 4),
        row("no wait for the tensor cores", machine(Site::MmaWait), Tiles, 4),
        row("release of rows dropped", machine(Site::TileRelease), Rows, 2),
        row("acquire of rows dropped", machine(Site::TileAcquire), Rows, 2),
        row(
            "no barrier before the rows' release",
            machine(Site::TileBarrier),
            Rows,
            4,
        ),
        row(
            "no barrier after the rows' acquire",
            machine(Site::TileAcquired),
            Rows,
            4,
        ),
        row("no wait for rows", machine(Site::TilePoll), Rows, 2),
        row(
            "the rows' flag raised before them",
            Plant::Machine(Fault::EarlySignal(Site::TileRelease)),
            Rows,
            4,
        ),
        row("count of leaving CTAs relaxed", machine(Site::LastArrive), Tiles, 4),
        row("no barrier before a CTA leaves", machine(Site::LastBarrier), Tiles, 4),
        row(
            "count of a round's CTAs relaxed",
            machine(Site::CreditArrive),
            Rounds,
            4,
        ),
        row("release of a credit dropped", machine(Site::CreditRelease), Rounds, 4),
        row("acquire of a credit dropped", machine(Site::CreditAcquire), Rounds, 4),
        row("no wait for a credit", machine(Site::CreditPoll), Rounds, 4),
        row(
            "no barrier after a credit's acquire",
            machine(Site::CreditBarrier),
            Rounds,
            4,
        ),
        row(
            "no barrier before a round is retired",
            machine(Site::RetireBarrier),
            Rounds,
            4,
        ),
        row(
            "no barrier after the hellos' acquire",
            machine(Site::AgreeBarrier),
            Rounds,
            4,
        ),
        row("no barrier before the end", machine(Site::EndBarrier), Tiles, 2),
        row("single-buffered staging", Plant::SingleBuffer, Tiles, 4),
        row("an epoch one ahead", Plant::Ahead { at: 0 }, Tiles, 1),
        row("a round one ahead", Plant::Ahead { at: 8 }, Tiles, 1),
    ]
}

#[test]
fn each_planted_fault_is_caught() {
    all_caught(&rows(), caught);
}

#[test]
fn nothing_is_caught_without_a_fault() {
    let all = [
        Work::Tiles,
        Work::Packets,
        Work::Splits,
        Work::Rounds,
        Work::Rows,
        Work::Clearing,
    ];
    nothing_caught(&all, 20, caught);
}
