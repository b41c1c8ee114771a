//! `failures.rs` for the Hopper kernels, whose roles give up one by one: in one round and in several, alone and in pairs. The
//! culprit is named, outputs that lack a part are NaN, nothing hangs, and the node serves the next group.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tileweave::driver::sim::{Fault, SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Mainloop, Node, Op, Path, Plan, Rank, reference};

const GEMMS: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];
const WORLD: usize = 3;

fn node(seed: u64, faults: Vec<Fault>) -> Node {
    let mut config = SimConfig::new(WORLD, seed);
    config.faults = faults;
    Node::new(Arc::new(SimNode::new(config).unwrap()))
}

/// What fails: in one round; in several; by pairs of CTAs; few rows, one-shot, by pairs that share K; where some CTAs only
/// reduce, in one round and in several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    One,
    Several,
    Pairs,
    Slim,
    Reducers,
    ReducerRounds,
}
const SIZES: [Size; 6] = [
    Size::One,
    Size::Several,
    Size::Pairs,
    Size::Slim,
    Size::Reducers,
    Size::ReducerRounds,
];

fn case(op: Op, size: Size) -> Case {
    let m = match size {
        Size::One | Size::Reducers => 200,
        Size::ReducerRounds => 700,
        // Six blocks an owner, or a source, or a column.
        Size::Several if op == Op::GemmAllReduce => 700,
        Size::Several => 3 * 700,
        Size::Pairs if op == Op::GemmAllReduce => 1030,
        Size::Pairs => 3 * 1030,
        Size::Slim => 100,
    };
    let k = if size == Size::Slim { 1024 } else { 16 };
    let reducers = if matches!(size, Size::Reducers | Size::ReducerRounds) {
        2
    } else {
        0
    };
    Case::new(op, WORLD, m, 130, WORLD * k, DType::Bf16)
        .mainloop(Mainloop::Hopper)
        .reducers(reducers)
}

fn config(size: Size) -> GroupConfig {
    let one_shot = if size == Size::Slim { 64 << 10 } else { 0 };
    GroupConfig::default()
        .one_shot_bytes(one_shot)
        .deadline(Duration::from_millis(20))
}

fn group(node: &Node, c: &Case, size: Size) -> Vec<Rank> {
    let config = match size {
        Size::Several | Size::ReducerRounds => config(size).heap_bytes(smallest_heap(node, c, Path::Fused)),
        _ => config(size).sized_for(&c.all_specs(), c.world).unwrap(),
    };
    node.group(c.world, &config).unwrap()
}

fn plan(rank: &Rank, c: &Case) -> Plan {
    rank.plan(&c.spec(rank.rank(), Path::Fused)).unwrap()
}

/// Launches `c` on the ranks of `on`.
fn launch(ranks: &[Rank], c: &Case, on: &[usize]) -> Vec<Loaded> {
    let data = Data::new(c);
    let one = |r: &usize| {
        let mut loaded = Loaded::new(&ranks[*r], c, &data).unwrap();
        loaded.launch(&plan(&ranks[*r], c), c.m).unwrap();
        loaded
    };
    on.iter().map(one).collect()
}

/// A new group on the node does `c` right.
fn goes_on(node: &Node, c: &Case, size: Size) {
    let ranks = group(node, c, size);
    let data = Data::new(c);
    judge(c, &data, &run_on(&ranks, c, &data, Path::Fused).unwrap(), "a new group");
}

fn each(body: impl Fn(Op, Size, &str)) {
    for op in GEMMS {
        for size in SIZES {
            if matches!(size, Size::One | Size::Several | Size::Pairs) || op == Op::GemmAllReduce {
                body(op, size, &format!("{op} {size:?}"));
            }
        }
    }
}

/// A rank that never launches is named by all. What needs nothing of it is right, the rest of the outputs is NaN.
#[test]
fn a_silent_rank() {
    each(|op, size, what| {
        let (c, silent) = (case(op, size), 1);
        let node = node(3, Vec::new());
        let ranks = group(&node, &c, size);
        let loaded = launch(&ranks, &c, &[0, 2]);
        for rank in &ranks {
            match rank.synchronize() {
                Err(Error::Wait { root, chain, verdict }) => {
                    assert_eq!((root.peer, root.epoch), (silent, 1), "{what}: {root}; {verdict}");
                    assert!(!chain.is_empty() && chain.iter().all(|w| w.rank != silent), "{what}");
                }
                other => panic!("{what}, rank {}: {other:?}", rank.rank()),
            }
        }
        for (rank, l) in [0, 2].into_iter().zip(&loaded) {
            let out = reference::decode(DType::Bf16, &l.out.read().unwrap());
            let (_, cols) = c.part(rank);
            let nan = out.iter().filter(|v| v.is_nan()).count();
            if op == Op::AllGatherGemm {
                // Its own rows it has multiplied, unless it gave up before: whole rows either way.
                let rows_nan = out
                    .chunks_exact(cols.len())
                    .filter(|row| row.iter().all(|v| v.is_nan()))
                    .count();
                assert_eq!(rows_nan * cols.len(), nan, "{what}: rows that are NaN in part");
                assert!(rows_nan >= c.m_of(silent).len(), "{what}: {rows_nan} rows");
            } else {
                // Every element is a sum over all ranks.
                assert_eq!(nan, out.len(), "{what}, rank {rank}");
            }
        }
        drop((loaded, ranks));
        goes_on(&node, &c, size);
    });
}

/// Nothing that rank 1 signals reaches rank 0: rank 0 waits for it, and it is rank 1 that is named.
#[test]
fn lost_signals() {
    each(|op, size, what| {
        for seed in 0..2 {
            let c = case(op, size);
            let node = node(seed, vec![Fault::DropSignals { from: 1, to: 0 }]);
            let ranks = group(&node, &c, size);
            let loaded = launch(&ranks, &c, &[0, 1, 2]);
            for rank in &ranks {
                match rank.synchronize() {
                    Err(Error::Wait { root, .. }) => assert_eq!((root.rank, root.peer), (0, 1), "{what}: {root}"),
                    other => panic!("{what}, rank {}: {other:?}", rank.rank()),
                }
            }
            drop(loaded);
        }
    });
}

/// Another M, another type, other blocks on one rank: every rank is told both.
#[test]
fn ranks_that_disagree() {
    each(|op, size, what| {
        let c = case(op, size);
        let others = [
            (
                "M",
                Case {
                    m: c.m - 1,
                    ..c.clone()
                },
            ),
            (
                "type",
                Case {
                    dtype: DType::F16,
                    ..c.clone()
                },
            ),
            ("mainloop", c.clone().mainloop(Mainloop::Portable)),
        ];
        for (which, other) in others {
            let node = node(5, Vec::new());
            let all = [c.all_specs(), other.all_specs()].concat();
            let ranks = node
                .group(WORLD, &config(size).sized_for(&all, WORLD).unwrap())
                .unwrap();
            let mut loaded = launch(&ranks, &c, &[0, 1]);
            loaded.extend(launch(&ranks, &other, &[2]));
            let ends: Vec<_> = ranks.iter().map(Rank::synchronize).collect();
            // Gathers of equal row blocks have nothing to disagree on: what a rank multiplies with is its own business.
            // Nor have packets, which lie by row.
            let may_agree = op == Op::AllGatherGemm && size != Size::One || size == Size::Slim;
            if which == "mainloop" && may_agree && ends.iter().all(Result::is_ok) {
                let results: Vec<_> = loaded.iter().map(|l| l.out.read().unwrap()).collect();
                judge(&c, &Data::new(&c), &results, what);
            } else {
                for end in ends {
                    match end {
                        Err(Error::Disagreed { ours, theirs, .. }) => assert_ne!(ours, theirs, "{what}, {which}"),
                        end => panic!("{what}, another {which}: {end:?}"),
                    }
                }
            }
            drop((loaded, ranks));
            goes_on(&node, &c, size);
        }
    });
}

/// A slow rank is late, not wrong.
#[test]
fn a_slow_rank() {
    for (op, size) in GEMMS.into_iter().zip([Size::Several, Size::One, Size::Pairs]) {
        let c = case(op, size);
        let node = node(5, vec![Fault::Slow { device: 1, factor: 20 }]);
        goes_on(&node, &c, size);
    }
}

/// The host gives up while kernels wait: they end long before their deadline, on every rank.
#[test]
fn an_abort() {
    each(|op, size, what| {
        let c = case(op, size);
        let node = node(1, Vec::new());
        let ranks = group(&node, &c, size);
        let loaded = launch(&ranks, &c, &[0, 2]);
        ranks[1].abort("shutting down");
        for rank in &ranks {
            let error = rank.synchronize().unwrap_err();
            assert_eq!(error.to_string(), "the group was aborted: shutting down", "{what}");
        }
        drop((loaded, ranks));
        goes_on(&node, &c, size);
    });
}

/// Rank 2 stays away from the second operation: the first one stands, the second names it.
#[test]
fn a_rank_that_stays_away_later() {
    each(|op, size, what| {
        let c = case(op, size);
        let node = node(7, Vec::new());
        let ranks = group(&node, &c, size);
        let first = launch(&ranks, &c, &[0, 1, 2]);
        let second = launch(&ranks, &c, &[0, 1]);
        for rank in &ranks {
            match rank.synchronize() {
                Err(Error::Wait { root, verdict, .. }) => {
                    assert_eq!(
                        (root.peer, root.epoch, root.op.as_str()),
                        (2, 2, op.name()),
                        "{what}: {root}"
                    );
                    assert_eq!(
                        verdict, "rank 2 never launched it: its last operation is epoch 1",
                        "{what}"
                    );
                }
                other => panic!("{what}, rank {}: {other:?}", rank.rank()),
            }
        }
        let results: Vec<_> = first.iter().map(|l| l.out.read().unwrap()).collect();
        judge(&c, &Data::new(&c), &results, what);
        drop(second);
    });
}
