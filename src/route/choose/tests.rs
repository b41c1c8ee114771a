//! Routes of plans: explicit ones, reasons, small heaps, ragged shares, and the table against the function.

use super::*;
use crate::dtype::{DType, Wire};
use crate::machines::Description;
use crate::nccl::NcclPolicy;
use crate::op::config::tests::facts;
use crate::route::constants::{CLASSES, Class};
use crate::route::{Machine, Obstacle};
use proptest::prelude::*;

fn spec(op: Op, route: Want) -> OpSpec {
    OpSpec::new(op, 256, if op.has_gemm() { 64 } else { 0 }, 4096, DType::F16).route(route)
}

fn route(facts: &Facts, spec: &OpSpec, m: u64) -> Route {
    explain(facts, &choose(facts, spec, m).unwrap(), spec, m)
}

#[test]
fn an_explicit_route_fails_closed() {
    let facts = facts(4, 1 << 26, 16);
    let choose = |op, path| choose(&facts, &spec(op, Want::Exactly(path)), 300).map(|c| c.path);
    assert_eq!(choose(Op::GemmAllReduce, Path::Fused).unwrap(), Path::Fused);
    assert_eq!(choose(Op::GemmAllReduce, Path::Unfused).unwrap(), Path::Unfused);
    assert_eq!(choose(Op::AllGather, Path::Unfused).unwrap(), Path::Unfused);
    assert_eq!(choose(Op::AllGather, Path::Decline).unwrap(), Path::Decline);
    for (op, path) in [
        (Op::AllGather, Path::Fused),
        (Op::AllGather, Path::Nccl),
        (Op::GemmAllReduce, Path::Nccl),
    ] {
        let Err(Error::RouteUnavailable { path: named, .. }) = choose(op, path) else {
            panic!("{op} {path}")
        };
        assert_eq!(named, path);
    }
}

#[test]
fn buckets_end_at_powers_of_two() {
    let of = |m| (Bucket::of(m).first, Bucket::of(m).last);
    assert_eq!([of(0), of(1), of(2), of(3)], [(0, 1), (0, 1), (2, 2), (3, 4)]);
    assert_eq!(
        [of(64), of(65), of(128), of(129)],
        [(33, 64), (65, 128), (65, 128), (129, 256)]
    );
    let mut next = 0;
    while next < 1 << 31 {
        let bucket = Bucket::of(next);
        assert_eq!((bucket.first, Bucket::of(bucket.last)), (next, bucket));
        next = bucket.last + 1;
    }
}

#[test]
fn reasons_hold_the_figures_and_the_machine() {
    let mut facts = facts(4, 1 << 26, 16);
    assert_eq!(
        route(&facts, &spec(Op::GemmReduceScatter, Want::Auto), 300).to_string(),
        "fused (gemm_rs_f16_64): 13 us predicted at M = 512 against 15 unfused and 39 by NCCL; push; 4 x simulated GPU over \
         links of an unknown kind, push 50 GB/s by the data sheet, links not tried; the whole weight is taken for square \
         (OpSpec::whole)"
    );
    assert_eq!(
        route(&facts, &spec(Op::AllGatherGemm, Want::Exactly(Path::Unfused)), 300).to_string(),
        "unfused (all_gather + gemm_f16_64): asked for"
    );
    facts.machine = Machine::assumed(CLASSES[2], 1, false);
    facts.world = 1;
    assert_eq!(
        route(&facts, &spec(Op::GemmAllReduce, Want::Auto), 300).to_string(),
        "fused (gemm_ar_f16_64): one rank: nothing travels"
    );
}

#[test]
fn nccl_takes_what_it_does_better_where_somebody_can_call_it() {
    let mut facts = facts(8, 1 << 26, 16);
    // PCIe of the fastest kind between GPUs without NVLink: NCCL's rings are slow there. An NVLink that only NCCL could
    // use is not.
    facts.machine.nvlink_gb_per_s = Some(900.0);
    let large = OpSpec::new(Op::AllReduce, 8192, 0, 8192, DType::Bf16);
    let served = route(&facts, &large, 8192);
    assert_eq!(served.path, Path::Unfused);
    assert!(served.reason.ends_with("NCCL would be faster"), "{served}");
    facts.nccl = NcclPolicy::Decline;
    let declined = route(&facts, &large, 8192);
    assert_eq!((declined.path, declined.kernel.as_str()), (Path::Decline, ""));
    assert!(declined.reason.starts_with("NCCL is clearly faster: "), "{declined}");
    // An explicit route is not the crate's to decline.
    let asked = large.clone().route(Want::Exactly(Path::Unfused));
    assert_eq!(route(&facts, &asked, 8192).path, Path::Unfused);
    // Small messages are better off with one exchange.
    assert_eq!(route(&facts, &large, 1).path, Path::Unfused);
}

/// 64 rows a rank fill half of a fused kernel's blocks, which takes as long as if they were full; a GEMM of all rows has full ones.
#[test]
fn half_empty_blocks_count_as_full() {
    let node = Description::named("h100x8").expect("known");
    let mut facts = facts(8, 1 << 28, 132);
    facts.machine = Machine::described(&node, 8);
    for op in [Op::AllGatherGemm, Op::GemmReduceScatter] {
        let whole = 8 * if op.reduces() { 4096 } else { 3584 };
        let spec = |m| OpSpec::new(op, 3584, 4096, m, DType::Bf16).whole(whole);
        let path = |m| route(&facts, &spec(m), m as u64).path;
        assert_eq!((path(512), path(2048)), (Path::Unfused, Path::Fused), "{op}");
    }
}

/// Where our kernels may not run, a heap without room for what lies between the GEMM and NCCL leaves it to the runtime.
#[test]
fn obstacles_and_no_room_for_nccl_decline() {
    let mut facts = facts(4, 4 << 20, 16);
    (facts.nccl, facts.communicators) = (NcclPolicy::Own, Ok(()));
    facts.machine.obstacles = vec![Obstacle::Pair {
        from: 0,
        to: 1,
        uuids: ("GPU-0".to_string(), "GPU-1".to_string()),
        reason: "no peer access".to_string(),
    }];
    let of = |m| OpSpec::new(Op::GemmReduceScatter, 8192, 64, m, DType::Bf16);
    assert_eq!(route(&facts, &of(8), 8).path, Path::Nccl);
    let declined = route(&facts, &of(8192), 8192);
    assert_eq!(declined.path, Path::Decline);
    assert!(
        declined
            .reason
            .starts_with("the heap has no room between the GEMM and NCCL; "),
        "{declined}"
    );
    let asked = of(8192).route(Want::Exactly(Path::Nccl));
    assert!(matches!(choose(&facts, &asked, 8192), Err(Error::HeapTooSmall { .. })));
}

#[test]
fn auto_falls_back_only_where_the_heap_is_small() {
    // One row of tiles of every owner is 8 * 256 tiles of 8 KiB: 16 MiB a half. The collective's is as wide but 16
    // rows high, of the same bytes; so neither fits, and the fused path's need is named.
    let facts = facts(8, 8 << 20, 16);
    let wide = OpSpec::new(Op::GemmReduceScatter, 64 * 256, 8, 4096, DType::F16);
    let Err(Error::HeapTooSmall { what, .. }) = choose(&facts, &wide, 64) else {
        panic!()
    };
    assert!(what.contains("gemm_rs_f16_64"), "{what}");
}

/// Where fusing loses but the heap has no room between GEMM and collective, it is fused all the same, and says so.
#[test]
fn one_larger_heap_mends_a_plan_that_needs_several() {
    let mut facts = facts(4, 2 << 20, 16);
    let spec = spec(Op::GemmAllReduce, Want::Exactly(Path::Unfused));
    let Err(Error::HeapTooSmall { need, .. }) = table(&facts, &spec) else {
        panic!()
    };
    facts.layout = crate::memory::layout::Layout::new(need, 4, facts.layout.one_shot_bytes as usize).unwrap();
    assert_eq!(table(&facts, &spec).unwrap().last().unwrap().last, 4096);
}

#[test]
fn do_not_fuse_where_the_heap_allows() {
    let mut facts = facts(2, 1 << 30, 132);
    let class = Class {
        fused_loss: 1.0,
        ..CLASSES[2]
    };
    facts.machine = Machine::assumed(class, 2, true);
    let deep = OpSpec::new(Op::GemmReduceScatter, 8192, 28672, 8192, DType::Bf16);
    let unfused = route(&facts, &deep, 8192);
    assert_eq!(unfused.path, Path::Unfused);
    assert!(unfused.reason.starts_with("do not fuse: "), "{unfused}");
    facts.layout = crate::memory::layout::Layout::new(64 << 20, 2, 65536).unwrap();
    let fused = route(&facts, &deep, 8192);
    assert_eq!(fused.path, Path::Fused);
    assert!(fused.reason.starts_with("the heap holds no product between"), "{fused}");
}

/// Ranks whose shares differ choose alike, told of the whole or not.
#[test]
fn ragged_shares_choose_alike() {
    let mut facts = facts(3, 1 << 28, 132);
    facts.machine = Machine::assumed(CLASSES[2], 3, false);
    for (m, whole) in [
        (1, Some(20000)),
        (100, Some(20000)),
        (4096, Some(20000)),
        (1, None),
        (100, None),
        (4096, None),
    ] {
        let of = |k: usize| {
            let spec = OpSpec::new(Op::GemmReduceScatter, 4096, k, 8192, DType::Bf16);
            choose(&facts, &OpSpec { whole, ..spec }, m)
        };
        let (a, b) = (of(6667).unwrap(), of(0).unwrap());
        assert_eq!(
            (a.path, a.main, a.one_shot, a.exchange, a.grid_limit),
            (b.path, b.main, b.one_shot, b.exchange, b.grid_limit)
        );
    }
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let machine = (
        0..CLASSES.len(),
        1usize..=16,
        any::<bool>(),
        1.0..1000.0f64,
        any::<bool>(),
    );
    (
        machine,
        20u32..28,
        prop::sample::select(vec![0u64, 4096, 65536, 1 << 20]),
        1u32..300,
        prop::sample::select(vec![
            (NcclPolicy::Never, Err(String::new())),
            (NcclPolicy::Decline, Err(String::new())),
            (NcclPolicy::Own, Err(String::new())),
            (NcclPolicy::Own, Ok(())),
        ]),
    )
        .prop_filter_map(
            "a heap with room for a tile",
            |((class, world, shared, gb_per_s, nvlink), heap, one_shot, ctas, policy)| {
                let mut facts = facts(world, 1 << 30, ctas);
                facts.layout = crate::memory::layout::Layout::new(1 << heap, world, one_shot as usize).ok()?;
                facts.hopper = ctas % 2 == 0;
                facts.machine = Machine::assumed(CLASSES[class], world, shared);
                facts.machine.push.gb_per_s = gb_per_s;
                facts.machine.nvlink_gb_per_s = nvlink.then_some(300.0);
                (facts.nccl, facts.communicators) = policy;
                Some(facts)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A plan's table says at every M what the function says.
    #[test]
    fn the_table_is_the_function(
        facts in any_facts(),
        op in prop::sample::select(Op::ALL.to_vec()),
        n in 0usize..9000,
        k in 0usize..9000,
        max_m in prop_oneof![0usize..400, 0usize..20000],
        wire in any::<bool>(),
        path in prop::sample::select(vec![Want::Auto, Want::Auto, Want::Exactly(Path::Fused), Want::Exactly(Path::Unfused), Want::Exactly(Path::Nccl)]),
    ) {
        let spec = OpSpec::new(op, n, if op.has_gemm() { k } else { 0 }, max_m, DType::Bf16)
            .wire(if wire { Wire::F32 } else { Wire::Output })
            .route(path);
        let every = |m: u64| choose(&facts, &spec, m);
        match table(&facts, &spec) {
            Ok(ranges) => {
                let mut m = 0;
                for Range { last, config } in ranges {
                    // Every M of small ranges, many of large ones.
                    let step = ((last + 1 - m) / 64).max(1);
                    for m in (m..=last).step_by(step as usize).chain([last]) {
                        prop_assert_eq!(every(m).unwrap(), config, "{} at {}", spec, m);
                    }
                    m = last + 1;
                }
                prop_assert_eq!(m, max_m as u64 + 1);
            }
            Err(_) => prop_assert!((0..=max_m as u64).any(|m| every(m).is_err())),
        }
    }
}
