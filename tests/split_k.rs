//! GEMMs of at most 128 rows whose K is split over CTAs: within the bound, the same bits on every route, grid and machine,
//! whatever the ranks' shares of K; and at rest afterwards, after a failure too.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Node, Op, Path, Rank, Result, Wire};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

prop_compose! {
    /// Each rank's share of K is long enough for two splits or more, or just not; rarely the same on all ranks.
    fn case()(
        op in prop::sample::select(vec![Op::GemmAllReduce, Op::GemmAllReduce, Op::GemmReduceScatter, Op::AllGatherGemm]),
        world in 1usize..=8, m in prop_oneof![3 => 1usize..=20, 1 => 1usize..=128], n in 1usize..=140, share in 500usize..1500,
        dtype in prop::sample::select(DTYPES.to_vec()), f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(),
        gap in prop_oneof![3 => Just(0usize), 1 => 1usize..9], data_seed in any::<u64>(), less in 0usize..8,
    ) -> Case {
        let reduces = op != Op::AllGatherGemm;
        let k = if reduces { share * world - less } else { share };
        let mut c = Case::new(op, world, m, n, k, dtype).gap(gap).data(data_seed);
        c.bias = bias;
        c.addend = addend && reduces;
        c.wire = if f32_wire && reduces { Wire::F32 } else { Wire::Output };
        c
    }
}

fn group(node: &Node, c: &Case, one_shot: usize, max_ctas: u32) -> Vec<Rank> {
    let config = GroupConfig::default().one_shot_bytes(one_shot).max_ctas(max_ctas);
    node.group(c.world, &config.sized_for(&c.all_specs(), c.world).unwrap())
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// One-shot and two-shot, fused and unfused, grids of one CTA, of few, and of all that fit: one result.
    #[test]
    fn one_result(c in case(), seed in any::<u64>(), few in 2u32..7) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            let grids = [(128 << 10, 0), (128 << 10, [1, few][i]), (0, [few, 1][i])];
            for (j, (one_shot, max_ctas)) in grids.into_iter().enumerate() {
                let node = node(c.world, seed.wrapping_add((3 * i + j) as u64));
                let ranks = group(&node, &c, one_shot, max_ctas);
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                let what = format!("{path}, one-shot to {one_shot} bytes, {max_ctas} CTAs");
                judge(&c, &data, &results, &what);
                check_traffic(&node, &ranks);
                if let Some(first) = &first {
                    prop_assert!(*first == results, "{what} differs");
                }
                first.get_or_insert(results);
            }
        }
    }
}

/// What a launch was told about splits: kernel, splits, CTAs, where its counters are.
type Seen = Arc<Mutex<Vec<(String, u32, u32, u64)>>>;

/// A simulated node of devices with `sms` SMs that notes every launch.
fn watched(world: usize, seed: u64, sms: u32) -> (Node, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let mut config = SimConfig::new(world, seed);
    config.sms = sms;
    config.launch_hook = Some(Arc::new(move |launch, p| {
        let entry = (launch.kernel.to_string(), p.splits, launch.launch.grid, p.split_space);
        log.lock().unwrap().push(entry);
    }));
    (Node::new(Arc::new(SimNode::new(config).unwrap())), seen)
}

/// The counters of every launch seen are at rest.
#[track_caller]
fn at_rest(node: &Node, seen: &Seen) {
    let spaces: BTreeSet<u64> = seen.lock().unwrap().iter().map(|entry| entry.3).collect();
    assert!(spaces.iter().any(|at| *at != 0), "no K was split over CTAs");
    for at in spaces.into_iter().filter(|at| *at != 0) {
        let mut counters = vec![0xff; 8 * tileweave::abi::TW_SPLIT_BLOCKS as usize];
        node.driver().peek(&mut counters, at).unwrap();
        assert!(counters.iter().all(|byte| *byte == 0), "{counters:?}");
    }
}

/// Splits, and with them bits, are the shape's, not the machine's.
#[test]
fn the_machine_does_not_matter() {
    for (m, dtype) in [(5, DType::Bf16), (70, DType::F16), (9, DType::F32)] {
        let c = Case::new(Op::GemmAllReduce, 3, m, 130, 3 * 1100, dtype).addend().bias();
        let data = Data::new(&c);
        let mut first = None;
        for (sms, max_ctas) in [(1, 0), (2, 1), (5, 0), (16, 0), (16, 7)] {
            for path in c.routes() {
                let (node, seen) = watched(3, u64::from(sms), sms);
                let ranks = group(&node, &c, 64 << 10, max_ctas);
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                assert_eq!(
                    *first.get_or_insert_with(|| results.clone()),
                    results,
                    "{sms} SMs, {path}"
                );
                at_rest(&node, &seen);
                let gemms = seen.lock().unwrap().clone();
                for (kernel, splits, grid, _) in gemms.iter().filter(|entry| entry.0.starts_with("gemm")) {
                    assert_eq!(*splits, if dtype == DType::F32 { 6 } else { 4 }, "{kernel}");
                    // Hopper's blocks have 128 columns, one CTA an SM, and two rows of them work in pairs. K is no
                    // multiple of 8 here, so TMA is out of reach, and small blocks stand in, in no larger a grid.
                    let across = if kernel.ends_with("_sm90") { 2 } else { 3 };
                    let blocks = across * m.div_ceil(64) as u32;
                    let on_sm = if dtype == DType::F32 || path == &Path::Unfused {
                        2
                    } else {
                        1
                    };
                    let most = if max_ctas == 0 { on_sm * sms } else { max_ctas };
                    let paired = dtype != DType::F32 && m > 64 && most > 1 && path == &Path::Fused;
                    let most = if paired { most / 2 * 2 } else { most };
                    assert_eq!(*grid, most.min(blocks * splits), "{kernel}");
                }
            }
        }
    }
}

/// Ranks with another number of splits than others, or with one: grids differ, and nobody minds.
#[test]
fn ranks_may_split_differently() {
    // 512, 512, 512 and 510 of K: two splits on three ranks, none on the last.
    let few = Case::new(Op::GemmAllReduce, 4, 40, 200, 2046, DType::Bf16);
    // 768 on one and 763 on the others' last.
    let more = Case::new(Op::GemmAllReduce, 6, 3, 64, 6 * 768 - 5, DType::F16).addend();
    for (c, want) in [(few, [1, 2]), (more, [2, 3])] {
        let data = Data::new(&c);
        let mut first = None;
        for seed in 0..6 * deep() as u64 {
            for path in c.routes() {
                let (node, seen) = watched(c.world, seed, 2);
                let ranks = group(&node, &c, 64 << 10, [0, 1][seed as usize % 2]);
                for _ in 0..2 {
                    let results = run_on(&ranks, &c, &data, *path).unwrap();
                    judge(&c, &data, &results, "ragged splits");
                    assert_eq!(*first.get_or_insert_with(|| results.clone()), results, "{path}");
                }
                check_traffic(&node, &ranks);
                at_rest(&node, &seen);
                let gemms = seen.lock().unwrap().clone();
                let splits = gemms
                    .iter()
                    .filter(|entry| entry.0.starts_with("gemm"))
                    .map(|entry| entry.1);
                assert_eq!(splits.collect::<BTreeSet<_>>(), BTreeSet::from(want));
            }
        }
    }
}

/// Many operations in one group, of every M up to and beyond where K is split, fused and not: what one leaves behind in the
/// space of products, in packets or in scratch does not reach the next.
#[test]
fn many_operations_on_one_group() {
    let most = Case::new(Op::GemmAllReduce, 2, 140, 100, 2 * 600, DType::Bf16);
    let (node, seen) = watched(2, 11, 3);
    let ranks = group(&node, &most, 16 << 10, 0);
    let mut rng = Rng(3);
    for i in 0..60 * deep() {
        let m = [1 + rng.below(40), 128, 129, 64 + rng.below(70)][rng.below(4)];
        let c = Case { m, ..most.clone() }.data(rng.next());
        let data = Data::new(&c);
        let path = c.routes()[rng.below(2)];
        let results = run_on(&ranks, &c, &data, path).unwrap();
        judge(&c, &data, &results, &format!("operation {i}, {path}"));
    }
    check_traffic(&node, &ranks);
    at_rest(&node, &seen);
}

/// A rank that never launches: the others name it, and their counters are at rest all the same.
#[test]
fn a_failure_leaves_counters_at_rest() {
    for seed in 0..6 {
        let c = Case::new(Op::GemmAllReduce, 3, 20, 140, 3 * 1024, DType::Bf16);
        let (node, seen) = watched(3, seed, 2);
        let config = GroupConfig::default()
            .one_shot_bytes(64 << 10)
            .deadline(Duration::from_millis(20));
        let ranks = node.group(3, &config.sized_for(&c.all_specs(), 3).unwrap()).unwrap();
        let data = Data::new(&c);
        let silent = seed as usize % 3;
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        // Twice: the second launch begins with the abort word raised.
        for _ in 0..2 {
            for (rank, l) in ranks.iter().zip(&mut loaded).filter(|(r, _)| r.rank() != silent) {
                l.launch(&rank.plan(&c.spec(rank.rank(), Path::Fused)).unwrap(), c.m)
                    .unwrap();
            }
        }
        // Those that wait, first.
        let silent_last = ranks.iter().filter(|r| r.rank() != silent).chain([&ranks[silent]]);
        for rank in silent_last {
            let end: Result<()> = rank.synchronize();
            let Err(Error::Wait { root, .. }) = end else {
                panic!("rank {}: {end:?}", rank.rank());
            };
            assert_eq!(root.peer, silent, "{root}");
        }
        at_rest(&node, &seen);
        for (rank, l) in ranks.iter().zip(&loaded).filter(|(r, _)| r.rank() != silent) {
            let got = tileweave::reference::decode(c.dtype, &l.out.read().unwrap());
            assert!(got.iter().all(|value| value.is_nan()), "rank {}", rank.rank());
        }
    }
}
