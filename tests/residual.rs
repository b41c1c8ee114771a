//! A residual at the end of a sum over ranks: within the bound of the f64 reference, every bit of a plain sum as promised, and the
//! same bits on every route, algorithm, exchange, grid and schedule.

mod common;

use common::*;
use proptest::prelude::*;
use tileweave::{DType, Error, Exchange, Mainloop, Op, Path, Rank, Tail, Wire, reference};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];
const OPS: [Op; 4] = [
    Op::GemmAllReduce,
    Op::GemmReduceScatter,
    Op::AllReduce,
    Op::ReduceScatter,
];

prop_compose! {
    fn case()(
        op in prop::sample::select(OPS.to_vec()), world in 1usize..=8, m in prop_oneof![3 => 0usize..12, 2 => 12usize..150],
        n in prop_oneof![4 => 0usize..150, 1 => 150usize..700], k in 0usize..130, dtype in prop::sample::select(DTYPES.to_vec()),
        f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(), data_seed in any::<u64>(),
        gap in prop_oneof![3 => Just(0usize), 1 => 1usize..9], unaligned in prop::option::weighted(0.3, 0usize..8),
    ) -> Case {
        let gemm = op.has_gemm();
        let mut c = Case::new(op, world, m, n, k, dtype).gap(gap).data(data_seed).residual();
        c.bias = bias && gemm;
        c.addend = addend && gemm;
        c.unaligned = unaligned.filter(|rank| *rank < world);
        c.wire = if f32_wire && gemm { Wire::F32 } else { Wire::Output };
        c
    }
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: n * deep() as u32,
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    }
}

/// Every bit of a plain sum: in rank order, in f32, the residual last, rounded once.
fn exactly(c: &Case, data: &Data, rank: usize) -> Vec<u8> {
    let (rows, _) = c.part(rank);
    let element = |i: usize| {
        let sum = data.inputs[1..]
            .iter()
            .fold(data.inputs[0][i] as f32, |sum, part| sum + part[i] as f32);
        f64::from(sum + data.residual[i] as f32)
    };
    let all: Vec<f64> = (rows.start * c.n..rows.end * c.n).map(element).collect();
    reference::encode(c.dtype, &all)
}

proptest! {
    #![proptest_config(cases(40))]

    /// One-shot and two-shot, fused and unfused, pushed and pulled, grids of one CTA, of few, and of all that fit: one result; and
    /// no byte more than without a residual.
    #[test]
    fn one_result(c in case(), seed in any::<u64>(), few in 2u32..7, pulled in any::<bool>()) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            for (j, (one_shot, max_ctas)) in [(128 << 10, [0, 1][i]), (0, [few, 0][i])].into_iter().enumerate() {
                let c = if pulled && one_shot == 0 { c.clone().exchange(Exchange::Pull) } else { c.clone() };
                let node = node(c.world, seed.wrapping_add((2 * i + j) as u64));
                let ranks = group(&node, &c, one_shot, max_ctas);
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                let what = format!("{path}, one-shot to {one_shot} bytes, {max_ctas} CTAs");
                judge(&c, &data, &results, &what);
                check_traffic(&node, &ranks);
                for rank in ranks.iter().filter(|_| c.op != Op::AllReduce || c.gap == 0) {
                    let spec = c.spec(rank.rank(), *path);
                    let [with, without] = [spec.clone(), spec.tail(Tail::None)]
                        .map(|spec| rank.plan(&spec).unwrap().bytes_sent(c.m));
                    prop_assert!(with == without && with == Some(rank.stats().bytes_sent()), "{what}: {with:?}, {without:?}");
                }
                if !c.op.has_gemm() {
                    for (rank, result) in results.iter().enumerate() {
                        prop_assert!(*result == exactly(&c, &data, rank), "{what}: rank {rank}");
                    }
                }
                if let Some(first) = &first {
                    prop_assert!(*first == results, "{what} differs");
                }
                first.get_or_insert(results);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(8))]

    /// Several rounds in one launch.
    #[test]
    fn several_rounds(c in case(), rows in 100usize..300, seed in any::<u64>()) {
        let c = Case { m: rows, n: c.n.clamp(1, 100), world: c.world.min(4), ..c };
        same_in_several_rounds(&c, seed);
    }
}

/// Both mainloops within their own bits, whoever reduces; on a rank where vectors do not fit, too.
#[test]
fn mainloops_and_exchanges() {
    let sizes = [(20, 200, 0), (150, 264, 0), (300, 136, 2), (140, 130, 0), (400, 520, 0)];
    for op in [Op::GemmAllReduce, Op::GemmReduceScatter] {
        for (m, n, reducers) in sizes {
            for mainloop in [Mainloop::Portable, Mainloop::Hopper] {
                let c = Case::new(op, 3, m, n, 3 * 64, DType::Bf16)
                    .mainloop(mainloop)
                    .residual()
                    .bias();
                let c = if op == Op::GemmAllReduce {
                    c.reducers(reducers)
                } else {
                    c
                };
                same_by_every_exchange(&c);
            }
        }
    }
}

/// Behind sums of the switch it is added as elsewhere.
#[test]
fn after_the_switch() {
    for op in [Op::GemmAllReduce, Op::AllReduce] {
        for seed in 0..3 {
            let c = Case::new(op, 4, 40, 300, 4 * 64, DType::Bf16)
                .exchange(Exchange::InSwitch)
                .residual();
            in_switch(&c, seed);
        }
    }
}

/// Plain all-reduce over its own input.
#[test]
fn in_place() {
    for (m, n, gap) in [(1, 300, 0), (7, 129, 0), (40, 64, 3)] {
        let c = Case::new(Op::AllReduce, 3, m, n, 0, DType::F16).gap(gap).residual();
        let data = Data::new(&c);
        let node = node(3, 2);
        let ranks = group_for(&node, &c).unwrap();
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        for (rank, l) in ranks.iter().zip(&mut loaded) {
            l.launch_in_place(&rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap(), m)
                .unwrap();
        }
        for (rank, l) in ranks.iter().zip(&loaded) {
            rank.synchronize().unwrap();
            assert_eq!(
                l.result_in_place().unwrap(),
                exactly(&c, &data, 0),
                "{m} x {n} on rank {}",
                rank.rank()
            );
        }
    }
}

/// A residual with gaps between its rows keeps an all-reduce from being cut by elements, so ranks must have such gaps alike.
#[test]
fn gaps_of_a_residual_are_gaps() {
    let c = Case::new(Op::AllReduce, 2, 9, 70, 0, DType::Bf16).residual();
    for (seed, gaps) in [[0, 5], [5, 0], [5, 5], [0, 0]].into_iter().enumerate() {
        let data = Data::new(&c);
        let node = node(2, seed as u64);
        let ranks = group(&node, &c, 64 << 10, 0);
        let slab =
            |rank: &Rank, gap: usize, values: Option<&[f64]>| Slab::new(rank, c.m, c.n, gap, c.dtype, values).unwrap();
        let mut all: Vec<[Slab; 3]> = Vec::new();
        for (r, rank) in ranks.iter().enumerate() {
            let residual = slab(rank, gaps[r], Some(&data.residual));
            all.push([slab(rank, 0, Some(&data.inputs[r])), residual, slab(rank, 0, None)]);
        }
        for (rank, [x, residual, out]) in ranks.iter().zip(&mut all) {
            let operands = tileweave::Operands::plain(c.m, x.mat().unwrap(), out.mat_mut().unwrap());
            let plan = rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap();
            plan.launch(&operands.residual(residual.mat().unwrap())).unwrap();
        }
        for (rank, [.., out]) in ranks.iter().zip(&all) {
            let end = rank.synchronize();
            if gaps[0] == gaps[1] {
                end.unwrap();
                assert_eq!(out.read().unwrap(), exactly(&c, &data, 0));
            } else {
                let Err(Error::Disagreed { ours, theirs, .. }) = end else {
                    panic!("{end:?}")
                };
                assert!(
                    ours.contains(", residual, one-shot") && ours != theirs,
                    "{ours}; {theirs}"
                );
            }
        }
    }
}

/// Ranks with a residual and without say so.
#[test]
fn ranks_must_agree() {
    for op in OPS {
        let with = Case::new(op, 2, 8, 64, 16, DType::Bf16).residual();
        let without = Case {
            residual: false,
            ..with.clone()
        };
        let node = node(2, 1);
        let ranks = group(&node, &with, 0, 0);
        let mut loaded = Vec::new();
        for (rank, c) in ranks.iter().zip([&with, &without]) {
            let mut l = Loaded::new(rank, c, &Data::new(c)).unwrap();
            l.launch(&rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap(), c.m)
                .unwrap();
            loaded.push(l);
        }
        for rank in &ranks {
            let end = rank.synchronize();
            let Err(Error::Disagreed { ours, theirs, .. }) = end else {
                panic!("{op}: {end:?}")
            };
            assert_ne!(
                ours.contains(", residual"),
                theirs.contains(", residual"),
                "{ours} and {theirs}"
            );
        }
    }
}
