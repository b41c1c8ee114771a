//! How partials and results travel: pulled, every bit is as when pushed, and as unfused; added up by the switch, every rank has
//! the same, within the bound, and another schedule may have other bits. [sim]: the switch is the simulated node's.
#![cfg(target_os = "linux")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Case, Data, Loaded, Rng, check_traffic, deep, judge, run_on, smallest_heap};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{
    DType, Error, Exchange, GroupConfig, Mainloop, Node, Numerics, Op, OpSpec, Path, Probing, Rank, Want, Wire, abi,
    reference,
};

const REDUCING: [Op; 4] = [
    Op::GemmReduceScatter,
    Op::GemmAllReduce,
    Op::ReduceScatter,
    Op::AllReduce,
];

fn node(world: usize, seed: u64) -> Node {
    let config = SimConfig {
        multicast: true,
        ..SimConfig::new(world, seed)
    };
    Node::new(Arc::new(SimNode::new(config).unwrap()))
}

fn config() -> GroupConfig {
    GroupConfig::default().numerics(Numerics::InSwitch)
}

fn group(node: &Node, c: &Case) -> Vec<Rank> {
    let config = config().one_shot_bytes(0).sized_for(&c.all_specs(), c.world).unwrap();
    node.group(c.world, &config).unwrap()
}

/// Results of the case on a node of its own, its traffic checked.
fn run(c: &Case, path: Path, seed: u64) -> Vec<Vec<u8>> {
    let node = node(c.world, seed);
    let ranks = group(&node, c);
    let results = run_on(&ranks, c, &Data::new(c), path).unwrap_or_else(|e| panic!("{c:?}, seed {seed}: {e}"));
    check_traffic(&node, &ranks);
    results
}

fn any_case(rng: &mut Rng, ops: &[Op], worlds: std::ops::RangeInclusive<usize>) -> Case {
    let op = ops[rng.below(ops.len())];
    let world = worlds.start() + rng.below(worlds.end() - worlds.start() + 1);
    let dtype = [DType::Bf16, DType::F16, DType::F32][rng.below(3)];
    let (m, n, k) = (rng.below(200), rng.below(300), rng.below(130));
    let case = Case::new(op, world, m, n, k, dtype).data(rng.next());
    let case = if rng.below(3) == 0 { case.wire(Wire::F32) } else { case };
    let case = if op.has_gemm() && rng.below(2) == 0 {
        case.bias()
    } else {
        case
    };
    let case = if op.has_gemm() && rng.below(3) == 0 {
        case.addend()
    } else {
        case
    };
    if rng.below(3) == 0 {
        case.gap(rng.below(9))
    } else {
        case
    }
}

#[test]
fn pulled_bits_are_those_of_pushed_ones() {
    let mut rng = Rng(11);
    for seed in 0..40 * deep() as u64 {
        let push = any_case(&mut rng, &REDUCING, 1..=8).exchange(Exchange::Push);
        let pull = push.clone().exchange(Exchange::Pull);
        let expected = run(&push, push.routes()[0], seed);
        judge(&push, &Data::new(&push), &expected, "push");
        for path in pull.routes() {
            assert_eq!(run(&pull, *path, seed + 1), expected, "{path}: {pull:?}, seed {seed}");
        }
    }
}

#[test]
fn sums_of_the_switch_are_within_the_bound_and_equal_on_all_ranks() {
    let mut rng = Rng(12);
    for seed in 0..30 * deep() as u64 {
        let c = any_case(&mut rng, &[Op::GemmAllReduce, Op::AllReduce], 2..=8).exchange(Exchange::InSwitch);
        for path in c.routes() {
            judge(
                &c,
                &Data::new(&c),
                &run(&c, *path, seed),
                &format!("{path}, seed {seed}"),
            );
        }
    }
}

#[test]
fn another_schedule_has_other_sums() {
    let c = Case::new(Op::AllReduce, 5, 64, 512, 0, DType::F32).exchange(Exchange::InSwitch);
    let first = run(&c, Path::Unfused, 0);
    assert!((1..6).any(|seed| run(&c, Path::Unfused, seed) != first));
    // Of one seed it is the same one.
    assert_eq!(run(&c, Path::Unfused, 0), first);
}

/// What left each rank's memory, by hand: of bf16, 64 rows of 512 columns, two rows of blocks of each of three ranks.
#[test]
fn bytes_are_those_that_left() {
    let (world, bytes) = (4, 64 * 512 * 2);
    let sent = |op, exchange| {
        let c = Case::new(op, world, 64, 512, 256, DType::Bf16).exchange(exchange);
        let node = node(world, 3);
        let ranks = group(&node, &c);
        run_on(&ranks, &c, &Data::new(&c), c.routes()[0]).unwrap();
        ranks.iter().map(|rank| rank.stats().bytes_sent()).sum::<u64>()
    };
    // To or from the other ranks: each partial and each result three times in four, all ranks together.
    for exchange in [Exchange::Push, Exchange::Pull] {
        assert_eq!(sent(Op::AllReduce, exchange), 2 * 3 * bytes, "{exchange}");
        assert_eq!(sent(Op::GemmAllReduce, exchange), 2 * 3 * bytes, "{exchange}");
        assert_eq!(sent(Op::ReduceScatter, exchange), 3 * bytes, "{exchange}");
    }
    // Through the switch: each rank's partial of everything once, each result once.
    assert_eq!(sent(Op::AllReduce, Exchange::InSwitch), 5 * bytes);
}

/// Operations of all exchanges in turn, in several rounds each: halves are used again whoever read them last.
#[test]
fn exchanges_follow_each_other_in_one_heap() {
    for seed in 0..12 * deep() as u64 {
        let world = 2 + seed as usize % 4;
        let cases: Vec<Case> = [
            (Op::AllReduce, Exchange::Pull),
            (Op::GemmReduceScatter, Exchange::Push),
            (Op::AllReduce, Exchange::InSwitch),
            (Op::ReduceScatter, Exchange::Pull),
            (Op::GemmAllReduce, Exchange::Push),
            (Op::GemmAllReduce, Exchange::InSwitch),
            (Op::GemmAllReduce, Exchange::Pull),
        ]
        .into_iter()
        .enumerate()
        .map(|(i, (op, exchange))| Case::new(op, world, 70 + 37 * i, 260, 64, DType::Bf16).exchange(exchange))
        .collect();
        let node = node(world, seed);
        // Room for the smallest round of each: most take several.
        let bytes = cases.iter().map(|c| {
            let c = Case {
                exchange: None,
                ..c.clone()
            };
            smallest_heap(&node, &c, c.routes()[0])
        });
        let ranks = node
            .group(world, &config().one_shot_bytes(0).heap_bytes(bytes.max().unwrap()))
            .unwrap();
        let mut order = Rng(seed);
        for _ in 0..10 {
            let c = &cases[order.below(cases.len())];
            let data = Data::new(c);
            let results = run_on(&ranks, c, &data, c.routes()[0]);
            let results = results.unwrap_or_else(|e| panic!("{c:?}, seed {seed}: {e}"));
            judge(c, &data, &results, &format!("seed {seed}"));
        }
        check_traffic(&node, &ranks);
    }
}

/// By every CTA or by some that only reduce; also where one rank runs the portable twin.
#[test]
fn hoppers_kernels_pull_and_add_in_the_switch() {
    let mut rng = Rng(13);
    for seed in 0..6 * deep() as u64 {
        let world = 2 + rng.below(3);
        let of = |op: Op, m: usize| {
            let c = Case::new(op, world, m, 200 + 8 * seed as usize, 64 * world, DType::Bf16).data(seed);
            match seed % 3 {
                0 => c.mainloop(Mainloop::Hopper),
                1 => c.unaligned(seed as usize % world),
                _ if op == Op::GemmAllReduce => c.mainloop(Mainloop::Hopper).reducers(2),
                _ => c.mainloop(Mainloop::Hopper).wire(Wire::F32),
            }
        };
        let c = of(Op::GemmAllReduce, 140 + rng.below(130));
        let in_switch = c.clone().exchange(Exchange::InSwitch);
        let results = run(&in_switch, Path::Fused, seed);
        judge(&in_switch, &Data::new(&c), &results, "in-switch");
        for c in [c, of(Op::GemmReduceScatter, 130 * world)] {
            let expected = run(&c.clone().exchange(Exchange::Push), Path::Fused, seed);
            let pulled = run(&c.clone().exchange(Exchange::Pull), Path::Fused, seed + 1);
            assert_eq!(pulled, expected, "{c:?}, seed {seed}");
        }
    }
}

/// A rank that stays away is named, whatever others wait for; what they had not got is NaN. An abort ends them at once.
#[test]
fn ranks_that_stay_away_are_named_and_aborts_end_waits() {
    use Exchange::{InSwitch, Pull};
    let hopper = Some(Mainloop::Hopper);
    for (op, exchange, mainloop) in [
        (Op::ReduceScatter, Pull, None),
        (Op::AllReduce, Pull, None),
        (Op::AllReduce, InSwitch, None),
        (Op::GemmReduceScatter, Pull, hopper),
        (Op::GemmAllReduce, Pull, hopper),
        (Op::GemmAllReduce, InSwitch, None),
        (Op::GemmAllReduce, InSwitch, hopper),
    ] {
        for abort in [false, true] {
            let c = Case::new(op, 3, 200, 72, 3 * 64, DType::Bf16).exchange(exchange);
            let c = mainloop.map_or(c.clone(), |mainloop| c.mainloop(mainloop));
            let what = format!("{op}, {exchange}, {mainloop:?}, abort {abort}");
            let node = node(3, 5);
            let config = config().one_shot_bytes(0).deadline(Duration::from_millis(20));
            let ranks = node.group(3, &config.sized_for(&c.all_specs(), 3).unwrap()).unwrap();
            let data = Data::new(&c);
            let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
            for (rank, loaded) in ranks.iter().zip(&mut loaded).take(2) {
                let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
                loaded.launch(&plan, c.m).unwrap();
            }
            if abort {
                ranks[2].abort("enough");
            }
            for rank in &ranks {
                match rank.synchronize() {
                    Err(Error::Aborted { .. }) if abort => {}
                    Err(Error::Wait { root, .. }) if !abort => assert_eq!(root.peer, 2, "{what}: {root}"),
                    other => panic!("{what}: {other:?}"),
                }
            }
            for (rank, loaded) in loaded.iter().enumerate().take(2) {
                let out = reference::decode(c.dtype, &loaded.out.read().unwrap());
                assert!(out.iter().all(|value| value.is_nan()), "{what}, rank {rank}");
            }
        }
    }
}

#[test]
fn what_cannot_be_had_is_refused_with_the_reason() {
    let refused = |config: &GroupConfig, node: &Node, world: usize| {
        let ranks = node.group(world, config).unwrap();
        let c = Case::new(Op::AllReduce, world, 16, 64, 0, DType::F32).exchange(Exchange::InSwitch);
        ranks[0].plan(&c.spec(0, Path::Unfused)).unwrap_err().to_string()
    };
    let exact = refused(&GroupConfig::default(), &node(2, 0), 2);
    assert!(exact.contains("Numerics::InSwitch"), "{exact}");
    let shared = refused(&config(), &node(2, 0), 4);
    assert!(shared.contains("ranks 0 and 2 share device 0"), "{shared}");
    let without = refused(&config(), &Node::sim(SimConfig::new(2, 0)).unwrap(), 2);
    assert!(without.contains("device 0 (rank 0) has no multicast"), "{without}");
    let alone = refused(&config(), &node(2, 0), 1);
    assert!(alone.contains("there is one rank"), "{alone}");
    let none = OpSpec::new(Op::ReduceScatter, 64, 0, 16, DType::F32).exchange(Exchange::InSwitch);
    let none = node(2, 0).group(2, &config()).unwrap()[0]
        .plan(&none)
        .unwrap_err()
        .to_string();
    assert!(
        none.starts_with("route unfused is not available: no in-switch exchange, which was asked for: "),
        "{none}"
    );
    // An object can be made on it all the same, but what device 1 stores through this switch goes astray.
    let wrong = SimConfig {
        multicast: true,
        launch_hook: Some(Arc::new(|seen, params| {
            if params.k == abi::TW_PROBE_CAST && seen.kernel == "probe" && seen.place.device == 1 {
                params.hash += 1;
            }
        })),
        ..SimConfig::new(2, 0)
    };
    let wrong = Node::sim(wrong).unwrap();
    let probed = refused(&config().probing(Probing::Always), &wrong, 2);
    assert!(
        probed.contains("the probe of multicast failed: device 0: what device 1 sent through the switch"),
        "{probed}"
    );
    let ranks = wrong.group(2, &config().probing(Probing::Always)).unwrap();
    assert!(
        matches!(ranks[0].notes(), [note] if note.starts_with("no sums in the switch, though asked for: the probe")),
        "{:?}",
        ranks[0].notes()
    );
    // Untried, the claim is believed.
    assert!(wrong.group(2, &config()).unwrap()[0].notes().is_empty());
}

/// Where rows have gaps another tiling runs, but values travel as the route says.
#[test]
fn operands_with_gaps_travel_as_the_route_says() {
    for gap in [0, 3] {
        let c = Case::new(Op::AllReduce, 4, 64, 512, 0, DType::Bf16).gap(gap);
        let node = node(4, 1);
        let ranks = group(&node, &c);
        let data = Data::new(&c);
        let mut loaded: Vec<Loaded> = ranks.iter().map(|r| Loaded::new(r, &c, &data).unwrap()).collect();
        for (rank, loaded) in ranks.iter().zip(&mut loaded) {
            let plan = rank
                .plan(&c.spec(rank.rank(), Path::Unfused).route(Want::Auto))
                .unwrap();
            let reason = plan.route(c.m).reason;
            assert!(reason.contains("the switch adds"), "{reason}");
            loaded.launch(&plan, c.m).unwrap();
        }
        let sent = |rank: &Rank| rank.synchronize().map(|()| rank.stats()).unwrap().bytes_sent();
        // Each rank's partial once, each result once; pushed they were six quarters of the four.
        assert_eq!(ranks.iter().map(sent).sum::<u64>(), 5 * 64 * 512 * 2, "gap {gap}");
    }
}
