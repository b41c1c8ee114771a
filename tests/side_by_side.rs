//! All-gathers of columns: every rank gets the ranks' matrices side by side, bit for bit, for any number of ranks, ragged, in one
//! round and in several; exactly the bytes that the plan states travel, and no less order than it takes is kept.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tileweave::driver::sim::{Fault, SimNode, Site};
use tileweave::{Axis, DType, Error, GroupConfig, Node, Op, OpSpec, Path, Rank, Result, Want, reference};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

prop_compose! {
    fn case()(
        world in 1usize..=16, m in prop_oneof![2 => 0usize..8, 2 => 8usize..90, 1 => 90usize..300],
        n in prop_oneof![3 => 0usize..40, 2 => 40usize..300, 1 => 300usize..1500], dtype in prop::sample::select(DTYPES.to_vec()),
        gap in prop_oneof![2 => Just(0usize), 1 => 1usize..9], data_seed in any::<u64>(),
    ) -> Case {
        let m = if n > 300 { m.min(60) } else { m };
        Case::new(Op::AllGather, world, m, n, 0, dtype).side_by_side().gap(gap).data(data_seed)
    }
}

/// What the contract promises, told without the reference's help: element [row, col] is that of the rank that has the column.
fn right(c: &Case, data: &Data, results: &[Vec<u8>]) {
    let step = c.n.div_ceil(c.world).max(1);
    let at = |row: usize, col: usize| {
        let rank = col / step;
        data.inputs[rank][row * c.n_of(rank).len() + col % step]
    };
    let all: Vec<f64> = (0..c.m)
        .flat_map(|row| (0..c.n).map(move |col| (row, col)))
        .map(|(r, c)| at(r, c))
        .collect();
    let all = reference::encode(c.dtype, &all);
    for (rank, result) in results.iter().enumerate() {
        assert!(*result == all, "{c:?}: rank {rank}");
    }
}

/// Bytes that each rank has sent, and the machine has seen, since `before`.
fn sent(node: &Node, ranks: &[Rank]) -> Vec<u64> {
    check_traffic(node, ranks);
    ranks.iter().map(|rank| rank.stats().bytes_sent()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40 * deep() as u32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_column_from_its_rank(c in case(), seed in any::<u64>(), small in any::<bool>()) {
        let data = Data::new(&c);
        let node = node(c.world, seed);
        let ranks = if small {
            let heap = smallest_heap(&node, &c, Path::Unfused);
            node.group(c.world, &GroupConfig::default().one_shot_bytes(0).heap_bytes(heap)).unwrap()
        } else {
            group_for(&node, &c).unwrap()
        };
        // Twice: the second operation begins in the other half.
        for turn in 1..=2 {
            let results = run_on(&ranks, &c, &data, Path::Unfused).unwrap();
            right(&c, &data, &results);
            judge(&c, &data, &results, "side by side");
            for (rank, sent) in sent(&node, &ranks).into_iter().enumerate() {
                let own = c.m * c.n_of(rank).len() * c.dtype.size() * (c.world - 1);
                let stated = ranks[rank].plan(&c.spec(rank, Path::Unfused)).unwrap().bytes_sent(c.m);
                prop_assert!(stated == Some(own as u64) && sent == turn * own as u64, "rank {rank}: {stated:?}, {sent}");
            }
        }
    }
}

/// Many rows, which go to one peer after the other.
#[test]
fn in_turn() {
    let c = Case::new(Op::AllGather, 3, 700, 3 * 400 - 7, 0, DType::F32).side_by_side();
    let data = Data::new(&c);
    right(&c, &data, &run(&c, Path::Unfused, 4).unwrap());
}

fn planned(ranks: &[Rank], c: &Case) -> Result<Vec<(tileweave::Plan, Loaded)>> {
    let data = Data::new(c);
    let of = |rank: &Rank| {
        let plan = rank.plan(&c.spec(rank.rank(), Path::Unfused))?;
        Ok((plan, Loaded::new(rank, c, &data)?))
    };
    ranks.iter().map(of).collect()
}

/// A gather of rows is another operation: ranks that mix them up are told so.
#[test]
fn ranks_must_agree_on_the_axis() {
    // Of one column a rank, and as many rows as ranks, all sizes of both are alike.
    for seed in 0..4 {
        let rows = Case::new(Op::AllGather, 2, 2, 2, 0, DType::Bf16);
        let columns = rows.clone().side_by_side();
        let node = node(2, seed);
        let ranks = group_for(&node, &rows).unwrap();
        let mut loaded = planned(&ranks[..1], &rows).unwrap();
        loaded.extend(planned(&ranks, &columns).unwrap().into_iter().skip(1));
        for (plan, l) in &mut loaded {
            l.launch(plan, 2).unwrap();
        }
        for rank in &ranks {
            let end = rank.synchronize();
            let Err(Error::Disagreed { ours, theirs, .. }) = end else {
                panic!("{end:?}");
            };
            let of_columns = |said: &str| said.starts_with("all-gather of M 2, N 2 side by side (");
            assert!(of_columns(&ours) != of_columns(&theirs), "{ours}; {theirs}");
        }
    }
}

/// What a rank brings is checked against its own part.
#[test]
fn what_is_refused() {
    let node = node(3, 0);
    let ranks = node.group(3, &GroupConfig::default()).unwrap();
    let spec = OpSpec::new(Op::AllGather, 7, 0, 8, DType::F32).axis(Axis::Columns);
    for (rank, own) in [3, 3, 1].into_iter().enumerate() {
        let plan = ranks[rank].plan(&spec).unwrap();
        let slab = |cols: usize| Slab::new(&ranks[rank], 4, cols, 0, DType::F32, None).unwrap();
        let (whole, mut out) = (slab(7), slab(7));
        let operands = tileweave::Operands::plain(4, whole.mat().unwrap(), out.mat_mut().unwrap());
        assert_eq!(
            plan.launch(&operands).unwrap_err().to_string(),
            format!(
                "x is [4, 7]: expected [4, {own}] for all-gather (N = 7, f32, side by side) at M = 4 on rank {rank} of 3"
            )
        );
    }
    let nccl = ranks[0].plan(&spec.route(Want::Exactly(Path::Nccl)));
    assert!(matches!(nccl, Err(Error::RouteUnavailable { path: Path::Nccl, .. })));
}

/// `planted_faults.rs` for gathers of columns.
#[test]
fn every_planted_fault_is_caught() {
    let caught = |plant: Plant, small: bool, seed: u64| {
        let case = Case::new(Op::AllGather, 3, 300, 200, 0, DType::Bf16).side_by_side();
        let node = Node::new(Arc::new(SimNode::new(planted(plant, 3, seed)).unwrap()));
        let group = GroupConfig::default()
            .one_shot_bytes(0)
            .deadline(Duration::from_millis(50));
        let group = match small {
            true => group.heap_bytes(smallest_heap(&node, &case, Path::Unfused)),
            false => group.sized_for(&case.all_specs(), 3).unwrap(),
        };
        launches(&node.group(3, &group).unwrap(), &case, Path::Unfused, seed).err()
    };
    nothing_caught(&[false, true], 4, caught);
    let rows = [
        row("release of rows dropped", machine(Site::TileRelease), false, 2),
        row("acquire of rows dropped", machine(Site::TileAcquire), false, 2),
        row(
            "no barrier before the rows' release",
            machine(Site::TileBarrier),
            false,
            4,
        ),
        row(
            "no barrier after the rows' acquire",
            machine(Site::TileAcquired),
            false,
            4,
        ),
        row("no wait for rows", machine(Site::TilePoll), false, 2),
        row(
            "rows' flag raised before them",
            Plant::Machine(Fault::EarlySignal(Site::TileRelease)),
            false,
            4,
        ),
        row("both parities of staging in one place", Plant::SingleBuffer, true, 8),
    ];
    all_caught(&rows, caught);
}
