//! The Hopper mainloop: on random shapes, cut and placed in every way that its kernels know, within the bound of the f64
//! reference and with the promised bits. A failing case prints itself and shrinks; `TILEWEAVE_DEEP=10` runs ten times as many.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::*;
use proptest::prelude::*;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Mainloop, Node, Op, Path, Plan, Rank, Wire};

const GEMMS: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];

/// What was launched: kernel, device, cluster, rounds.
type Seen = Arc<Mutex<BTreeSet<(String, usize, u32, u32)>>>;

/// A node of devices with `sms` SMs, which notes what is launched.
fn node_of(world: usize, sms: u32, seed: u64) -> (Node, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let mut config = SimConfig::new(world, seed);
    config.sms = sms;
    config.launch_hook = Some(Arc::new(move |launch, p| {
        assert_eq!(launch.launch.grid % p.cluster, 0, "{}", launch.kernel);
        let device = p.group.rank as usize;
        log.lock()
            .unwrap()
            .insert((launch.kernel.to_string(), device, p.cluster, p.panels));
    }));
    (Node::new(Arc::new(SimNode::new(config).unwrap())), seen)
}

/// Ranks whose heap holds `c` in one round, or, with `several`, its smallest round and no more.
fn group_of(node: &Node, c: &Case, path: Path, max_ctas: u32, several: bool) -> Vec<Rank> {
    let config = GroupConfig::default().one_shot_bytes(0).max_ctas(max_ctas);
    let config = match several {
        true => config.heap_bytes(smallest_heap(node, c, path)),
        false => config.sized_for(&c.all_specs(), c.world).unwrap(),
    };
    node.group(c.world, &config).unwrap()
}

prop_compose! {
    /// Rows of x and of the weight are what TMA can address: each rank's K is a multiple of 8, and so are gaps.
    fn case()(
        op in prop::sample::select(GEMMS.to_vec()), world in prop_oneof![4 => 1usize..=4, 1 => 5usize..=8, 1 => 9usize..=16],
        m in prop_oneof![2 => 1usize..=130, 3 => 1usize..=400, 1 => 400usize..=700],
        n in prop_oneof![1 => 1usize..=20, 3 => 1usize..=300, 1 => prop::sample::select(vec![63usize, 65, 127, 128, 129, 256, 257]),
            // Where TMA can address the output, too.
            3 => (1usize..=36).prop_map(|eights| 8 * eights)],
        eights in 1usize..=24, shorter in any::<bool>(), dtype in prop::sample::select(vec![DType::Bf16, DType::F16]),
        f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(), gap in 0usize..3, data_seed in any::<u64>(),
    ) -> Case {
        let reduces = op != Op::AllGatherGemm;
        // Bounded in all: many ranks have less each.
        let (m, n) = if world > 4 { (m.min(300), n.min(150)) } else { (m, n) };
        let k = match reduces {
            // Among more than 8 ranks the last one may have 8 less: chunks stay whole.
            true => 8 * (eights * world - usize::from(shorter && world > 8 && eights > 1)),
            false => 8 * eights,
        };
        let mut c = Case::new(op, world, m, n, k, dtype).gap(8 * gap).data(data_seed).mainloop(Mainloop::Hopper);
        c.bias = bias;
        c.addend = addend && reduces;
        c.wire = if f32_wire && reduces { Wire::F32 } else { Wire::Output };
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// The contract, on few SMs or with few CTAs, in one round or in as many as the smallest heap makes of it, twice in a
    /// group: fused equal to unfused, and the first time to the second.
    #[test]
    fn right_on_every_route(c in case(), seed in any::<u64>(), sms in 2u32..=6, few in 2u32..=5, several in any::<bool>()) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            let (node, _) = node_of(c.world, sms, seed.wrapping_add(i as u64));
            let max_ctas = if seed.is_multiple_of(2) { few } else { 0 };
            let ranks = group_of(&node, &c, *path, max_ctas, several);
            for _ in 0..2 {
                let results = run_on(&ranks, &c, &data, *path).unwrap();
                judge(&c, &data, &results, &path.to_string());
                if let Some(first) = &first {
                    prop_assert!(*first == results, "{path} differs from fused");
                }
                first.get_or_insert(results);
            }
            check_traffic(&node, &ranks);
        }
    }
}

prop_compose! {
    /// Few rows: one-shot, K cut in ranges or not; now and then a rank that TMA does not serve.
    fn decode()(
        world in prop_oneof![3 => 1usize..=4, 1 => 5usize..=8], m in prop_oneof![3 => 1usize..=20, 2 => 1usize..=129], n in prop_oneof![1usize..=200, Just(128), Just(136)],
        eights in 1usize..=180, dtype in prop::sample::select(vec![DType::Bf16, DType::F16]), f32_wire in any::<bool>(),
        bias in any::<bool>(), addend in any::<bool>(), gap in 0usize..2, data_seed in any::<u64>(), unaligned in 0usize..16,
    ) -> Case {
        // Bounded in all.
        let (m, eights) = (if world > 4 { m.min(40) } else { m }, eights.min(400 / world));
        let mut c = Case::new(Op::GemmAllReduce, world, m, n, 8 * eights * world, dtype).gap(8 * gap).data(data_seed);
        (c.bias, c.addend) = (bias, addend);
        c.wire = if f32_wire { Wire::F32 } else { Wire::Output };
        c.unaligned = (unaligned < world).then_some(unaligned);
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    /// Both routes and any grid: one result.
    #[test]
    fn decode_on_every_route(c in decode(), seed in any::<u64>(), sms in 2u32..=5, few in 2u32..=3) {
        let data = Data::new(&c);
        let mut first: Option<Vec<Vec<u8>>> = None;
        for (i, path) in c.routes().iter().enumerate() {
            for (j, max_ctas) in [0, few].into_iter().enumerate() {
                let (node, seen) = node_of(c.world, sms, seed.wrapping_add((2 * i + j) as u64));
                let config = GroupConfig::default().one_shot_bytes(256 << 10).max_ctas(max_ctas);
                let ranks = node.group(c.world, &config.sized_for(&c.all_specs(), c.world).unwrap()).unwrap();
                for _ in 0..2 {
                    let results = run_on(&ranks, &c, &data, *path).unwrap();
                    judge(&c, &data, &results, &path.to_string());
                    if let Some(first) = &first {
                        prop_assert!(*first == results, "{path} with at most {max_ctas} CTAs differs");
                    }
                    first.get_or_insert(results);
                }
                check_traffic(&node, &ranks);
                let slim = |rank: usize| seen.lock().unwrap().iter().any(|l| l.1 == rank && l.0.ends_with("_64_sm90"));
                prop_assert!((0..c.world).all(|rank| slim(rank) != (c.unaligned == Some(rank))), "{:?}", seen);
            }
        }
    }
}

/// Results of both routes of `c`, each in `rounds` and with at most `max_ctas`, equal.
fn all_ways(c: &Case, ways: &[(u32, u32, bool)]) -> Vec<(String, usize, u32, u32)> {
    let data = Data::new(c);
    let mut first: Option<Vec<Vec<u8>>> = None;
    let mut all = Vec::new();
    for (i, (sms, max_ctas, several)) in ways.iter().enumerate() {
        for path in c.routes() {
            let (node, seen) = node_of(c.world, *sms, i as u64);
            let ranks = group_of(&node, c, *path, *max_ctas, *several);
            let what = format!("{path}, {sms} SMs, {max_ctas} CTAs, several rounds: {several}");
            let results = run_on(&ranks, c, &data, *path).unwrap_or_else(|e| panic!("{what}: {c:?}: {e}"));
            judge(c, &data, &results, &what);
            check_traffic(&node, &ranks);
            assert!(
                *first.get_or_insert_with(|| results.clone()) == results,
                "{what} differs: {c:?}"
            );
            all.extend(seen.lock().unwrap().iter().cloned());
        }
    }
    all
}

/// CTAs in pairs, from eight rows of blocks on: an odd number of rows of blocks, grids of one pair and of several, rounds of one.
#[test]
fn pairs() {
    let f32_wire = |c: Case| c.wire(Wire::F32).addend();
    let cases = [
        Case::new(Op::GemmAllReduce, 2, 1050, 130, 64, DType::Bf16).bias(),
        f32_wire(Case::new(Op::GemmAllReduce, 3, 2100, 60, 48, DType::F16)),
        Case::new(Op::GemmReduceScatter, 2, 2100, 130, 32, DType::F16).bias(),
        f32_wire(Case::new(Op::GemmReduceScatter, 1, 1030, 300, 72, DType::Bf16)),
        Case::new(Op::AllGatherGemm, 2, 2100, 264, 72, DType::Bf16).bias(),
        // A rank without columns.
        Case::new(Op::AllGatherGemm, 3, 3080, 2, 40, DType::Bf16),
    ];
    for c in cases {
        let c = c.mainloop(Mainloop::Hopper);
        let seen = all_ways(&c, &[(6, 0, false), (5, 3, true)]);
        // A rank without columns has nothing to pair, and its peers do not mind.
        let paired = |l: &&(String, usize, u32, u32)| l.0.contains("_sm90") && !c.n_of(l.1).is_empty();
        assert!(seen.iter().filter(paired).all(|l| l.2 == 2), "{seen:?}");
        assert!(seen.iter().any(|l| l.0.contains("_sm90") && l.3 > 2), "{seen:?}");
    }
}

/// Launches of an all-reduce by CTAs some of which only reduce: the same bits as without, unfused too, on every cut of the grid.
fn with_reducers(c: &Case, ways: &[(u32, u32, bool)]) {
    let data = Data::new(c);
    let mut first: Option<Vec<Vec<u8>>> = None;
    for (i, (sms, max_ctas, several)) in ways.iter().enumerate() {
        for reducers in [0, 2, 4] {
            let c = c.clone().reducers(reducers);
            let (node, seen) = node_of(c.world, *sms, i as u64);
            let what = format!("{sms} SMs, {max_ctas} CTAs, several rounds: {several}, {reducers} CTAs only reduce");
            let ranks = group_of(&node, &c, Path::Fused, *max_ctas, *several);
            for _ in 0..2 {
                let results = run_on(&ranks, &c, &data, Path::Fused).unwrap_or_else(|e| panic!("{what}: {c:?}: {e}"));
                judge(&c, &data, &results, &what);
                let first = first.get_or_insert_with(|| results.clone());
                assert!(*first == results, "{what} differs: {c:?}");
            }
            check_traffic(&node, &ranks);
            let rounds: BTreeSet<_> = seen.lock().unwrap().iter().map(|l| l.3).collect();
            assert!(!*several || rounds.iter().all(|rounds| *rounds > 2), "{what}: {seen:?}");
        }
    }
    let unfused = group_of(&node_of(c.world, 4, 9).0, c, Path::Unfused, 0, false);
    let unfused = run_on(&unfused, c, &data, Path::Unfused).unwrap();
    assert!(first.is_some_and(|first| first == unfused), "unfused differs: {c:?}");
}

/// Alone and in pairs, wide blocks and not, more reducing CTAs than computing ones, more than a wave has blocks, rounds of one wave,
/// ranks that run the portable twin.
#[test]
fn ctas_that_only_reduce() {
    let hopper = |world, m, n, k, dtype| Case::new(Op::GemmAllReduce, world, m, n, k, dtype);
    let ways = [(6, 0, false), (7, 0, true), (8, 6, true)];
    with_reducers(&hopper(2, 700, 200, 64, DType::Bf16).bias(), &ways);
    with_reducers(&hopper(3, 900, 130, 72, DType::F16).wire(Wire::F32).addend(), &ways);
    with_reducers(&hopper(5, 400, 264, 80, DType::Bf16), &ways);
    with_reducers(&hopper(1, 500, 136, 64, DType::Bf16), &ways[..2]);
    // In pairs.
    with_reducers(
        &hopper(2, 1050, 260, 48, DType::F16).bias(),
        &[(8, 0, false), (6, 0, true)],
    );
    // Wide blocks: octets that some threads have none of.
    with_reducers(&hopper(2, 1030, 1800, 16, DType::Bf16), &[(8, 0, false)]);
    // A rank beyond TMA, and one without K.
    with_reducers(&hopper(3, 800, 136, 72, DType::Bf16).unaligned(1).addend(), &ways);
    with_reducers(
        &hopper(2, 1050, 136, 48, DType::Bf16).unaligned(0),
        &[(8, 0, false), (6, 0, true)],
    );
    with_reducers(&hopper(4, 300, 5400, 30, DType::F16).bias(), &[(6, 0, false)]);
}

prop_compose! {
    fn all_reduce()(
        world in prop_oneof![4 => 1usize..=4, 1 => 5usize..=10], m in prop_oneof![2 => 130usize..=700, 1 => 1024usize..=1200], n in 8usize..=260,
        eights in 1usize..=8, ragged in any::<bool>(), dtype in prop::sample::select(vec![DType::Bf16, DType::F16]),
        f32_wire in any::<bool>(), bias in any::<bool>(), addend in any::<bool>(), data_seed in any::<u64>(), unaligned in 0usize..8,
    ) -> Case {
        let m = if world > 4 { m.min(400) } else { m };
        // The last rank's K may be no multiple of 8: it is beyond TMA.
        let k = world * 8 * eights - usize::from(ragged && world > 1);
        let mut c = Case::new(Op::GemmAllReduce, world, m, n, k, dtype).data(data_seed);
        (c.bias, c.addend) = (bias, addend);
        c.wire = if f32_wire { Wire::F32 } else { Wire::Output };
        c.unaligned = (unaligned < world).then_some(unaligned);
        c
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8 * deep() as u32, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn ctas_that_only_reduce_on_random_shapes(c in all_reduce(), sms in 6u32..=9, several in any::<bool>()) {
        let several = several && c.m > 600;
        let (node, _) = node_of(c.world, sms, c.data_seed);
        let data = Data::new(&c);
        let results = [0, 2, 4].map(|reducers| {
            let c = c.clone().reducers(reducers);
            let ranks = group_of(&node, &c, Path::Fused, 0, several);
            let results = run_on(&ranks, &c, &data, Path::Fused).unwrap();
            judge(&c, &data, &results, &format!("{reducers} CTAs only reduce"));
            results
        });
        prop_assert!(results[0] == results[1] && results[0] == results[2]);
    }
}

/// What one rank has and another has not, or has more of, is a disagreement; and what does not fit is refused.
#[test]
fn reducers_are_agreed_on() {
    let c = Case::new(Op::GemmAllReduce, 2, 300, 264, 64, DType::Bf16);
    for (one, two) in [(0, 2), (2, 4)] {
        let (node, _) = node_of(2, 6, 1);
        let ranks = group_of(&node, &c, Path::Fused, 0, false);
        let cases = [c.clone().reducers(one), c.clone().reducers(two)];
        let data = Data::new(&c);
        let _loaded: Vec<Loaded> = ranks
            .iter()
            .zip(&cases)
            .map(|(rank, c)| {
                let mut loaded = Loaded::new(rank, c, &data).unwrap();
                loaded
                    .launch(&rank.plan(&c.spec(rank.rank(), Path::Fused)).unwrap(), c.m)
                    .unwrap();
                loaded
            })
            .collect();
        for rank in &ranks {
            match rank.synchronize() {
                Err(Error::Disagreed { ours, theirs, .. }) => {
                    assert!(format!("{ours}{theirs}").contains("only reduce"))
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let (node, _) = node_of(2, 6, 1);
    let ranks = group_of(&node, &c, Path::Fused, 0, false);
    for path in [tileweave::Want::Auto, tileweave::Want::Exactly(Path::Fused)] {
        let refused = ranks[0]
            .plan(&c.spec(0, Path::Fused).route(path).reducers(6))
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("reducers is 6: expected at most 4: 6 CTAs of gemm_ar"),
            "{refused}"
        );
    }
}

/// Nothing to compute where pairs are taken.
#[test]
fn pairs_without_columns() {
    for op in GEMMS {
        let c = Case::new(op, 2, 2100, 0, 64, DType::Bf16).mainloop(Mainloop::Hopper);
        all_ways(&c, &[(4, 0, false)]);
    }
}

/// Blocks of 128 x 256, paired and not.
#[test]
fn wide_blocks() {
    for (op, n) in [
        (Op::GemmAllReduce, 1800),
        (Op::GemmReduceScatter, 1800),
        (Op::AllGatherGemm, 3601),
    ] {
        let c = Case::new(op, 2, 1030, n, 16, DType::Bf16).mainloop(Mainloop::Hopper);
        let c = if op == Op::GemmReduceScatter {
            c.wire(Wire::F32)
        } else {
            c
        };
        let seen = all_ways(&c, &[(4, 0, false)]);
        let wide = seen.iter().filter(|l| l.0.ends_with("_256_sm90")).count();
        assert_eq!(wide, 4, "the GEMM and the operation of two ranks: {seen:?}");
    }
}

/// Operands of one rank that TMA cannot address: it runs the portable twins, the others Hopper's kernels, and everything fits.
#[test]
fn one_rank_without_tma() {
    for op in GEMMS {
        // Wide blocks, whose portable twin has a kernel of its own, or smaller blocks where nobody minds; then pairs.
        for (rank, world, m, n) in [(0, 2, 384, 5400), (1, 3, 400, 130), (1, 2, 2100, 60)] {
            let n = if op == Op::AllGatherGemm { world * n } else { n };
            let c = Case::new(op, world, m, n, 24 * world, DType::Bf16).unaligned(rank);
            let seen = all_ways(&c, &[(4, 0, false), (4, 3, true)][..if n > 3000 { 1 } else { 2 }]);
            let kinds = |of_rank: bool| {
                let gemms = seen
                    .iter()
                    .filter(move |l| (l.1 == rank) == of_rank && l.0.contains("gemm"));
                gemms.map(|l| l.0.ends_with("_sm90")).collect::<Vec<_>>()
            };
            assert!(kinds(true).iter().all(|hopper| !hopper), "{seen:?}");
            assert!(kinds(false).iter().all(|hopper| *hopper), "{seen:?}");
        }
    }
}

/// The same where ranks differ in K: some have whole vectors of it, one has a ragged end, one has none.
#[test]
fn ranks_with_other_k() {
    for (op, world, k) in [
        (Op::GemmAllReduce, 4, 30),
        (Op::GemmAllReduce, 16, 113),
        (Op::GemmReduceScatter, 4, 29),
    ] {
        let m = if op == Op::GemmReduceScatter { 4 * 66 } else { 150 };
        let c = Case::new(op, world, m, 70, k, DType::F16).bias().addend();
        let seen = all_ways(&c, &[(4, 0, false)]);
        let hopper = |rank: usize| seen.iter().any(|l| l.1 == rank && l.0.ends_with("_sm90"));
        assert!(hopper(0) && !hopper(world - 1), "{seen:?}");
    }
}

/// One group: Hopper's and portable plans by turns, the same plan again and again, at any M, several in the streams at once.
#[test]
fn plans_of_both_mainloops_in_one_group() {
    let world = 2;
    let most = |op| Case::new(op, world, 300, 104, 64, DType::Bf16);
    let cases: Vec<(Case, Path)> = GEMMS
        .iter()
        .flat_map(|op| [Mainloop::Hopper, Mainloop::Portable].map(|mainloop| most(*op).mainloop(mainloop)))
        .flat_map(|c| [(c.clone(), Path::Fused), (c, Path::Unfused)])
        .collect();
    let specs: Vec<_> = cases.iter().flat_map(|(c, _)| c.all_specs()).collect();
    let (node, _) = node_of(world, 4, 5);
    let config = GroupConfig::default()
        .one_shot_bytes(8 << 10)
        .sized_for(&specs, world)
        .unwrap();
    // Less than all need: some take one round, some several.
    let bytes = config.heap_bytes * 2 / 3;
    let config = config.heap_bytes(bytes);
    let ranks = node.group(world, &config).unwrap();
    let plans: Vec<Vec<Plan>> = cases
        .iter()
        .map(|(c, path)| {
            ranks
                .iter()
                .map(|r| r.plan(&c.spec(r.rank(), *path)).unwrap())
                .collect()
        })
        .collect();
    let mut rng = Rng(3);
    let mut in_flight: Vec<(Case, Data, Vec<Loaded>)> = Vec::new();
    for i in 0..72 * deep() {
        let which = rng.below(cases.len());
        for _ in 0..1 + i % 2 {
            let m = [1 + rng.below(300), 1, 130, 300][rng.below(4)];
            let c = Case {
                m,
                ..cases[which].0.clone()
            }
            .data(rng.next());
            let data = Data::new(&c);
            let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
            for (plan, l) in plans[which].iter().zip(&mut loaded) {
                l.launch(plan, m).unwrap();
            }
            in_flight.push((c, data, loaded));
        }
        if in_flight.len() >= 6 || i % 13 == 0 {
            ranks
                .iter()
                .for_each(|rank| rank.synchronize().unwrap_or_else(|e| panic!("operation {i}: {e}")));
            for (c, data, loaded) in in_flight.drain(..) {
                let results: Vec<Vec<u8>> = loaded.iter().map(|l| l.out.read().unwrap()).collect();
                judge(&c, &data, &results, &format!("operation {i}"));
            }
        }
    }
    check_traffic(&node, &ranks);
}

/// Who asks for Hopper's mainloop gets it or is told what is in its way: at the plan, or at the launch what a plan cannot know.
#[test]
fn refused_with_the_limit() {
    for op in GEMMS {
        for path in [Path::Fused, Path::Unfused] {
            let (node, seen) = node_of(2, 4, 1);
            let good = Case::new(op, 2, 200, 40, 32, DType::Bf16).mainloop(Mainloop::Hopper);
            let ranks = group_of(&node, &good, path, 0, false);
            let plan = |c: &Case| ranks[0].plan(&c.spec(0, path)).map(drop);
            let refused = |c: Case, why: &str| match plan(&c) {
                Err(Error::RouteUnavailable { reason, .. }) => assert!(reason.contains(why), "{reason}"),
                other => panic!("{c:?}: {other:?}"),
            };
            refused(
                Case {
                    dtype: DType::F32,
                    ..good.clone()
                },
                "f32 has no Hopper mainloop",
            );
            refused(
                Case { k: 26, ..good.clone() },
                if op == Op::AllGatherGemm {
                    "K = 26 is 52 bytes"
                } else {
                    "K = 13 is 26 bytes"
                },
            );
            refused(Case { k: 0, ..good.clone() }, "K = 0");
            for rank in 0..2 {
                let c = good.clone().unaligned(rank);
                let name = ["x", "weight"][rank];
                let mut loaded = Loaded::new(&ranks[rank], &c, &Data::new(&c)).unwrap();
                let plan = ranks[rank].plan(&c.spec(rank, path)).unwrap();
                match loaded.launch(&plan, c.m) {
                    Err(Error::BadArgument { name: n, expected, .. }) => {
                        assert!(
                            n == name && expected.contains("multiples of 16 bytes"),
                            "{n}: {expected}"
                        );
                    }
                    other => panic!("{op} {path}, rank {rank}: {other:?}"),
                }
            }
            // Nothing was enqueued: the group goes on.
            assert!(seen.lock().unwrap().is_empty());
            let data = Data::new(&good);
            judge(
                &good,
                &data,
                &run_on(&ranks, &good, &data, path).unwrap(),
                "after refusals",
            );
        }
    }
}
