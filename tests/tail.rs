//! Residual and RMSNorm in an all-reduce's kernel: within the bound of the f64 reference, every bit as promised, and the same
//! on every rank, route, mainloop, exchange, grid and schedule.

mod common;

use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tileweave::{DType, Error, Exchange, GroupConfig, Mainloop, Op, Path, WaitKind, Wire};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

/// A row's columns: fewer than a thread's, odd, beyond a block, beyond a turn of all chains.
fn columns() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..150, 2 => 150usize..700, 1 => prop::sample::select(vec![256usize, 2047, 2048, 2049, 4100])]
}

prop_compose! {
    fn case()(
        gemm in any::<bool>(), world in 1usize..=8, m in prop_oneof![3 => 0usize..12, 2 => 12usize..150], n in columns(),
        k in 0usize..130, dtype in prop::sample::select(DTYPES.to_vec()), f32_wire in any::<bool>(), bias in any::<bool>(),
        addend in any::<bool>(), gap in prop_oneof![3 => Just(0usize), 1 => 1usize..9], data_seed in any::<u64>(),
        eps in prop::sample::select(vec![1e-5f32, 1e-6, 0.1]), unaligned in prop::option::weighted(0.3, 0usize..8),
    ) -> Case {
        let op = if gemm { Op::GemmAllReduce } else { Op::AllReduce };
        // Wide rows are few: the simulated node takes its time for each element.
        let m = if n > 700 { m.min(5) } else { m };
        let mut c = Case::new(op, world, m, n, k, dtype).gap(gap).data(data_seed).tail(eps);
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

proptest! {
    #![proptest_config(cases(60))]

    /// One-shot and two-shot, fused and unfused, grids of one CTA, of few, and of all that fit: one result. And it is what the
    /// same all-reduce without a tail gives, followed by the tail's arithmetic.
    #[test]
    fn one_result(c in case(), seed in any::<u64>(), few in 2u32..7) {
        let data = Data::new(&c);
        let plain = run(&Case { tail: None, ..c.clone() }, c.routes()[0], seed).unwrap();
        let y = tileweave::reference::decode(c.dtype, &plain[0]);
        let (h, _) = tileweave::reference::rms_norm_exactly(&y, &data.residual, &data.gamma, 0.0, c.n, c.dtype);
        let h = tileweave::reference::encode(c.dtype, &h);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            for (j, (one_shot, max_ctas)) in [(128 << 10, [0, 1][i]), (0, [few, 0][i])].into_iter().enumerate() {
                let node = node(c.world, seed.wrapping_add((2 * i + j) as u64));
                let ranks = group(&node, &c, one_shot, max_ctas);
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                let what = format!("{path}, one-shot to {one_shot} bytes, {max_ctas} CTAs");
                judge(&c, &data, &results, &what);
                prop_assert!(results[0][results[0].len() / 2..] == h, "{what}: not y + residual");
                check_traffic(&node, &ranks);
                if let Some(first) = &first {
                    prop_assert!(*first == results, "{what} differs");
                }
                first.get_or_insert(results);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// Several rounds in one launch, twice: the words where CTAs meet are left as they were found.
    #[test]
    fn several_rounds(c in case(), rows in 100usize..300, seed in any::<u64>()) {
        let c = Case { m: rows, n: c.n.clamp(1, 100), world: c.world.min(4), ..c };
        same_in_several_rounds(&c, seed);
    }
}

/// Both mainloops within their own bits, and every exchange: pulls give the bits of pushes; of the switch, ranks alone agree.
#[test]
fn mainloops_and_exchanges() {
    for (m, n, reducers) in [(20, 200, 0), (150, 264, 0), (300, 136, 2), (140, 130, 0)] {
        for mainloop in [Mainloop::Portable, Mainloop::Hopper] {
            let c = Case::new(Op::GemmAllReduce, 3, m, n, 3 * 64, DType::Bf16).mainloop(mainloop);
            let c = c.reducers(reducers).tail(1e-5).bias();
            same_by_every_exchange(&c);
        }
    }
}

/// Where the switch adds, the tail is what it is elsewhere.
#[test]
fn after_the_switch() {
    for op in [Op::GemmAllReduce, Op::AllReduce] {
        for seed in 0..3 {
            let c = Case::new(op, 4, 40, 300, 4 * 64, DType::Bf16)
                .exchange(Exchange::InSwitch)
                .tail(1e-6);
            in_switch(&c, seed);
        }
    }
}

/// Plain all-reduce over its own input.
#[test]
fn in_place() {
    for (m, n, gap) in [(1, 300, 0), (7, 129, 0), (40, 64, 3)] {
        let c = Case::new(Op::AllReduce, 3, m, n, 0, DType::F16).gap(gap).tail(1e-5);
        let data = Data::new(&c);
        let apart = run(&c, Path::Unfused, 1).unwrap();
        let node = node(3, 2);
        let ranks = group_for(&node, &c).unwrap();
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        for (rank, l) in ranks.iter().zip(&mut loaded) {
            l.launch_in_place(&rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap(), m)
                .unwrap();
        }
        for (rank, (l, want)) in ranks.iter().zip(loaded.iter().zip(&apart)) {
            rank.synchronize().unwrap();
            assert_eq!(l.result_in_place().unwrap(), *want, "{m} x {n} on rank {}", rank.rank());
        }
    }
}

/// The offsets of the words where CTAs meet: how many have arrived, and the last operation whose CTAs have met.
const MET: u64 = std::mem::offset_of!(tileweave::abi::TwControl, met_ctas) as u64;

/// A rank that never launches: the others name it, their rows are NaN, and their CTAs have met all the same.
#[test]
fn a_failure_ends_the_tail_too() {
    for (seed, one_shot) in (0..8u64).map(|seed| (seed, [0, 64 << 10][seed as usize % 2])) {
        let op = [Op::GemmAllReduce, Op::AllReduce][seed as usize / 2 % 2];
        let c = Case::new(op, 3, 20, 140, 3 * 64, DType::Bf16).tail(1e-5);
        let node = node(3, seed);
        let config = GroupConfig::default()
            .one_shot_bytes(one_shot)
            .deadline(Duration::from_millis(20));
        let ranks = node.group(3, &config.sized_for(&c.all_specs(), 3).unwrap()).unwrap();
        let data = Data::new(&c);
        let silent = seed as usize % 3;
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        // Twice: the second launch begins with the abort word raised.
        for _ in 0..2 {
            for (rank, l) in ranks.iter().zip(&mut loaded).filter(|(r, _)| r.rank() != silent) {
                l.launch(&rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap(), c.m)
                    .unwrap();
            }
        }
        let others = || ranks.iter().zip(&loaded).filter(|(r, _)| r.rank() != silent);
        for (rank, _) in others() {
            let Err(Error::Wait { root, .. }) = rank.synchronize() else {
                panic!()
            };
            assert_eq!(root.peer, silent, "{root}");
        }
        for (rank, l) in others() {
            let mut words = [0u8; 16];
            node.driver().peek(&mut words, rank.heap_address() + MET).unwrap();
            let words = words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
            assert_eq!(words.collect::<Vec<_>>(), [0, 2], "rank {}", rank.rank());
            let got = tileweave::reference::decode(c.dtype, &l.out.read().unwrap());
            assert!(got.iter().all(|value| value.is_nan()), "rank {}", rank.rank());
        }
    }
}

/// Where CTAs are miscounted, so that nobody is the last to come, the wait for the others is bounded, too.
#[test]
fn ctas_that_do_not_all_come_are_an_error() {
    let c = Case::new(Op::AllReduce, 1, 64, 700, 0, DType::Bf16).tail(1e-5);
    for seed in 0..4 {
        let node = node(1, seed);
        let config = GroupConfig::default().deadline(Duration::from_millis(20));
        let ranks = node.group(1, &config).unwrap();
        let mut loaded = Loaded::new(&ranks[0], &c, &Data::new(&c)).unwrap();
        let counted = ranks[0].heap_address() + MET;
        node.driver().poke(counted, &1000u32.to_le_bytes()).unwrap();
        loaded
            .launch(&ranks[0].plan(&c.spec(0, c.routes()[0])).unwrap(), c.m)
            .unwrap();
        let failed = ranks[0].synchronize();
        let Err(Error::Wait { root, verdict, .. }) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!((root.rank, root.peer, root.kind), (0, 0, WaitKind::Ctas), "{root}");
        assert!(verdict.contains("not all CTAs of rank 0"), "{verdict}");
    }
}

/// Ranks of other tails say so, and so do ranks whose rows have other lengths in a flat all-reduce of as many elements.
#[test]
fn ranks_must_agree_on_the_tail() {
    let base = Case::new(Op::AllReduce, 2, 8, 64, 0, DType::Bf16).tail(1e-5);
    for other in [
        Case {
            tail: None,
            ..base.clone()
        },
        base.clone().tail(1e-6),
        Case {
            m: 16,
            n: 32,
            ..base.clone()
        },
    ] {
        let node = node(2, 1);
        let ranks = group(&node, &base, 64 << 10, 0);
        let mut loaded = Vec::new();
        for (rank, c) in ranks.iter().zip([&base, &other]) {
            let mut l = Loaded::new(rank, c, &Data::new(c)).unwrap();
            l.launch(&rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap(), c.m)
                .unwrap();
            loaded.push(l);
        }
        for rank in &ranks {
            let Err(Error::Disagreed { ours, theirs, .. }) = rank.synchronize() else {
                panic!()
            };
            assert!(
                ours != theirs && ours.contains("residual and RMSNorm, eps 1e-5"),
                "{ours} and {theirs}"
            );
        }
    }
}
