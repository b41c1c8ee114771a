//! What happens to a group when a rank does not come, goes, or does something else; and how a group ends.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Case, Data, Loaded, judge, run_on};
use tileweave::driver::sim::{Fault, SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Node, Op, Path, Plan, Rank, Result, WaitRecord};

fn node(world: usize, seed: u64, faults: Vec<Fault>) -> Node {
    let mut config = SimConfig::new(world, seed);
    config.faults = faults;
    Node::new(Arc::new(SimNode::new(config).unwrap()))
}

fn case(op: Op, world: usize) -> Case {
    Case::new(op, world, 70, 140, 24, DType::Bf16)
}

fn group(node: &Node, c: &Case) -> Vec<Rank> {
    let config = GroupConfig::default()
        .one_shot_bytes(0)
        .deadline(Duration::from_millis(20));
    node.group(c.world, &config.sized_for(&c.all_specs(), c.world).unwrap())
        .unwrap()
}

/// Every rank's plan and operands.
fn ready(ranks: &[Rank], c: &Case) -> Vec<(Plan, Loaded)> {
    let data = Data::new(c);
    let of = |rank: &Rank| {
        Ok((
            rank.plan(&c.spec(rank.rank(), c.routes()[0]))?,
            Loaded::new(rank, c, &data)?,
        ))
    };
    ranks.iter().map(of).collect::<Result<_>>().unwrap()
}

fn launch_all(ready: &mut [(Plan, Loaded)], m: usize) {
    for (plan, loaded) in ready {
        loaded.launch(plan, m).unwrap();
    }
}

/// The root of a failed wait, what is known of the culprit, and the chain.
#[track_caller]
fn waited(rank: &Rank) -> (Box<WaitRecord>, String, Vec<WaitRecord>) {
    match rank.synchronize() {
        Err(Error::Wait { root, verdict, chain }) => (root, verdict, chain),
        other => panic!("rank {}: {other:?}", rank.rank()),
    }
}

/// Nothing that rank 1 signals reaches rank 0, hellos included: rank 0 waits for it, and it is rank 1 that is named.
#[test]
fn lost_signals_name_their_sender() {
    for op in Op::ALL {
        for seed in 0..3 {
            let c = case(op, 3);
            let node = node(3, seed, vec![Fault::DropSignals { from: 1, to: 0 }]);
            let ranks = group(&node, &c);
            let mut ready = ready(&ranks, &c);
            launch_all(&mut ready, c.m);
            for rank in &ranks {
                let (root, verdict, chain) = waited(rank);
                assert_eq!(
                    (root.rank, root.peer),
                    (0, 1),
                    "{op}, seed {seed}: {root}; {verdict}; {chain:?}"
                );
            }
        }
    }
}

/// A rank that stays away in the second operation: the first one stands, the second names it.
#[test]
fn a_rank_that_stays_away_later() {
    for op in Op::ALL {
        let c = case(op, 3);
        let node = node(3, 7, Vec::new());
        let ranks = group(&node, &c);
        let mut ready = ready(&ranks, &c);
        launch_all(&mut ready, c.m);
        launch_all(&mut ready[..2], c.m);
        for rank in &ranks {
            let (root, verdict, _) = waited(rank);
            assert_eq!((root.peer, root.epoch, root.op.as_str()), (2, 2, op.name()), "{root}");
            assert_eq!(
                verdict, "rank 2 never launched it: its last operation is epoch 1",
                "{root}"
            );
        }
        assert_eq!(ranks[2].stats().operations(), 1);
    }
}

/// A slow rank is late, not wrong.
#[test]
fn a_slow_rank_is_waited_for() {
    for op in [Op::GemmAllReduce, Op::AllGatherGemm, Op::ReduceScatter] {
        let c = case(op, 3);
        let node = node(3, 5, vec![Fault::Slow { device: 1, factor: 20 }]);
        let config = GroupConfig::default().sized_for(&c.all_specs(), 3).unwrap();
        let ranks = node.group(3, &config).unwrap();
        let data = Data::new(&c);
        judge(&c, &data, &run_on(&ranks, &c, &data, c.routes()[0]).unwrap(), "slow");
    }
}

/// The host gives up while kernels wait: they end at once, long before their deadline, on every rank.
#[test]
fn an_abort_ends_a_wait() {
    let c = case(Op::GemmAllReduce, 2);
    let node = node(2, 1, Vec::new());
    let ranks = group(&node, &c);
    let mut ready = ready(&ranks, &c);
    let (plan, loaded) = &mut ready[0];
    loaded.launch(plan, c.m).unwrap();
    ranks[1].abort("shutting down");
    for rank in &ranks {
        let error = rank.synchronize().unwrap_err();
        assert_eq!(error.to_string(), "the group was aborted: shutting down");
    }
    let (plan, loaded) = &mut ready[1];
    assert!(matches!(loaded.launch(plan, c.m), Err(Error::Poisoned(_))));
}

/// After a failure the node serves a new group.
#[test]
fn a_new_group_after_a_failure() {
    let c = case(Op::GemmReduceScatter, 3);
    let node = node(3, 2, Vec::new());
    let ranks = group(&node, &c);
    let mut first = ready(&ranks, &c);
    launch_all(&mut first[1..], c.m);
    assert_eq!(waited(&ranks[1]).0.peer, 0);
    drop((first, ranks));
    let ranks = group(&node, &c);
    let data = Data::new(&c);
    for path in [Path::Fused, Path::Unfused] {
        judge(&c, &data, &run_on(&ranks, &c, &data, path).unwrap(), "a new group");
    }
}

/// Handles dropped over running work, also over work that waits for a launch that will not come.
#[test]
fn groups_end_whatever_is_running() {
    for op in Op::ALL {
        let c = case(op, 3);
        for launched in 0..=3 {
            let node = node(3, 9, Vec::new());
            let ranks = group(&node, &c);
            let mut ready = ready(&ranks, &c);
            launch_all(&mut ready[..launched], c.m);
            drop(ranks);
            drop(ready);
        }
    }
}

/// Two groups on one node, their operations interleaved, each in the same order on every rank.
#[test]
fn two_groups_share_a_node() {
    let (a, b) = (case(Op::GemmAllReduce, 3), case(Op::GemmReduceScatter, 2).data(5));
    let node = node(3, 4, Vec::new());
    let (ranks_a, ranks_b) = (group(&node, &a), group(&node, &b));
    let (data_a, data_b) = (Data::new(&a), Data::new(&b));
    for _ in 0..3 {
        judge(
            &a,
            &data_a,
            &run_on(&ranks_a, &a, &data_a, Path::Fused).unwrap(),
            "one group",
        );
        judge(
            &b,
            &data_b,
            &run_on(&ranks_b, &b, &data_b, Path::Unfused).unwrap(),
            "the other",
        );
    }
}

/// A thread for each rank, as runtimes have it.
#[test]
fn a_thread_for_each_rank() {
    for op in Op::ALL {
        let c = case(op, 3);
        let node = node(3, 6, Vec::new());
        let ranks = group(&node, &c);
        let data = Data::new(&c);
        // Every thread is attached before the first one goes on.
        let start = std::sync::Barrier::new(ranks.len());
        let run = |rank: &Rank| -> Result<Vec<u8>> {
            let guard = node.attach_thread();
            start.wait();
            let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0]))?;
            let mut loaded = Loaded::new(rank, &c, &data)?;
            for _ in 0..4 {
                loaded.launch(&plan, c.m)?;
            }
            rank.synchronize()?;
            let result = loaded.out.read();
            drop((loaded, guard));
            result
        };
        let run = &run;
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || run(rank))).collect();
            threads
                .into_iter()
                .map(|t| t.join().unwrap())
                .collect::<Result<Vec<_>>>()
                .unwrap()
        });
        judge(&c, &data, &results, "threads");
    }
}

/// Two groups whose operations fill the devices they share, each on a stream of its own: where one group's kernel comes first on
/// one device and the other's on the other, both wait, to the deadline. Not where the caller's events order them alike, nor with
/// budgets that fit together.
#[test]
fn groups_that_fill_each_others_devices_need_an_order_or_budgets() {
    let c = Case::new(Op::AllReduce, 2, 256, 256, 0, DType::F32);
    let run = |seed: u64, max_ctas: u32, ordered: bool| {
        let node = node(2, seed, Vec::new());
        let config = GroupConfig::default()
            .one_shot_bytes(0)
            .max_ctas(max_ctas)
            .deadline(Duration::from_millis(20));
        let config = config.sized_for(&c.all_specs(), 2).unwrap();
        let groups = [node.group(2, &config).unwrap(), node.group(2, &config).unwrap()];
        let mut work = [ready(&groups[0], &c), ready(&groups[1], &c)];
        let driver = node.driver();
        for device in 0..2 {
            let [first, second] = [0, 1].map(|group: usize| groups[group][device].stream());
            let (plan, loaded) = &mut work[0][device];
            loaded.launch(plan, c.m).unwrap();
            if ordered {
                let done = driver.event_create_for(first).unwrap();
                driver.event_record(done, first).unwrap();
                driver.stream_wait_event(second, done).unwrap();
            }
            let (plan, loaded) = &mut work[1][device];
            loaded.launch(plan, c.m).unwrap();
        }
        let ranks = groups.iter().flatten();
        ranks.map(Rank::synchronize).collect::<Result<Vec<()>>>()
    };
    let mut met = 0;
    for seed in 0..12 {
        run(seed, 0, true).unwrap();
        run(seed, 2, false).unwrap();
        match run(seed, 0, false) {
            Err(Error::Wait { root, .. }) if root.waited_ns >= 20_000_000 => met += 1,
            other => drop(other.unwrap()),
        }
    }
    assert!(met > 0, "no seed placed the groups crosswise");
}
