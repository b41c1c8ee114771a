//! Plans over a driver that only notes: what is launched, and what is refused.

mod refusals;

use std::sync::Arc;

use super::descriptor::hash;
use super::*;
use crate::abi;
use crate::dtype::{DType, Wire};
use crate::group::fake::{Fake, Launched};
use crate::group::{GroupConfig, Rank};
use crate::memory::Buffer;
use crate::route::{Path, Want};

const BF16: DType = DType::Bf16;

fn ranks(world: usize) -> (Arc<Fake>, Vec<Rank>) {
    let (fake, node) = Fake::node(1);
    let ranks = node.group(world, &GroupConfig::default().heap_bytes(16 << 20)).unwrap();
    (fake, ranks)
}

fn spec(op: Op, n: usize, k: usize) -> OpSpec {
    OpSpec::new(op, n, k, 1000, BF16)
}

fn big(rank: &Rank) -> Buffer {
    rank.alloc(1 << 20).unwrap()
}

/// Launches `spec` at `m` on contiguous operands of its shapes, on rank 1 of 4.
fn launch(spec: OpSpec, m: usize) -> (Vec<Launched>, Rank) {
    let (fake, ranks) = ranks(4);
    let rank = ranks[1].clone();
    let own = chunk(m, 4, 1).len();
    let (x, w, b, mut y) = (big(&rank), big(&rank), big(&rank), big(&rank));
    let gathers = matches!(spec.op, Op::AllGatherGemm | Op::AllGather);
    let x_cols = if spec.op.has_gemm() { spec.k } else { spec.n };
    let scattered = matches!(spec.op, Op::GemmReduceScatter | Op::ReduceScatter);
    let x = x.mat(if gathers { own } else { m }, x_cols, BF16).unwrap();
    let out = y.mat_mut(if scattered { own } else { m }, spec.n, BF16).unwrap();
    let mut operands = Operands::plain(m, x, out);
    if spec.op.has_gemm() {
        operands.weight = Some(w.mat(spec.n, spec.k, BF16).unwrap());
    }
    if spec.bias {
        operands.bias = Some(b.mat(1, spec.n, BF16).unwrap());
    }
    rank.plan(&spec).unwrap().launch(&operands).unwrap();
    (fake.take(), rank)
}

#[test]
fn a_fused_launch() {
    let (launches, rank) = launch(spec(Op::GemmReduceScatter, 200, 40).bias(true), 130);
    let [
        Launched {
            kernel,
            launch,
            params,
            stream,
        },
    ] = &launches[..]
    else {
        panic!("{launches:?}")
    };
    assert_eq!((kernel.as_str(), *stream), ("gemm_rs_bf16_64", rank.stream()));
    // 33 rows of each of 4 owners, one row of 4 tiles each.
    assert_eq!((launch.grid, launch.threads, launch.shared), (16, 128, 49152));
    let p = params;
    assert_eq!((p.m, p.n, p.k, p.chunk, p.panel, p.panels), (130, 200, 40, 33, 64, 1));
    assert_eq!((p.group.rank, p.group.world, p.hash), (1, 4, hash(&p.desc)));
    let d = p.desc;
    assert_eq!(
        (d.op, d.m, d.n, d.k, d.grid, d.has_bias),
        (abi::TW_GEMM_REDUCE_SCATTER, 130, 200, 0, 16, 1)
    );
    assert_eq!((p.x_ld, p.weight_ld, p.out_ld, p.addend), (40, 40, 200, 0));
    assert!(p.bias != 0 && p.x != 0 && p.weight != 0 && p.out != 0);
}

#[test]
fn an_unfused_reduction_goes_through_scratch() {
    let wide = spec(Op::GemmAllReduce, 203, 40)
        .bias(true)
        .wire(Wire::F32)
        .route(Want::Exactly(Path::Unfused));
    let (launches, rank) = launch(wide, 130);
    let [gemm, collective] = &launches[..] else {
        panic!("{launches:?}")
    };
    assert_eq!(
        (gemm.kernel.as_str(), collective.kernel.as_str()),
        ("gemm_bf16_64", "all_reduce")
    );
    let (g, c) = (&gemm.params, &collective.params);
    let scratch = rank.abi_group().heap[1] + rank.facts().layout.scratch;
    assert_eq!((g.out, c.x, g.out_ld, c.x_ld), (scratch, scratch, 204, 204));
    assert_eq!((g.bias, g.desc.has_bias, g.desc.op), (0, 0, abi::TW_GEMM));
    assert_eq!(
        (g.desc.wire, c.desc.wire, c.desc.dtype),
        (abi::TW_F32, abi::TW_F32, abi::TW_BF16)
    );
    assert_eq!((c.weight, c.addend, c.desc.has_bias, c.k), (0, 0, 1, 0));
    assert!(c.bias != 0 && (c.m, c.n) == (130, 203));
}

#[test]
fn ctas_share_blocks_of_a_few_rows() {
    let launched = |path, k| launch(spec(Op::GemmAllReduce, 200, k).route(Want::Exactly(path)), 20);
    let (launches, rank) = launched(Path::Fused, 1600);
    let scratch = rank.abi_group().heap[1] + rank.facts().layout.scratch;
    let p = &launches[0].params;
    assert_eq!(launches[0].kernel, "gemm_ar1_bf16_64");
    // 4 blocks of 5 splits (of 6, one would not be shorter) on 8 SMs of 2 CTAs; counters stand before the scratch.
    assert_eq!((p.splits, p.tiles, launches[0].launch.grid), (5, 4, 16));
    assert_eq!(p.split_space, scratch - 8 * abi::TW_SPLIT_BLOCKS as u64);
    // What ranks agree on knows nothing of K: the hash is that of a rank without splits.
    let (whole, _) = launched(Path::Fused, 40);
    let w = &whole[0].params;
    assert_eq!((w.splits, w.split_space, whole[0].launch.grid), (1, 0, 4));
    assert_eq!((w.hash, w.desc.grid), (p.hash, p.desc.grid));
    // On the unfused path the product lies behind the products of the splits.
    let (launches, rank) = launched(Path::Unfused, 1600);
    let scratch = rank.abi_group().heap[1] + rank.facts().layout.scratch;
    let (gemm, collective) = (&launches[0].params, &launches[1].params);
    assert_eq!((gemm.splits, launches[0].launch.grid), (5, 16));
    assert_eq!(gemm.split_space, scratch - 8 * abi::TW_SPLIT_BLOCKS as u64);
    assert_eq!((gemm.out, collective.x), (scratch + 20 * 16384, scratch + 20 * 16384));
    assert_eq!((collective.splits, collective.split_space), (1, 0));
    // Where a CTA has its blocks to itself, it computes all their splits.
    let (launches, _) = launch(spec(Op::GemmReduceScatter, 200, 1600), 20);
    assert_eq!((launches[0].params.splits, launches[0].params.split_space), (5, 0));
}

#[test]
fn a_gemm_alone_is_the_unfused_plans() {
    let (fake, ranks) = ranks(4);
    let rank = &ranks[1];
    let (x, w, mut y) = (big(rank), big(rank), big(rank));
    for op in [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm] {
        let few = OpSpec::new(op, 200, 1600, 20, BF16);
        let plan = |path| rank.plan(&few.clone().route(Want::Exactly(path))).unwrap();
        fake.take();
        let mut gemm = |path, m: usize, rows: usize| {
            let mut out = y.mat_mut(m, 200, BF16).unwrap();
            let (x, weight) = (x.mat(rows, 1600, BF16).unwrap(), w.mat(200, 1600, BF16).unwrap());
            plan(path).launch_gemm(m, x, weight, &mut out)
        };
        gemm(Path::Unfused, 20, 20).unwrap();
        let [alone] = &fake.take()[..] else { panic!("{op}") };
        let p = &alone.params;
        assert_eq!(
            (alone.kernel.as_str(), alone.launch.grid, alone.stream),
            ("gemm_bf16_64", 16, rank.stream())
        );
        assert_eq!((p.m, p.n, p.k, p.splits), (20, 200, 1600, 5));
        assert_eq!((p.desc.wire, p.out_ld, p.bias, p.addend), (abi::TW_BF16, 200, 0, 0));
        assert!(
            gemm(Path::Unfused, 20, 21)
                .unwrap_err()
                .to_string()
                .contains("[21, 1600]"),
            "{op}"
        );
        let fused = gemm(Path::Fused, 20, 20).unwrap_err().to_string();
        assert!(fused.contains("ask for unfused"), "{fused}");
    }
    // Nothing was launched that a peer would wait for.
    assert!(fake.take().is_empty() && rank.in_order(|launching| Ok(launching.eager())).unwrap() == 0);
}

#[test]
fn an_unfused_gather_goes_through_scratch() {
    let (launches, rank) = launch(
        spec(Op::AllGatherGemm, 96, 37)
            .bias(true)
            .route(Want::Exactly(Path::Unfused)),
        130,
    );
    let [gather, gemm] = &launches[..] else {
        panic!("{launches:?}")
    };
    assert_eq!(
        (gather.kernel.as_str(), gemm.kernel.as_str()),
        ("all_gather", "gemm_bf16_64")
    );
    let (c, g) = (&gather.params, &gemm.params);
    let scratch = rank.abi_group().heap[1] + rank.facts().layout.scratch;
    assert_eq!((c.out, c.out_ld, g.x, g.x_ld), (scratch, 40, scratch, 40));
    assert_eq!((c.m, c.n, c.k, c.chunk, c.panel), (130, 37, 37, 33, 33));
    assert_eq!(
        (g.m, g.n, g.k, g.desc.wire, g.desc.has_bias),
        (130, 96, 37, abi::TW_BF16, 1)
    );
    assert!(c.bias == 0 && c.desc.has_bias == 0 && g.bias != 0);
}

#[test]
fn what_may_differ_between_ranks_is_not_in_the_hash() {
    let hash = |spec| launch(spec, 130).0[0].params.hash;
    for op in [Op::GemmReduceScatter, Op::GemmAllReduce] {
        assert_eq!(hash(spec(op, 200, 40)), hash(spec(op, 200, 0)));
        assert_ne!(hash(spec(op, 200, 40)), hash(spec(op, 201, 40)));
    }
    assert_eq!(
        hash(spec(Op::AllGatherGemm, 200, 40)),
        hash(spec(Op::AllGatherGemm, 0, 40))
    );
    assert_ne!(
        hash(spec(Op::AllGatherGemm, 200, 40)),
        hash(spec(Op::AllGatherGemm, 200, 41))
    );
    assert_ne!(
        launch(spec(Op::AllReduce, 8, 0), 130).0[0].params.hash,
        launch(spec(Op::AllReduce, 8, 0), 131).0[0].params.hash
    );
}

#[test]
fn a_gemm_that_gathers_pushes_with_some_of_its_ctas() {
    let (launches, _) = launch(spec(Op::AllGatherGemm, 200, 40), 130);
    let p = &launches[0].params;
    // 4 ranks share 32 SMs of 2 CTAs.
    assert_eq!(
        (launches[0].launch.grid, p.comm_ctas, p.desc.n, p.desc.k),
        (16, 2, 0, 40)
    );
}

#[test]
fn an_all_reduce_without_gaps_is_flat() {
    let (fake, ranks) = ranks(4);
    let plan = ranks[0].plan(&spec(Op::AllReduce, 300, 0)).unwrap();
    let (x, mut y) = (big(&ranks[0]), big(&ranks[0]));
    plan.launch(&Operands::plain(
        100,
        x.mat(100, 300, BF16).unwrap(),
        y.mat_mut(100, 300, BF16).unwrap(),
    ))
    .unwrap();
    let strided = y.mat_mut_at(3, 100, 300, 301, BF16).unwrap();
    plan.launch(&Operands::plain(100, x.mat(100, 300, BF16).unwrap(), strided))
        .unwrap();
    plan.launch(&Operands::in_place(100, y.mat_mut(100, 300, BF16).unwrap()))
        .unwrap();
    let launches = fake.take();
    let shape = |i: usize| {
        let p = &launches[i].params;
        (launches[i].kernel.as_str(), p.m, p.n, p.desc.m, p.desc.n, p.x == p.out)
    };
    assert_eq!(shape(0), ("all_reduce1", 1, 30000, 30000, 0, false));
    assert_eq!(shape(1), ("all_reduce1", 100, 300, 100, 300, false));
    assert_eq!(shape(2), ("all_reduce1", 1, 30000, 30000, 0, true));
    assert_eq!(plan.route(100).kernel, "all_reduce1");
}

#[test]
fn ranges_of_m_join_and_tell_the_kernel_that_runs() {
    let (_, ranks) = ranks(2);
    let plan = ranks[0]
        .plan(&OpSpec::new(Op::GemmAllReduce, 512, 64, 4096, BF16))
        .unwrap();
    assert_eq!(plan.m_ranges(), [0..129, 129..1921, 1921..4097]);
    let kernels: Vec<_> = plan.m_ranges().iter().map(|r| plan.route(r.start).kernel).collect();
    assert_eq!(kernels, ["gemm_ar1_bf16_64", "gemm_ar_bf16_64", "gemm_ar_bf16_128"]);
    assert_eq!(plan.route(usize::MAX), plan.route(4096));
    assert_eq!(
        plan.heap_bytes(),
        GroupConfig::heap_bytes_for(&[plan.spec().clone()], 2).unwrap()
    );
}

#[test]
fn a_small_heap_takes_several_rounds() {
    let (fake, node) = Fake::node(1);
    let config = GroupConfig::default().one_shot_bytes(64 << 10).heap_bytes(2 << 20);
    let ranks = node.group(4, &config).unwrap();
    let plan = ranks[0].plan(&spec(Op::GemmReduceScatter, 200, 8)).unwrap();
    let (x, w, mut y) = (big(&ranks[0]), big(&ranks[0]), big(&ranks[0]));
    let out = y.mat_mut(250, 200, BF16).unwrap();
    plan.launch(&Operands::gemm(
        1000,
        x.mat(1000, 8, BF16).unwrap(),
        w.mat(200, 8, BF16).unwrap(),
        out,
    ))
    .unwrap();
    let p = fake.take()[0].params;
    // A unit is 4 * 4 tiles of 8 KiB, and a half a little less than (2 MiB - 1 MiB) * 2 / 5.
    assert_eq!((p.panel, p.panels), (128, 2));
}

#[test]
fn declining_is_not_launching() {
    let (fake, ranks) = ranks(2);
    let plan = ranks[0]
        .plan(&spec(Op::AllReduce, 8, 0).route(Want::Exactly(Path::Decline)))
        .unwrap();
    assert_eq!((plan.route(8).path, plan.route(8).kernel.as_str()), (Path::Decline, ""));
    let mut y = big(&ranks[0]);
    let error = plan
        .launch(&Operands::in_place(8, y.mat_mut(8, 8, BF16).unwrap()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "route decline is not available: asked for: the caller takes its own path"
    );
    assert!(fake.take().is_empty());
}
