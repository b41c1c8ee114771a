//! Every operation, on random shapes, types, ranks, routes and schedules: within the bound of the f64 reference, and the
//! promised bits exactly. A failing case prints itself and shrinks; `TILEWEAVE_DEEP=10` runs ten times as many.

mod common;

use common::*;
use proptest::prelude::*;
use tileweave::{DType, Error, GroupConfig, Layout, Mainloop, Op, OpSpec, Path, Want, Wire};

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(Op::ALL.to_vec())
}

/// Shapes that break tiles: tiny, one off a tile's edge, fewer rows than ranks, nothing at all.
fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0usize..12, 3 => 0usize..140, 1 => prop::sample::select(vec![63usize, 64, 65, 127, 128, 129, 200, 260])]
}

fn world() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..=5, 1 => 6usize..=9, 1 => 10usize..=16]
}

prop_compose! {
    fn case()(
        op in op(), world in world(), m in extent(), n in extent(), k in extent(),
        dtype in prop::sample::select(DTYPES.to_vec()), f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(),
        by_k in prop::bool::weighted(0.3),
        gap in prop_oneof![3 => Just(0usize), 1 => 1usize..9], data_seed in any::<u64>(),
    ) -> Case {
        let mut c = Case::new(op, world, m, n, k, dtype).gap(gap).data(data_seed);
        let reduces = matches!(op, Op::GemmReduceScatter | Op::GemmAllReduce);
        c.bias = bias && op.has_gemm();
        c.layout = if by_k && op.has_gemm() { Layout::Nn } else { Layout::Nt };
        c.addend = addend && reduces;
        c.wire = if f32_wire && reduces { Wire::F32 } else { Wire::Output };
        c
    }
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: n * deep() as u32,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(140))]

    /// The contract: the reference's bound, equal ranks, fused equal to unfused, whatever the schedule; and the bytes
    /// that the kernels count are those that the machine saw leave.
    #[test]
    fn right_on_every_route(c in case(), seed in any::<u64>()) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            let node = node(c.world, seed.wrapping_add(i as u64));
            let ranks = group_for(&node, &c).unwrap();
            let results = run_on(&ranks, &c, &data, *path).unwrap();
            judge(&c, &data, &results, &path.to_string());
            check_traffic(&node, &ranks);
            if let Some(first) = &first {
                prop_assert!(*first == results, "{path} differs from fused");
            }
            first.get_or_insert(results);
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// A heap that holds only the smallest round: several rounds in one launch give the same bits as one.
    #[test]
    fn several_rounds(c in case(), rows in 100usize..400, seed in any::<u64>()) {
        let c = Case { m: rows, n: c.n.clamp(1, 100), world: c.world.min(5), ..c };
        let data = Data::new(&c);
        let path = c.routes()[0];
        let whole = run(&c, path, seed).unwrap();
        let node = node(c.world, seed);
        let need = smallest_heap(&node, &c, path);
        let ranks = node.group(c.world, &GroupConfig::default().one_shot_bytes(0).heap_bytes(need)).unwrap();
        // Twice: the second operation begins in the other half.
        for _ in 0..2 {
            let results = run_on(&ranks, &c, &data, path).unwrap();
            judge(&c, &data, &results, "several rounds");
            prop_assert!(whole == results);
        }
        check_traffic(&node, &ranks);
    }
}

fn hopper(c: Case) -> Case {
    c.mainloop(Mainloop::Hopper)
}

/// One case under many schedules: the same bits.
#[test]
fn bits_do_not_depend_on_the_schedule() {
    let all = [
        Case::new(Op::GemmReduceScatter, 3, 130, 72, 200, DType::Bf16).bias(),
        Case::new(Op::GemmAllReduce, 4, 100, 130, 96, DType::F16).addend(),
        Case::new(Op::GemmAllReduce, 5, 1, 64, 96, DType::Bf16),
        Case::new(Op::AllGatherGemm, 4, 101, 75, 67, DType::Bf16),
        Case::new(Op::AllReduce, 6, 37, 253, 0, DType::F32),
        hopper(Case::new(Op::GemmReduceScatter, 2, 270, 72, 192, DType::Bf16)).bias(),
        hopper(Case::new(Op::GemmAllReduce, 3, 200, 136, 192, DType::F16)).addend(),
        hopper(Case::new(Op::GemmAllReduce, 2, 70, 64, 96, DType::Bf16)),
        hopper(Case::new(Op::AllGatherGemm, 3, 201, 150, 72, DType::Bf16)),
    ];
    for c in &all {
        let data = Data::new(c);
        let mut first = None;
        for seed in 0..12 * deep() as u64 {
            for path in c.routes() {
                let results = run(c, *path, seed).unwrap();
                judge(c, &data, &results, &path.to_string());
                assert_eq!(
                    *first.get_or_insert_with(|| results.clone()),
                    results,
                    "{c:?} {path} seed {seed}"
                );
            }
        }
    }
}

/// One group, thousands of operations, another M and new inputs at each, plans made once: halves alternate, nothing leaks
/// from one operation into the next.
#[test]
fn thousands_of_operations_on_one_group() {
    let world = 3;
    let most = Case::new(Op::GemmAllReduce, world, 80, 72, 40, DType::Bf16);
    let ops = [
        Op::GemmAllReduce,
        Op::GemmReduceScatter,
        Op::AllGatherGemm,
        Op::AllReduce,
        Op::ReduceScatter,
        Op::AllGather,
    ];
    let like = |op: Op, m: usize| Case {
        op,
        m,
        k: if op.has_gemm() { most.k } else { 0 },
        ..most.clone()
    };
    let specs: Vec<OpSpec> = ops.iter().flat_map(|op| like(*op, most.m).all_specs()).collect();
    let node = node(world, 5);
    let config = GroupConfig::default()
        .one_shot_bytes(8 << 10)
        .sized_for(&specs, world)
        .unwrap();
    let ranks = node.group(world, &config).unwrap();
    let plans: Vec<Vec<tileweave::Plan>> = ops
        .iter()
        .flat_map(|op| like(*op, most.m).routes().iter().map(move |path| (*op, *path)))
        .map(|(op, path)| {
            ranks
                .iter()
                .map(|r| r.plan(&like(op, most.m).spec(r.rank(), path)).unwrap())
                .collect()
        })
        .collect();
    let mut rng = Rng(9);
    let mut in_flight: Vec<(Case, Data, Vec<Loaded>)> = Vec::new();
    for i in 0..2000 * deep() {
        let plans = &plans[rng.below(plans.len())];
        let m = [rng.below(most.m + 1), 1, 2, most.m][rng.below(4)];
        let c = like(plans[0].spec().op, m).data(rng.next());
        let data = Data::new(&c);
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        for (plan, l) in plans.iter().zip(&mut loaded) {
            l.launch(plan, m).unwrap();
        }
        in_flight.push((c, data, loaded));
        // Several operations in the streams at once, most of the time.
        if in_flight.len() == 8 || i % 13 == 0 {
            for rank in &ranks {
                let all = || in_flight.iter().map(|(c, ..)| (c.op, c.m)).collect::<Vec<_>>();
                rank.synchronize()
                    .unwrap_or_else(|e| panic!("operation {i}, rank {}: {e}\n{:?}", rank.rank(), all()));
            }
            for (c, data, loaded) in in_flight.drain(..) {
                let results: Vec<Vec<u8>> = loaded.iter().map(|l| l.out.read().unwrap()).collect();
                judge(&c, &data, &results, &format!("operation {i}"));
            }
        }
    }
    check_traffic(&node, &ranks);
}

/// NaN and infinity are data: they come out where they went in.
#[test]
fn nan_and_infinity_propagate() {
    let (m, n) = (5, 300);
    for dtype in DTYPES {
        let c = Case::new(Op::AllReduce, 3, m, n, 0, dtype);
        let node = node(3, 1);
        let ranks = group_for(&node, &c).unwrap();
        let plans: Vec<_> = ranks
            .iter()
            .map(|r| r.plan(&c.spec(r.rank(), Path::Unfused)).unwrap())
            .collect();
        let special = |rank: usize| -> Vec<f64> {
            let mut v = vec![1.0; m * n];
            v[rank] = f64::NAN;
            v[10 + rank] = f64::INFINITY;
            v[20] = [f64::INFINITY, f64::NEG_INFINITY, 1.0][rank];
            v
        };
        let mut data: Vec<Slab> = ranks
            .iter()
            .map(|r| Slab::new(r, m, n, 0, dtype, Some(&special(r.rank()))).unwrap())
            .collect();
        for (plan, slab) in plans.iter().zip(&mut data) {
            plan.launch(&tileweave::Operands::in_place(m, slab.mat_mut().unwrap()))
                .unwrap();
        }
        for (rank, slab) in ranks.iter().zip(&data) {
            rank.synchronize().unwrap();
            let got = tileweave::reference::decode(dtype, &slab.read().unwrap());
            assert!(
                got[..3].iter().all(|v| v.is_nan()) && got[20].is_nan(),
                "{:?}",
                &got[..24]
            );
            assert!(got[10..13].iter().all(|v| *v == f64::INFINITY));
            assert!(got[30..].iter().all(|v| *v == 3.0));
        }
    }
}

/// Ranks that launch different operations: every rank gets an error that names both.
#[test]
fn another_m_on_one_rank_is_caught() {
    for op in Op::ALL {
        for seed in 0..4 {
            let c = Case::new(op, 3, 70, 40, 24, DType::Bf16);
            let node = node(3, seed);
            let ranks = group_for(&node, &c).unwrap();
            let plans: Vec<_> = ranks
                .iter()
                .map(|r| r.plan(&c.spec(r.rank(), c.routes()[0])).unwrap())
                .collect();
            let other = Case { m: 64, ..c.clone() };
            let (data, other_data) = (Data::new(&c), Data::new(&other));
            let mut loaded: Vec<Loaded> = Vec::new();
            for rank in &ranks {
                let (case, data) = if rank.rank() == 1 {
                    (&other, &other_data)
                } else {
                    (&c, &data)
                };
                loaded.push(Loaded::new(rank, case, data).unwrap());
            }
            for (rank, (plan, l)) in plans.iter().zip(&mut loaded).enumerate() {
                l.launch(plan, if rank == 1 { 64 } else { 70 }).unwrap();
            }
            for rank in &ranks {
                match rank.synchronize() {
                    Err(Error::Disagreed { ours, theirs, .. }) => {
                        let both = format!("{ours} {theirs}");
                        // A flat all-reduce counts elements.
                        let m = |rows: usize| if op == Op::AllReduce { rows * 40 } else { rows };
                        assert!(
                            both.contains(&format!("M {}", m(70))) && both.contains(&format!("M {}", m(64))),
                            "{both}"
                        );
                    }
                    other => panic!("{op} seed {seed}, rank {}: {other:?}", rank.rank()),
                }
            }
            let again = loaded[0].launch(&plans[0], 70);
            assert!(matches!(again, Err(Error::Poisoned(_))), "{again:?}");
        }
    }
}

/// One rank launches another operation, of another type, wire, bias, N, or number of staging rounds: whatever the hello's
/// hash is made of, every rank gets an error that names both.
#[test]
fn anything_else_on_one_rank_is_caught() {
    let base = Case::new(Op::GemmAllReduce, 3, 70, 40, 24, DType::Bf16);
    let with = |change: &dyn Fn(&mut Case)| {
        let mut c = base.clone();
        change(&mut c);
        c
    };
    let others = [
        ("operation", with(&|c| c.op = Op::GemmReduceScatter)),
        ("type", with(&|c| c.dtype = DType::F16)),
        ("type and tile", with(&|c| c.dtype = DType::F32)),
        ("wire", with(&|c| c.wire = Wire::F32)),
        ("bias", with(&|c| c.bias = true)),
        ("N", with(&|c| c.n = 48)),
        ("algorithm", with(&|c| c.m = 4)),
        ("route", base.clone()),
    ];
    for (what, other) in &others {
        for seed in 0..4 {
            // What the odd rank launches must stand in each error in the words that it has when all ranks launch it.
            let said = |descriptor: &str| match *what {
                "operation" => descriptor.starts_with("gemm-reduce-scatter of "),
                "type" => descriptor.contains("(f16, wire f16"),
                "type and tile" => descriptor.contains("(f32, wire f32, f32 tiles"),
                "wire" => descriptor.contains("(bf16, wire f32"),
                "bias" => descriptor.contains(", bias"),
                "N" => descriptor.contains("M 70, N 48 "),
                "algorithm" => descriptor.contains("M 4, ") && descriptor.contains(", one-shot"),
                _ => descriptor.starts_with("all-reduce of ") && descriptor.contains("memory tiles"),
            };
            let node = node(3, seed);
            // Messages of up to 4 rows are one-shot.
            let specs = [base.all_specs(), other.all_specs()].concat();
            let config = GroupConfig::default().one_shot_bytes(1 << 10);
            let ranks = node.group(3, &config.sized_for(&specs, 3).unwrap()).unwrap();
            let odd = seed as usize % 3;
            let mut loaded = Vec::new();
            for rank in &ranks {
                let is_odd = rank.rank() == odd;
                let c = if is_odd { other } else { &base };
                let path = if is_odd && *what == "route" {
                    Path::Unfused
                } else {
                    Path::Fused
                };
                let plan = rank.plan(&c.spec(rank.rank(), path)).unwrap();
                let mut l = Loaded::new(rank, c, &Data::new(c)).unwrap();
                l.launch(&plan, c.m).unwrap();
                loaded.push(l);
            }
            for rank in &ranks {
                match rank.synchronize() {
                    Err(Error::Disagreed {
                        rank: a,
                        peer: b,
                        ours,
                        theirs,
                        ..
                    }) => {
                        assert!(a == odd || b == odd, "{what}: ranks {a} and {b}, not {odd}");
                        let (odds, others) = if a == odd { (&ours, &theirs) } else { (&theirs, &ours) };
                        assert!(said(odds) && !said(others), "{what}: {odds}; {others}");
                        assert!(
                            others.starts_with("gemm-all-reduce of M 70, N 40 (bf16, wire bf16, 64"),
                            "{others}"
                        );
                    }
                    end => panic!("another {what}, seed {seed}, rank {}: {end:?}", rank.rank()),
                }
            }
        }
    }
}

/// One rank with a plan of more staging rounds: a larger `max_m` does not change a launch's rounds, another N does, and
/// the error tells both ranks' panels.
#[test]
fn another_number_of_rounds_on_one_rank_is_caught() {
    let base = Case::new(Op::GemmReduceScatter, 3, 1000, 40, 24, DType::Bf16);
    let wide = Case { n: 200, ..base.clone() };
    let node = node(3, 7);
    let heap = smallest_heap(&node, &wide, Path::Fused);
    let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(heap);
    let ranks = node.group(3, &config).unwrap();
    let mut loaded = Vec::new();
    for rank in &ranks {
        let c = if rank.rank() == 2 { &wide } else { &base };
        let mut l = Loaded::new(rank, c, &Data::new(c)).unwrap();
        l.launch(&rank.plan(&c.spec(rank.rank(), Path::Fused)).unwrap(), c.m)
            .unwrap();
        loaded.push(l);
    }
    for rank in &ranks {
        let end = rank.synchronize();
        let Err(Error::Disagreed { ours, theirs, .. }) = &end else {
            panic!("rank {}: {end:?}", rank.rank());
        };
        let panel = |d: &str| {
            d.split("panel ")
                .nth(1)
                .and_then(|d| d.split(',').next())
                .unwrap()
                .to_string()
        };
        assert_ne!(panel(ours), panel(theirs), "{ours}; {theirs}");
        let both = format!("{ours} {theirs}");
        assert!(both.contains("N 40 ") && both.contains("N 200 "), "{both}");
    }
}

/// Nothing to do, M = N = K = 0, is an operation like any other: it ends, and the group goes on.
#[test]
fn empty_operations_end() {
    let full = Case::new(Op::GemmReduceScatter, 2, 9, 7, 5, DType::Bf16);
    for op in Op::ALL {
        let empty = Case {
            op,
            m: 0,
            n: 0,
            k: 0,
            ..full.clone()
        };
        let node = node(2, 0);
        let specs = [empty.all_specs(), full.all_specs()].concat();
        let ranks = node
            .group(2, &GroupConfig::default().sized_for(&specs, 2).unwrap())
            .unwrap();
        for path in empty.routes() {
            let results = run_on(&ranks, &empty, &Data::new(&empty), *path).unwrap();
            assert!(results.iter().all(Vec::is_empty), "{op} {path}");
            let data = Data::new(&full);
            judge(
                &full,
                &data,
                &run_on(&ranks, &full, &data, Path::Fused).unwrap(),
                "after nothing",
            );
        }
        check_traffic(&node, &ranks);
    }
}

/// A rank that never launches: the others end at the deadline and name it.
#[test]
fn a_silent_rank_is_named() {
    for op in [
        Op::GemmAllReduce,
        Op::GemmReduceScatter,
        Op::AllGatherGemm,
        Op::AllReduce,
    ] {
        let c = Case::new(op, 4, 70, 40, 24, DType::F16);
        let node = node(4, 3);
        let config = GroupConfig::default().deadline(std::time::Duration::from_millis(200));
        let ranks = node.group(4, &config.sized_for(&c.all_specs(), 4).unwrap()).unwrap();
        let data = Data::new(&c);
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        for (rank, l) in ranks.iter().zip(&mut loaded).filter(|(r, _)| r.rank() != 2) {
            let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
            l.launch(&plan, c.m).unwrap();
        }
        for rank in &ranks {
            match rank.synchronize() {
                Err(Error::Wait { root, chain, .. }) => {
                    assert_eq!(root.peer, 2, "{op}: {root}");
                    assert!(chain.iter().all(|w| w.rank != 2) && !chain.is_empty());
                }
                other => panic!("{op}, rank {}: {other:?}", rank.rank()),
            }
        }
    }
}

/// Auto says why, and an explicit route fails closed.
#[test]
fn routes_have_reasons() {
    let node = node(2, 0);
    let ranks = node.group(2, &GroupConfig::default()).unwrap();
    let spec = OpSpec::new(Op::GemmAllReduce, 512, 256, 4096, DType::Bf16);
    let plan = ranks[0].plan(&spec).unwrap();
    for range in plan.m_ranges() {
        let route = plan.route(range.start);
        assert!(!route.reason.is_empty() && !route.kernel.is_empty(), "{route}");
        assert_eq!(route, plan.route(range.end - 1));
    }
    let nccl = ranks[0].plan(&spec.clone().route(Want::Exactly(Path::Nccl)));
    assert!(
        matches!(nccl, Err(Error::RouteUnavailable { path: Path::Nccl, .. })),
        "{nccl:?}"
    );
}

/// One-shot packets carry 32 bits of their round: across the round where tags begin again, and the rounds at which packets
/// are cleared, results stay right.
#[test]
fn packet_tags_wrap() {
    let wrap = u64::from(u32::MAX);
    for start in [wrap - 3, 2 * wrap - 3, (1 << 30) - 3, (1 << 32) - 3] {
        let most = Case::new(Op::GemmAllReduce, 3, 20, 70, 40, DType::Bf16);
        let node = node(3, start);
        let config = GroupConfig::default().sized_for(&most.all_specs(), 3).unwrap();
        let ranks = node.group(3, &config).unwrap();
        for rank in &ranks {
            // The second word of the control block is the round.
            node.driver()
                .poke(rank.heap_address() + 8, &start.to_le_bytes())
                .unwrap();
        }
        for i in 0..8 {
            let c = Case {
                m: 20 - i,
                ..most.clone()
            }
            .data(start ^ i as u64);
            let data = Data::new(&c);
            let results = run_on(&ranks, &c, &data, Path::Fused).unwrap();
            judge(&c, &data, &results, &format!("round {}", start + i as u64));
        }
    }
}

/// Ranks without columns consume nothing and so wait for no push: several rounds go by for them before the peers' pushes
/// have come.
#[test]
fn ranks_without_columns_in_several_rounds() {
    for seed in [2534136521146958296, 0, 1, 2, 3, 4, 5, 6] {
        let c = Case::new(Op::AllGatherGemm, 5, 337, 2, 45, DType::F32).data(0);
        let data = Data::new(&c);
        let node = node(5, seed);
        let need = smallest_heap(&node, &c, Path::Fused);
        let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(need);
        let ranks = node.group(5, &config).unwrap();
        for _ in 0..2 {
            let results = run_on(&ranks, &c, &data, Path::Fused).unwrap();
            judge(&c, &data, &results, "ranks without columns");
        }
    }
}
