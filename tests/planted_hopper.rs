//! The tests of the Hopper kernels can fail: `planted_faults.rs` for the sites of their mainloop and roles, for bulk copies and
//! mbarriers gone wrong, and for the protocol again, which other roles walk there.
//! `TILEWEAVE_DEEP=1 cargo test --test planted_hopper -- --nocapture` prints how many of 50 seeds catch each.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tileweave::driver::sim::{Fault, SimNode, Site};
use tileweave::{DType, GroupConfig, Mainloop, Node, Op, Path};

/// What runs, on few SMs: every CTA has several blocks, more steps of K than stages, and more chunks than buffers.
#[derive(Clone, Copy)]
enum Work {
    /// GEMM+RS and GEMM+AR in one round.
    Tiles,
    /// The same in the smallest rounds.
    Rounds,
    /// GEMM+AR and AG+GEMM by pairs of CTAs.
    Pairs,
    /// AG+GEMM in one round.
    Rows,
    /// The same in the smallest rounds, on so many SMs that most CTAs only push: no peer's rows tell them of its credits.
    RowRounds,
    /// The GEMM of an unfused operation.
    Gemm,
    /// GEMM+AR of few rows: one-shot and unfused, by pairs that share K.
    Slim,
    /// GEMM+AR where two CTAs only reduce, in one round and in the smallest ones.
    Reducers,
    ReducerRounds,
}

/// `Some(how)` if the fault is caught.
fn caught(plant: Plant, work: Work, seed: u64) -> Option<String> {
    let pick = |even, odd| if seed.is_multiple_of(2) { even } else { odd };
    let (op, sms, path) = match work {
        Work::Tiles | Work::Rounds => (pick(Op::GemmReduceScatter, Op::GemmAllReduce), 2, Path::Fused),
        Work::Pairs => (pick(Op::GemmAllReduce, Op::AllGatherGemm), 4, Path::Fused),
        Work::Rows => (Op::AllGatherGemm, 2, Path::Fused),
        Work::RowRounds => (Op::AllGatherGemm, 6, Path::Fused),
        Work::Reducers | Work::ReducerRounds => (Op::GemmAllReduce, 4, Path::Fused),
        Work::Slim => (
            Op::GemmAllReduce,
            4,
            if seed.is_multiple_of(2) {
                Path::Fused
            } else {
                Path::Unfused
            },
        ),
        Work::Gemm => (pick(Op::GemmReduceScatter, Op::AllGatherGemm), 2, Path::Unfused),
    };
    let (m, n, k) = match work {
        Work::Tiles | Work::Gemm | Work::Reducers => (300, 208, 2 * 200),
        Work::Rounds | Work::ReducerRounds => (700, 130, 2 * 64),
        Work::Slim => (100, 100, 2 * 1200),
        Work::Pairs => (2100, 80, 2 * 136),
        Work::Rows => (300, 400, 264),
        Work::RowRounds => (800, 120, 128),
    };
    let world = 2;
    let reducers = if matches!(work, Work::Reducers | Work::ReducerRounds) {
        2
    } else {
        0
    };
    let case = Case::new(op, world, m, n, k, DType::Bf16)
        .mainloop(Mainloop::Hopper)
        .reducers(reducers);
    let mut config = planted(plant, world, seed);
    config.sms = sms;
    let node = Node::new(Arc::new(SimNode::new(config).unwrap()));
    let one_shot = if matches!(work, Work::Slim) { 64 << 10 } else { 0 };
    let group = GroupConfig::default()
        .one_shot_bytes(one_shot)
        .deadline(Duration::from_millis(50));
    let group = match work {
        Work::Rounds | Work::RowRounds | Work::ReducerRounds => group.heap_bytes(smallest_heap(&node, &case, path)),
        _ => group.sized_for(&case.all_specs(), world).unwrap(),
    };
    let ranks = node.group(world, &group).unwrap();
    launches(&ranks, &case, path, seed).err()
}

/// Without a row, because order is there all the same: `RetireBarrier` in a gather, where the thread that gives a credit has
/// itself waited for `RoundRead`; `CreditBarrier` and `AgreeBarrier` in a reduction, where a communicator pushes results
/// only after partials, whose storers have waited for the same credits and hellos; `LastBarrier` of one-shot, which stages
/// nothing that an end would retire. A storer's own votes are shuffles, which a machine cannot leave out.
fn rows() -> Vec<Row<Work>> {
    use Work::*;
    let fault = Plant::Machine;
    let wrong_phase = |site| Plant::Machine(Fault::WrongPhase(site));
    let tx = |delta| {
        Plant::Machine(Fault::TxCount {
            site: Site::StageFull,
            delta,
        })
    };
    vec![
        // The mainloop.
        row(
            "mbarriers used before they are there",
            machine(Site::SetupBarrier),
            Tiles,
            4,
        ),
        row("no wait for a stage's bytes", machine(Site::StageFull), Tiles, 4),
        row(
            "a stage waited for by the wrong phase",
            wrong_phase(Site::StageFull),
            Tiles,
            4,
        ),
        row("a stage that expects 16 bytes more", tx(16), Tiles, 4),
        row("a stage that expects 16 bytes less", tx(-16), Tiles, 4),
        row("a stage filled before it is read", machine(Site::StageEmpty), Tiles, 4),
        row(
            "an empty stage waited for by the wrong phase",
            wrong_phase(Site::StageEmpty),
            Tiles,
            4,
        ),
        row(
            "a stage given back before wgmma has read it",
            machine(Site::WgmmaWait),
            Tiles,
            4,
        ),
        // Clusters.
        row(
            "a pair that starts before its partner",
            machine(Site::ClusterStart),
            Pairs,
            4,
        ),
        row(
            "a pair that leaves before its partner",
            machine(Site::ClusterEnd),
            Pairs,
            8,
        ),
        row(
            "a pair's stage filled before both have read",
            machine(Site::StageEmpty),
            Pairs,
            4,
        ),
        row("a pair's stage not waited for", machine(Site::StageFull), Pairs, 4),
        row("a pair's wgmma not waited for", machine(Site::WgmmaWait), Pairs, 4),
        // Output chunks.
        row(
            "partials not fenced before the bulk copy",
            machine(Site::ChunkFence),
            Tiles,
            4,
        ),
        row(
            "output not fenced before the bulk copy",
            machine(Site::ChunkFence),
            Rows,
            4,
        ),
        row(
            "a chunk copied before it is written",
            machine(Site::ChunkFull),
            Tiles,
            4,
        ),
        row(
            "a chunk waited for by the wrong phase",
            wrong_phase(Site::ChunkFull),
            Tiles,
            4,
        ),
        row(
            "a chunk given back before it is read",
            machine(Site::ChunkRead),
            Tiles,
            4,
        ),
        row(
            "an output chunk given back before it is read",
            machine(Site::ChunkRead),
            Gemm,
            4,
        ),
        row(
            "a chunk written before it is given back",
            machine(Site::ChunkEmpty),
            Tiles,
            4,
        ),
        row(
            "an empty chunk waited for by the wrong phase",
            wrong_phase(Site::ChunkEmpty),
            Tiles,
            4,
        ),
        row(
            "a tile's flag before its bulk copies",
            machine(Site::BulkWait),
            Tiles,
            4,
        ),
        row(
            "a tile's flag when its copies are read",
            fault(Fault::ReadForFull(Site::BulkWait)),
            Tiles,
            4,
        ),
        // Gathered rows.
        row("gathered rows not fenced before TMA", machine(Site::RowsFence), Rows, 4),
        row(
            "a round's credit before its rows are read",
            machine(Site::RoundRead),
            RowRounds,
            4,
        ),
        row(
            "a round's end waited for by the wrong phase",
            wrong_phase(Site::RoundRead),
            RowRounds,
            4,
        ),
        row("acquire of rows dropped", machine(Site::TileAcquire), Rows, 4),
        row("release of rows dropped", machine(Site::TileRelease), Rows, 4),
        row("no wait for rows", machine(Site::TilePoll), Rows, 8),
        row(
            "no barrier before the rows' release",
            machine(Site::TileBarrier),
            Rows,
            4,
        ),
        row(
            "the rows' flag raised before them",
            fault(Fault::EarlySignal(Site::TileRelease)),
            Rows,
            4,
        ),
        row(
            "no barrier after a credit's acquire",
            machine(Site::CreditBarrier),
            RowRounds,
            4,
        ),
        row(
            "no barrier after the hellos' acquire, rows",
            machine(Site::AgreeBarrier),
            RowRounds,
            4,
        ),
        // The protocol among roles.
        row("release of a tile dropped", machine(Site::TileRelease), Tiles, 4),
        row("acquire of a tile dropped", machine(Site::TileAcquire), Tiles, 4),
        row(
            "no barrier before a result's release",
            machine(Site::TileBarrier),
            Tiles,
            8,
        ),
        row(
            "no barrier after a tile's acquire",
            machine(Site::TileAcquired),
            Tiles,
            4,
        ),
        row("no wait for a tile", machine(Site::TilePoll), Tiles, 4),
        row(
            "a tile's flag raised before its data",
            fault(Fault::EarlySignal(Site::TileRelease)),
            Tiles,
            4,
        ),
        row("release of the hello dropped", machine(Site::HelloSend), Tiles, 20),
        row("acquire of the hello dropped", machine(Site::HelloAcquire), Tiles, 20),
        row("no wait for the hello", machine(Site::HelloPoll), Tiles, 4),
        row(
            "count of a round's CTAs relaxed",
            machine(Site::CreditArrive),
            Rounds,
            8,
        ),
        row("release of a credit dropped", machine(Site::CreditRelease), Rounds, 4),
        row("acquire of a credit dropped", machine(Site::CreditAcquire), Rounds, 4),
        row("no wait for a credit", machine(Site::CreditPoll), Rounds, 4),
        row(
            "no barrier before a round is retired",
            machine(Site::RetireBarrier),
            Rounds,
            4,
        ),
        row("count of leaving CTAs relaxed", machine(Site::LastArrive), Tiles, 4),
        row("roles that end alone", machine(Site::LastBarrier), Tiles, 4),
        row("no barrier before the end", machine(Site::EndBarrier), Tiles, 4),
        row("single-buffered staging", Plant::SingleBuffer, Tiles, 4),
        // CTAs that only reduce.
        row("a reducer's tile not waited for", machine(Site::TilePoll), Reducers, 4),
        row("a reducer's acquire dropped", machine(Site::TileAcquire), Reducers, 4),
        row(
            "no barrier after a reducer's acquire",
            machine(Site::TileAcquired),
            Reducers,
            4,
        ),
        row(
            "no barrier before a reducer's release",
            machine(Site::TileBarrier),
            Reducers,
            4,
        ),
        row(
            "a reducer's tile flagged before its copies",
            machine(Site::BulkWait),
            Reducers,
            4,
        ),
        row(
            "count of leaving reducers relaxed",
            machine(Site::LastArrive),
            Reducers,
            4,
        ),
        row(
            "count of a round's reducers relaxed",
            machine(Site::CreditArrive),
            ReducerRounds,
            8,
        ),
        row(
            "a reducer's credit not waited for",
            machine(Site::CreditPoll),
            ReducerRounds,
            4,
        ),
        row(
            "release of a reducer's credit dropped",
            machine(Site::CreditRelease),
            ReducerRounds,
            4,
        ),
        row(
            "no barrier before a reducer's retirement",
            machine(Site::RetireBarrier),
            ReducerRounds,
            4,
        ),
        // Few rows.
        row("no wait for a slim stage's bytes", machine(Site::StageFull), Slim, 4),
        row(
            "a slim stage filled before it is read",
            machine(Site::StageEmpty),
            Slim,
            4,
        ),
        row("slim products not waited for", machine(Site::WgmmaWait), Slim, 4),
        row(
            "a slim pair that leaves before its partner",
            machine(Site::ClusterEnd),
            Slim,
            8,
        ),
        row("no wait for a packet", machine(Site::PacketPoll), Slim, 8),
        row("count of a block's splits relaxed", machine(Site::SplitArrive), Slim, 4),
        row(
            "no barrier before a split is counted",
            machine(Site::SplitBarrier),
            Slim,
            4,
        ),
        row(
            "no barrier after a split is counted",
            machine(Site::SplitArrived),
            Slim,
            4,
        ),
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
        Work::Rounds,
        Work::Pairs,
        Work::Rows,
        Work::RowRounds,
        Work::Gemm,
        Work::Slim,
        Work::Reducers,
        Work::ReducerRounds,
    ];
    nothing_caught(&all, 8, caught);
}
