use super::super::staging::TileBytes;
use super::*;
use crate::dtype::DType;
use crate::route::constants::SIMULATED;

pub(crate) fn facts(world: usize, heap: usize, ctas: u32) -> Facts {
    Facts {
        world,
        hopper: false,
        layout: Layout::new(heap, world, 65536).unwrap(),
        ctas: Kernel::all_clusters().map(|k| (k, ctas - ctas % k.1)).collect(),
        machine: Machine::assumed(SIMULATED, world, false),
        nccl: NcclPolicy::Never,
        communicators: Err("it was not asked of the group".to_string()),
        multicast: Err("it was not asked of the group".to_string()),
    }
}

fn spec(op: Op, n: usize, k: usize) -> OpSpec {
    OpSpec::new(op, n, k, 1 << 20, DType::Bf16)
}

#[test]
fn one_shot_gives_way_to_two_shot_and_the_small_tile_to_the_large() {
    let facts = facts(4, 1 << 26, 64);
    let config = |m| facts.fused(&spec(Op::GemmAllReduce, 512, 64), m).unwrap();
    let name = |m| config(m).main.unwrap().name();
    // 64 rows of 1 KiB are 64 KiB.
    assert_eq!(
        (name(0), name(1), name(64)),
        ("gemm_ar1_bf16_64", "gemm_ar1_bf16_64", "gemm_ar1_bf16_64")
    );
    assert_eq!((name(65), config(65).one_shot), ("gemm_ar_bf16_64", false));
    assert_eq!(
        (name(15 * 128), name(15 * 128 + 1)),
        ("gemm_ar_bf16_64", "gemm_ar_bf16_128")
    );
}

#[test]
fn kernels_of_the_paths() {
    let facts = facts(3, 1 << 26, 64);
    let names = |c: Config| (c.gemm.map(Kernel::name), c.main.map(Kernel::name));
    let unfused = |op| {
        names(
            facts
                .unfused(&spec(op, 4096, if op.has_gemm() { 64 } else { 0 }), 300, true)
                .unwrap(),
        )
    };
    assert_eq!(
        unfused(Op::GemmReduceScatter),
        (Some("gemm_bf16_128"), Some("reduce_scatter"))
    );
    assert_eq!(unfused(Op::GemmAllReduce), (Some("gemm_bf16_128"), Some("all_reduce")));
    assert_eq!(unfused(Op::AllGatherGemm), (Some("gemm_bf16_64"), Some("all_gather")));
    assert_eq!(unfused(Op::AllReduce), (None, Some("all_reduce")));
    let error = facts.fused(&spec(Op::AllReduce, 8, 0), 8).unwrap_err().to_string();
    assert_eq!(
        error,
        "route fused is not available: all-reduce has no GEMM to fuse with: ask for unfused"
    );
}

#[test]
fn a_flat_all_reduce_is_one_row() {
    let facts = facts(2, 1 << 26, 64);
    let config = |m, flat| facts.unfused(&spec(Op::AllReduce, 4096, 0), m, flat).unwrap().one_shot;
    // 8 x 4096 elements are 64 KiB.
    assert!(config(8, true) && config(8, false) && !config(9, true));
}

#[test]
fn too_small_a_heap_names_what_would_do() {
    let mut facts = facts(4, 1_500_000, 64);
    let spec = spec(Op::GemmReduceScatter, 1 << 14, 64);
    let Error::HeapTooSmall { need, what, .. } = facts.fused(&spec, 100).unwrap_err() else {
        panic!()
    };
    assert_eq!(
        what,
        "the smallest round of gemm_rs_bf16_64 of gemm-reduce-scatter (N = 16384, K = 64, bf16)"
    );
    facts.layout = Layout::new(need, 4, 65536).unwrap();
    assert!(facts.fused(&spec, 100).is_ok());
    facts.layout = Layout::new(need - 4096, 4, 65536).unwrap();
    assert!(facts.fused(&spec, 100).is_err());
    let Error::HeapTooSmall { need, .. } = facts.unfused(&spec, 1 << 14, true).unwrap_err() else {
        panic!()
    };
    facts.layout = Layout::new(need, 4, 65536).unwrap();
    assert!(facts.unfused(&spec, 1 << 14, true).is_ok());
}

/// A vocabulary's logits, a row on each of 8 ranks, in the default heap.
#[test]
fn a_plain_all_gather_of_a_few_wide_rows_fits_the_default_heap() {
    let facts = facts(8, 64 << 20, 64);
    let spec = spec(Op::AllGather, 32064, 0);
    for m in [0, 1, 8, 9, 64, 1 << 20] {
        assert!(facts.unfused(&spec, m, false).is_ok(), "{m}");
    }
    // Eight rows, once: no more is staged.
    let need = |m| {
        let (_, on, _) = kernel(&spec, Op::AllGather, m, false, &facts.setting());
        let staging = on.staging(Op::AllGather, 8, 1, TileBytes { wire: 0, output: 0 }, 64128);
        staging.bytes * staging.units
    };
    assert_eq!((need(8), need(72)), (8 * 64128, 72 * 64128));
}

/// Where CTAs share blocks, their products need room; without it no other number of splits is taken.
#[test]
fn products_of_splits_need_scratch() {
    let spec = spec(Op::GemmAllReduce, 1280, 8192);
    let mut facts = facts(4, 3 << 20, 64);
    type Choose = fn(&Facts, &OpSpec) -> Result<Config>;
    let fused: Choose = |facts, spec| facts.fused(spec, 5);
    let unfused: Choose = |facts, spec| facts.unfused(spec, 5, true);
    for (choose, named) in [
        (fused, "the products of 13 splits of gemm_ar1_bf16_64"),
        (unfused, "the unfused path's scratch"),
    ] {
        facts.layout = Layout::new(3 << 20, 4, 65536).unwrap();
        let Error::HeapTooSmall { what, need, .. } = choose(&facts, &spec).unwrap_err() else {
            panic!()
        };
        assert!(what.starts_with(named), "{what}");
        facts.layout = Layout::new(need - 4096, 4, 65536).unwrap();
        assert!(choose(&facts, &spec).is_err());
        facts.layout = Layout::new(need, 4, 65536).unwrap();
        let config = choose(&facts, &spec).unwrap();
        // 20 blocks of 13 products, 64 x 64 f32 each.
        assert_eq!((config.splits, config.product_bytes(&spec, 5)), (13, 20 * 13 * 16384));
    }
    // A two-shot's CTAs compute all splits of their blocks: as many, but no products in memory.
    let two_shot = facts.fused(&spec, 100).unwrap();
    assert_eq!(
        (two_shot.one_shot, two_shot.splits, two_shot.product_bytes(&spec, 100)),
        (false, 6, 0)
    );
    assert_eq!(facts.fused(&spec, 129).unwrap().splits, 1);
}

#[test]
fn waves_shrink_to_a_small_heap() {
    let facts = facts(8, 3_000_000, 200);
    let config = facts.fused(&spec(Op::GemmAllReduce, 1 << 12, 8), 4096).unwrap();
    assert!(config.grid_limit > 0 && config.grid_limit < 200);
}

/// Pairs are counted apart from single CTAs, and taken only where every rank has one of each kernel.
#[test]
fn pairs_need_pairs_of_sms() {
    let mut facts = facts(4, 1 << 28, 132);
    facts.hopper = true;
    let of = |facts: &Facts| {
        let config = facts.fused(&spec(Op::GemmAllReduce, 8192, 4096), 4096).unwrap();
        (config.clusters.0, config.grid_limit)
    };
    assert_eq!(of(&facts), (2, 132));
    let set = |facts: &mut Facts, pairs| {
        let in_pairs = facts.ctas.iter_mut().filter(|((_, cluster), _)| *cluster == 2);
        in_pairs.for_each(|(_, ctas)| *ctas = pairs);
    };
    set(&mut facts, 130);
    assert_eq!(of(&facts), (2, 130));
    set(&mut facts, 0);
    assert_eq!(of(&facts), (1, 132));
}

/// CTAs that only reduce leave the others to compute, and concern Hopper's two-shot kernels alone.
#[test]
fn reducers_come_out_of_what_is_resident() {
    let mut facts = facts(4, 1 << 28, 132);
    facts.hopper = true;
    let asked = |n: usize, m: u64| facts.fused(&spec(Op::GemmAllReduce, 8192, 4096).reducers(n), m);
    let of = |n, m| asked(n, m).map(|c| (c.grid_limit, c.reducers)).unwrap();
    assert_eq!(
        (of(0, 4096), of(16, 4096), of(130, 4096)),
        ((132, 0), (116, 16), (2, 130))
    );
    assert_eq!((of(16, 1), of(16, 100)), ((132, 0), (132, 0)), "one-shot; portable");
    assert_eq!(
        asked(132, 4096).unwrap_err().to_string(),
        "reducers is 132: expected at most 130: 132 CTAs of gemm_ar_bf16_256_sm90 are resident on every rank, and a pair must compute"
    );
}
