//! GELU and SwiGLU at the end of a GEMM, of a rank's own and behind a gather: the product has the bits that it has without, the
//! activation is within its bound of that, on both mainloops, every tile, type, layout, route, grid and schedule, saved or not.

mod common;

use common::*;
use proptest::prelude::*;
use tileweave::local::{Activate, Activation};
use tileweave::reference::{self, Expected};
use tileweave::{DType, Epilogue, Error, Gemm, GroupConfig, Layout, Mainloop, Op, OpSpec, Operands, Path, Rank, Want};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];
const BOTH: [Epilogue; 2] = [Epilogue::Gelu, Epilogue::SwiGlu];

/// What a kernel of its own makes of a product.
fn activated_alone(rank: &Rank, epilogue: Epilogue, pre: &Expected) -> Vec<u8> {
    let (rows, cols, dtype) = (pre.rows, pre.cols, pre.dtype);
    let x = Slab::new(rank, rows, cols, 0, dtype, Some(&pre.value)).unwrap();
    let mut y = Slab::new(rank, rows, epilogue.columns(cols), 0, dtype, None).unwrap();
    let activation = match epilogue {
        Epilogue::Gelu => Activation::Gelu,
        _ => Activation::SwiGlu,
    };
    let (x, y_mat) = (x.mat().unwrap(), y.mat_mut().unwrap());
    let activate = Activate {
        activation,
        x,
        y: y_mat,
    };
    activate.launch(rank).unwrap();
    rank.synchronize().unwrap();
    y.read().unwrap()
}

/// The bits of the product are those of a GEMM without an epilogue, saved or not the result is the same, and within bounds.
fn check_own(rank: &Rank, c: &Own) -> (Vec<u8>, Vec<u8>) {
    let data = Numbers::new(c);
    let (out, saved) = run_own(rank, c, &data, true).unwrap();
    let saved = saved.unwrap();
    let plain = Own {
        epilogue: Epilogue::None,
        ..c.clone()
    };
    assert!(
        run_own(rank, &plain, &data, false).unwrap().0 == saved,
        "{c:?}: another product"
    );
    assert!(
        run_own(rank, c, &data, false).unwrap().0 == out,
        "{c:?}: unsaved differs"
    );
    let got = reference::decode(c.dtype, &out);
    let pre = given(c.m, c.n, c.dtype, reference::decode(c.dtype, &saved));
    assert!(
        activated_alone(rank, c.epilogue, &pre) == out,
        "{c:?}: not what local::Activate gives"
    );
    for (what, pre) in [("of saved", &pre), ("of the exact product", &data.product(c))] {
        let compared = after(c.epilogue, pre).compare(0..c.m, 0..c.epilogue.columns(c.n), &got);
        assert!(compared.wrong.is_none(), "{c:?} {what}: {:?}", compared.wrong);
    }
    (out, saved)
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0usize..12, 3 => 0usize..140, 1 => prop::sample::select(vec![63usize, 64, 65, 127, 128, 129, 200, 260])]
}

prop_compose! {
    fn own()(
        epilogue in prop::sample::select(BOTH.to_vec()), m in extent(), n in extent(), k in prop_oneof![3 => extent(), 1 => 260usize..1100],
        dtype in prop::sample::select(DTYPES.to_vec()), layout in prop::sample::select(vec![Layout::Nt, Layout::Nn, Layout::Tn]),
        bias in any::<bool>(), accumulate in any::<bool>(), gap in prop_oneof![2 => Just(0usize), 1 => Just(8usize), 1 => 1usize..9],
        moved in prop_oneof![2 => Just([false; 4]), 1 => any::<[bool; 4]>()], data_seed in any::<u64>(),
    ) -> Own {
        let gated = epilogue == Epilogue::SwiGlu;
        let n = if gated { n / 2 * 2 } else { n };
        Own { layout, bias, accumulate: accumulate && !gated, gap, moved, data_seed, ..Own::new(m, n, k, dtype).epilogue(epilogue) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50 * deep() as u32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Of few rows, whose K is split over CTAs, with room for the splits' products and without: the same bits.
    #[test]
    fn of_a_ranks_own(c in own(), seed in any::<u64>()) {
        let c = Own { mainloop: Some(Mainloop::Portable), ..c };
        let first = check_own(&alone(seed, 32 << 20), &c);
        prop_assert!(first == check_own(&alone(seed, 64 << 10), &c), "without scratch");
    }
}

/// Blocks of 128 rows and columns of the portable mainloop; ragged ends, and none.
#[test]
fn large_tiles() {
    for (dtype, epilogue) in [DType::Bf16, DType::F16].into_iter().zip(BOTH) {
        for (m, n, gap) in [(1030, 1090, 0), (1024, 1152, 3)] {
            let c = Own {
                bias: true,
                mainloop: Some(Mainloop::Portable),
                gap,
                ..Own::new(m, n, 70, dtype).epilogue(epilogue)
            };
            check_own(&alone(7, 1 << 20), &c);
        }
    }
}

/// Both widths of Hopper's blocks, by boxes of the output and without, alone and in pairs.
#[test]
fn hoppers_mainloop() {
    // 128 x 128; 128 x 256; where TMA cannot address the output or what is saved.
    let sizes = [
        (300, 200, 0, false),
        (700, 2200, 0, false),
        (1100, 1930, 2, false),
        (260, 136, 0, true),
    ];
    for (i, (m, n, gap, moved)) in sizes.into_iter().enumerate() {
        for epilogue in BOTH {
            let c = Own {
                bias: i % 2 == 0,
                accumulate: epilogue == Epilogue::Gelu,
                mainloop: Some(Mainloop::Hopper),
                // x and the weight have rows of whole vectors.
                gap: 8 * gap,
                moved: [false, false, moved, moved],
                ..Own::new(m, n, 72, DTYPES[i % 2]).epilogue(epilogue)
            };
            check_own(&alone(i as u64, 1 << 20), &c);
        }
    }
}

prop_compose! {
    fn gathered()(
        epilogue in prop::sample::select(BOTH.to_vec()), world in 1usize..=6, m in extent(), n in extent(), k in 0usize..130,
        dtype in prop::sample::select(DTYPES.to_vec()), bias in any::<bool>(), saved in any::<bool>(), data_seed in any::<u64>(),
        gap in prop_oneof![3 => Just(0usize), 1 => 1usize..9], by_k in prop::bool::weighted(0.3),
        unaligned in prop::option::weighted(0.3, 0usize..6),
    ) -> Case {
        let n = if epilogue == Epilogue::SwiGlu { n / 2 * 2 } else { n };
        let mut c = Case::new(Op::AllGatherGemm, world, m, n, k, dtype).epilogue(epilogue).gap(gap).data(data_seed);
        (c.bias, c.saved) = (bias, saved);
        c.layout = if by_k { Layout::Nn } else { Layout::Nt };
        c.unaligned = unaligned.filter(|rank| *rank < world);
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40 * deep() as u32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Fused and unfused, on one CTA and on all: one result.
    #[test]
    fn behind_a_gather(c in gathered(), seed in any::<u64>()) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, (path, max_ctas)) in [(Path::Fused, 0), (Path::Fused, 1), (Path::Unfused, 0)].into_iter().enumerate() {
            let node = node(c.world, seed.wrapping_add(i as u64));
            let config = GroupConfig::default().max_ctas(max_ctas).sized_for(&c.all_specs(), c.world).unwrap();
            let ranks = node.group(c.world, &config).unwrap();
            let results = run_on(&ranks, &c, &data, path).unwrap();
            judge(&c, &data, &results, &path.to_string());
            check_traffic(&node, &ranks);
            for rank in &ranks {
                let stated = rank.plan(&c.spec(rank.rank(), path)).unwrap().bytes_sent(c.m);
                prop_assert_eq!(stated, Some(rank.stats().bytes_sent()));
            }
            prop_assert!(*first.get_or_insert_with(|| results.clone()) == results, "{path} on {max_ctas} CTAs differs");
        }
    }
}

/// On Hopper's mainloop, in one round and in several; a rank that TMA cannot serve runs the portable one.
#[test]
fn behind_a_gather_on_hopper() {
    let sizes = [
        (3, 201, 150, 72),
        (2, 520, 136, 64),
        (2, 420, 2 * 520, 64),
        (3, 400, 260, 136),
    ];
    for (i, (world, m, n, k)) in sizes.into_iter().enumerate() {
        for epilogue in BOTH {
            let c = Case::new(Op::AllGatherGemm, world, m, n, k, DTYPES[i % 2]).mainloop(Mainloop::Hopper);
            let c = Case {
                bias: i % 2 == 0,
                ..c.epilogue(epilogue).saved()
            };
            let data = Data::new(&c);
            let mut first = None;
            for path in c.routes() {
                let results = run(&c, *path, i as u64).unwrap();
                judge(&c, &data, &results, &path.to_string());
                assert!(*first.get_or_insert_with(|| results.clone()) == results, "{c:?} {path}");
            }
            let node = node(world, 9);
            let heap = smallest_heap(&node, &c, Path::Fused);
            let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(heap);
            let ranks = node.group(world, &config).unwrap();
            for _ in 0..2 {
                assert!(
                    first == Some(run_on(&ranks, &c, &data, Path::Fused).unwrap()),
                    "{c:?} in rounds"
                );
            }
            // Nobody asks for the mainloop, and one rank has another.
            let mixed = Case {
                mainloop: None,
                ..c.unaligned(1)
            };
            judge(&mixed, &data, &run(&mixed, Path::Fused, 3).unwrap(), "mixed mainloops");
        }
    }
}

/// Of large numbers gates are open or shut, infinities and NaN come out where they went in.
#[test]
fn extremes() {
    for dtype in DTYPES {
        for epilogue in BOTH {
            let c = Own::new(6, 128, 1, dtype).epilogue(epilogue);
            let rank = alone(2, 1 << 20);
            let big = if dtype == DType::F16 { 6e4 } else { 1e30 };
            let rows = [big, -big, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0];
            let data = Numbers {
                x: rows.to_vec(),
                weight: vec![1.0; 128],
                bias: Vec::new(),
                before: Vec::new(),
            };
            let (out, saved) = run_own(&rank, &c, &data, true).unwrap();
            let saved = reference::decode(dtype, &saved.unwrap());
            let out = reference::decode(dtype, &out);
            for (row, value) in rows.into_iter().enumerate() {
                let (pre, of) = (saved[row * 128], out[row * c.epilogue.columns(128)]);
                assert!(
                    pre == reference::decode(dtype, &reference::encode(dtype, &[value]))[0]
                        || value.is_nan() && pre.is_nan()
                );
                // x normal(x) and x^2 sigmoid(x); -infinity times a probability of 0 is NaN.
                let right = match row {
                    0 if epilogue == Epilogue::Gelu => of == pre,
                    0 => of == f64::INFINITY,
                    1 | 5 => of == 0.0,
                    2 => of == f64::INFINITY,
                    _ => of.is_nan(),
                };
                assert!(right, "{dtype} {epilogue} of {value}: {pre}, {of}");
            }
        }
    }
}

/// A rank that never launches: what needs its rows is NaN, in out and in what is saved.
#[test]
fn a_failure_leaves_nan() {
    let cases = [(70, 64, Mainloop::Portable), (140, 264, Mainloop::Hopper)];
    for (seed, ((m, n, mainloop), epilogue)) in cases.into_iter().flat_map(|c| BOTH.map(|e| (c, e))).enumerate() {
        let c = Case::new(Op::AllGatherGemm, 2, m, 2 * n, 64, DType::Bf16).mainloop(mainloop);
        let c = c.epilogue(epilogue).saved();
        let node = node(2, seed as u64);
        let config = GroupConfig::default().deadline(std::time::Duration::from_millis(20));
        let ranks = node.group(2, &config.sized_for(&c.all_specs(), 2).unwrap()).unwrap();
        let mut l = Loaded::new(&ranks[0], &c, &Data::new(&c)).unwrap();
        let plan = ranks[0].plan(&c.spec(0, Path::Fused)).unwrap();
        l.launch(&plan, m).unwrap();
        assert!(matches!(ranks[0].synchronize(), Err(Error::Wait { .. })));
        let result = reference::decode(c.dtype, &l.result().unwrap());
        let cols = epilogue.columns(n);
        let (out, saved) = result.split_at(m * cols);
        let theirs = c.m_of(1);
        assert!(out[theirs.start * cols..].iter().all(|value| value.is_nan()), "{c:?}");
        assert!(saved[theirs.start * n..].iter().all(|value| value.is_nan()), "{c:?}");
    }
}

/// Ranks must agree on what follows, as on all else.
#[test]
fn ranks_must_agree() {
    let base = Case::new(Op::AllGatherGemm, 2, 20, 64, 16, DType::Bf16);
    let node = node(2, 1);
    let ranks = group_for(&node, &base).unwrap();
    let mut loaded = Vec::new();
    for (rank, c) in ranks.iter().zip([&base, &base.clone().epilogue(Epilogue::Gelu)]) {
        let mut l = Loaded::new(rank, c, &Data::new(c)).unwrap();
        l.launch(&rank.plan(&c.spec(rank.rank(), Path::Fused)).unwrap(), c.m)
            .unwrap();
        loaded.push(l);
    }
    for rank in &ranks {
        let end = rank.synchronize();
        let Err(Error::Disagreed { ours, theirs, .. }) = end else {
            panic!("{end:?}")
        };
        assert_ne!(
            ours.contains(", GELU"),
            theirs.contains(", GELU"),
            "{ours} and {theirs}"
        );
    }
}

#[test]
fn what_is_refused() {
    let rank = alone(1, 1 << 20);
    let slab = |rows: usize, cols: usize| Slab::new(&rank, rows, cols, 0, DType::F32, None).unwrap();
    let x = slab(4, 6);
    let refused = |epilogue: Epilogue, n: usize, cols: usize, accumulate: bool, saved: Option<usize>| {
        let (weight, mut out, mut product) = (slab(n, 6), slab(4, cols), slab(4, saved.unwrap_or(1)));
        let gemm = Gemm::new(
            Layout::Nt,
            x.mat().unwrap(),
            weight.mat().unwrap(),
            out.mat_mut().unwrap(),
        );
        let gemm = gemm.epilogue(epilogue).accumulate(accumulate);
        let gemm = gemm.saved(saved.map(|_| product.mat_mut().unwrap()));
        rank.gemm(&gemm).unwrap_err().to_string()
    };
    let of = "for a GEMM NT of x [4, 6] on rank 0 of 1";
    assert_eq!(
        refused(Epilogue::SwiGlu, 9, 4, false, None),
        "n is 9: expected an even number: SwiGLU takes columns in pairs, a gate's and what it lets through"
    );
    assert_eq!(
        refused(Epilogue::SwiGlu, 10, 10, false, None),
        format!("out is [4, 10]: expected [4, 5] {of}")
    );
    assert_eq!(
        refused(Epilogue::SwiGlu, 10, 5, true, None),
        "accumulate is true: expected false: SwiGLU's out has half the columns of what would be added to it"
    );
    assert_eq!(
        refused(Epilogue::SwiGlu, 10, 5, false, Some(5)),
        format!("saved is [4, 5]: expected [4, 10] {of}")
    );
    assert_eq!(
        refused(Epilogue::None, 10, 10, false, Some(10)),
        "saved is given: expected none: without an epilogue, out is the product itself"
    );
    let spec = OpSpec::new(Op::AllGatherGemm, 10, 6, 8, DType::F32);
    let launched = |epilogue: Epilogue, cols: usize| {
        let (weight, mut out, mut product) = (slab(10, 6), slab(4, cols), slab(4, 10));
        let plan = rank.plan(&spec.clone().epilogue(epilogue)).unwrap();
        let operands = Operands::gemm(4, x.mat().unwrap(), weight.mat().unwrap(), out.mat_mut().unwrap());
        plan.launch(&operands.saved(product.mat_mut().unwrap()))
    };
    launched(Epilogue::SwiGlu, 5).unwrap();
    rank.synchronize().unwrap();
    assert_eq!(
        launched(Epilogue::SwiGlu, 10).unwrap_err().to_string(),
        "out is [4, 10]: expected [4, 5] for all-gather-gemm (N = 10, K = 6, f32, SwiGLU) at M = 4 on rank 0 of 1"
    );
    assert_eq!(
        launched(Epilogue::None, 10).unwrap_err().to_string(),
        "saved is given: expected none: without an epilogue, out is the product itself"
    );
    let nowhere = rank.plan(&spec.epilogue(Epilogue::Gelu).route(Want::Exactly(Path::Nccl)));
    assert!(matches!(nowhere, Err(Error::RouteUnavailable { .. })));
}
