//! Planted faults, as in `planted_faults.rs`, where partials and results are pulled or go through the switch: what orders
//! them, and what keeps a half from being overwritten while a peer still reads it in its owner's memory.
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tileweave::driver::sim::{Fault, SimNode, Site};
use tileweave::{DType, Exchange, GroupConfig, Mainloop, Node, Numerics, Op};

#[derive(Clone, Copy)]
enum Work {
    /// All-reduces, and pulled reduce-scatters, in one round.
    Tiles(Exchange),
    /// The same in a heap that holds their smallest round.
    Rounds(Exchange),
    /// GEMM+AR on Hopper's mainloop.
    Hopper(Exchange),
}

/// `Some(how)` if the fault is caught.
fn caught(plant: Plant, work: Work, seed: u64) -> Option<String> {
    let even = seed.is_multiple_of(2);
    let (world, m, n, exchange) = match work {
        Work::Tiles(exchange) => (3, 200, 100, exchange),
        Work::Rounds(exchange) => (2, 900, 64, exchange),
        Work::Hopper(exchange) => (2, 140, 264, exchange),
    };
    let op = match (work, exchange) {
        (Work::Tiles(_) | Work::Rounds(_), Exchange::Pull) if even => Op::ReduceScatter,
        (Work::Tiles(_) | Work::Rounds(_), _) => Op::AllReduce,
        _ => Op::GemmAllReduce,
    };
    let case = Case::new(op, world, m, n, 64 * world, DType::Bf16).exchange(exchange);
    let case = match work {
        Work::Hopper(_) => case.mainloop(Mainloop::Hopper),
        _ => case,
    };
    let mut config = planted(plant, world, seed);
    config.multicast = true;
    let node = Node::new(Arc::new(SimNode::new(config).unwrap()));
    let group = GroupConfig::default()
        .one_shot_bytes(0)
        .numerics(Numerics::InSwitch)
        .deadline(Duration::from_millis(50));
    let path = case.routes()[0];
    let group = match work {
        Work::Rounds(_) => {
            let pushed = Case {
                exchange: None,
                ..case.clone()
            };
            group.heap_bytes(smallest_heap(&node, &pushed, path))
        }
        _ => group.sized_for(&case.all_specs(), world).unwrap(),
    };
    let ranks = node.group(world, &group).unwrap();
    launches(&ranks, &case, path, seed).err()
}

fn rows() -> Vec<Row<Work>> {
    use Exchange::{InSwitch, Pull};
    use Work::*;
    let mut rows = vec![
        row(
            "no fence before the switch adds",
            machine(Site::SumFence),
            Tiles(InSwitch),
            2,
        ),
        row(
            "no fence behind the switch's stores",
            machine(Site::ResultFence),
            Tiles(InSwitch),
            2,
        ),
        row(
            "the same, on Hopper: sums",
            machine(Site::SumFence),
            Hopper(InSwitch),
            2,
        ),
        row(
            "the same, on Hopper: results",
            machine(Site::ResultFence),
            Hopper(InSwitch),
            2,
        ),
        row("no wait for kept chunks", machine(Site::BulkWait), Hopper(InSwitch), 4),
        row("no wait for pulled chunks", machine(Site::BulkWait), Hopper(Pull), 4),
    ];
    for exchange in [Pull, InSwitch] {
        rows.extend([
            row(
                "release of a tile dropped",
                machine(Site::TileRelease),
                Tiles(exchange),
                2,
            ),
            row(
                "acquire of a tile dropped",
                machine(Site::TileAcquire),
                Tiles(exchange),
                2,
            ),
            row(
                "no barrier before a tile's release",
                machine(Site::TileBarrier),
                Tiles(exchange),
                4,
            ),
            row(
                "no barrier after a tile's acquire",
                machine(Site::TileAcquired),
                Tiles(exchange),
                4,
            ),
            row("no wait for a tile", machine(Site::TilePoll), Tiles(exchange), 2),
            row(
                "a tile's flag raised before its data",
                Plant::Machine(Fault::EarlySignal(Site::TileRelease)),
                Tiles(exchange),
                4,
            ),
            row(
                "release of the hello dropped",
                machine(Site::HelloSend),
                Tiles(exchange),
                20,
            ),
            row(
                "acquire of the hello dropped",
                machine(Site::HelloAcquire),
                Tiles(exchange),
                20,
            ),
            row("no wait for the hello", machine(Site::HelloPoll), Tiles(exchange), 8),
        ]);
    }
    // Of an all-reduce alone credits cannot be missed: each CTA collects what depends on the peers' earlier rounds.
    rows.extend([
        row(
            "count of a round's CTAs relaxed",
            machine(Site::CreditArrive),
            Rounds(Pull),
            8,
        ),
        row(
            "release of a credit dropped",
            machine(Site::CreditRelease),
            Rounds(Pull),
            4,
        ),
        row(
            "acquire of a credit dropped",
            machine(Site::CreditAcquire),
            Rounds(Pull),
            4,
        ),
        row("no wait for a credit", machine(Site::CreditPoll), Rounds(Pull), 4),
        row(
            "no barrier after a credit's acquire",
            machine(Site::CreditBarrier),
            Rounds(Pull),
            4,
        ),
        row(
            "no barrier before a round is retired",
            machine(Site::RetireBarrier),
            Rounds(Pull),
            4,
        ),
        row(
            "no barrier after the hellos' acquire",
            machine(Site::AgreeBarrier),
            Rounds(Pull),
            8,
        ),
        row("single-buffered staging", Plant::SingleBuffer, Tiles(Pull), 4),
        row(
            "no barrier before a round of sums is retired",
            machine(Site::RetireBarrier),
            Rounds(InSwitch),
            4,
        ),
    ]);
    rows
}

#[test]
fn each_planted_fault_is_caught() {
    all_caught(&rows(), caught);
}

#[test]
fn nothing_is_caught_without_a_fault() {
    let of = |exchange| [Work::Tiles(exchange), Work::Rounds(exchange), Work::Hopper(exchange)];
    nothing_caught(&[of(Exchange::Pull), of(Exchange::InSwitch)].concat(), 8, caught);
}
