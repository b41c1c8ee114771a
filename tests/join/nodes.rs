//! Nodes of one process that share nothing but memory, as processes do: what ranks tell each other, and what becomes of those who
//! differ, fail or go.

use std::time::Instant;

use tileweave::{Error, Numerics, Plan};

use super::*;
use crate::common::{judge, run};

/// Ranks that have joined, each with a node of its own.
fn joined(c: &Case, seed: u64, config: &GroupConfig) -> Vec<Rank> {
    let id = fresh();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..c.world)
            .map(|rank| {
                let id = &id;
                scope.spawn(move || join(&sim(c.world, seed).1, rank, rank, c.world, id, config).unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Runs `each` on a thread for every rank.
fn on_each<T: Send>(ranks: &[Rank], each: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = ranks.iter().map(|rank| scope.spawn(move || each(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn every_operation_gives_the_bits_of_one_process() {
    for (seed, op) in Op::ALL.into_iter().enumerate() {
        for world in [1, 2, 3] {
            let c = case(op, world);
            let (data, path) = (Data::new(&c), c.routes()[0]);
            let ranks = joined(&c, seed as u64, &config(&c));
            let results: Vec<_> = on_each(&ranks, |rank| perform(rank, &c, &data, path).unwrap());
            judge(&c, &data, &results, "joined nodes");
            assert_eq!(results, run(&c, path, 0).unwrap(), "{op:?} of {world}");
        }
    }
}

#[test]
fn the_host_barrier_and_the_orderly_end_need_no_shared_memory() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let mut ranks = joined(&c, 1, &config(&c));
    on_each(&ranks, |rank| {
        for _ in 0..20 {
            rank.host_barrier(LONG).unwrap();
        }
    });
    match ranks[1].host_barrier(Duration::from_millis(5)).unwrap_err() {
        Error::Missing { rank, missing, .. } => assert_eq!((rank, missing), (1, vec![0, 2])),
        other => panic!("{other}"),
    }
    on_each(&ranks, |rank| drop(perform(rank, &c, &data, c.routes()[0]).unwrap()));
    // One goes in good order: nothing is wrong with the others, until they need it.
    ranks.remove(2).close(LONG).unwrap();
    let waits = ranks[0].host_barrier(LONG).unwrap_err();
    assert!(
        matches!(&waits, Error::Missing { missing, .. } if missing.contains(&2)),
        "{waits}"
    );
    ranks[0].synchronize().unwrap();
    let error = perform(&ranks[0], &c, &data, c.routes()[0]).unwrap_err();
    assert!(matches!(error, Error::PeerExited { rank: 2, .. }), "{error}");
    assert!(
        error.to_string().contains("left the group after 1 operations"),
        "{error}"
    );
}

#[test]
fn one_that_goes_while_others_wait_for_it_is_named() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let mut ranks = joined(&c, 2, &config(&c));
    let gone = ranks.pop().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            drop(gone);
        });
        for error in on_each(&ranks, |rank| perform(rank, &c, &data, c.routes()[0]).unwrap_err()) {
            let error = match error {
                Error::Poisoned(first) => (*first).clone(),
                error => error,
            };
            assert!(matches!(error, Error::PeerExited { rank: 2, .. }), "{error}");
        }
    });
    assert!(begin.elapsed() < LONG / 2, "the deadline ended it");
}

#[test]
fn an_abort_reaches_all_with_its_reason() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let ranks = joined(&c, 3, &config(&c));
    let waiting = &ranks[..2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            ranks[2].abort("the user left");
        });
        for error in on_each(waiting, |rank| perform(rank, &c, &data, c.routes()[0]).unwrap_err()) {
            let text = error.to_string();
            assert!(
                text.contains("rank 2 gave up: the group was aborted: the user left"),
                "{text}"
            );
        }
    });
    assert!(matches!(ranks[2].health(), Err(Error::Aborted { .. })));
}

#[test]
fn a_silent_rank_is_named_by_the_deadline_with_the_wait_at_the_root() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let ranks = joined(&c, 4, &config(&c).deadline(Duration::from_millis(300)));
    for error in on_each(&ranks[..2], |rank| perform(rank, &c, &data, c.routes()[0]).unwrap_err()) {
        let Error::Wait { root, verdict, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(root.peer, 2, "{error}");
        assert_eq!(verdict, "rank 2 never launched an operation");
    }
}

#[test]
fn mismatched_plans_are_named_on_all_ranks() {
    let c = case(Op::GemmAllReduce, 2);
    let other = Case { m: 69, ..c.clone() };
    let ranks = joined(&c, 5, &config(&c));
    let errors = on_each(&ranks, |rank| {
        let c = if rank.rank() == 1 { &other } else { &c };
        perform(rank, c, &Data::new(c), c.routes()[0]).unwrap_err()
    });
    for error in errors {
        let Error::Disagreed { ours, theirs, .. } = &error else {
            panic!("{error}")
        };
        let both = format!("{ours} / {theirs}");
        assert!(both.contains("M 70") && both.contains("M 69"), "{both}");
    }
}

#[test]
fn what_ranks_differ_in_is_refused_by_name_on_all() {
    let c = case(Op::AllReduce, 3);
    let right = config(&c);
    let cases: [(GroupConfig, &str); 3] = [
        (
            right.clone().max_ctas(2),
            "GroupConfig::max_ctas is 2 on rank 1 and 0 on rank 0",
        ),
        (
            right.clone().numerics(Numerics::InSwitch),
            "GroupConfig::numerics is InSwitch on rank 1 and Exact on rank 0",
        ),
        (
            right.clone().deadline(LONG * 2),
            "GroupConfig::deadline is 120s on rank 1 and 60s on rank 0",
        ),
    ];
    for (wrong, told) in cases {
        let id = fresh();
        std::thread::scope(|scope| {
            for rank in 0..3 {
                let config = if rank == 1 { &wrong } else { &right };
                let id = &id;
                scope.spawn(move || {
                    let error = join(&sim(3, 0).1, rank, rank, 3, id, config).unwrap_err();
                    assert!(matches!(error, Error::Mismatch { rank: 1, peer: 0, .. }), "{error}");
                    assert!(error.to_string().contains(told), "{error}");
                });
            }
        });
    }
}

#[test]
fn a_rank_that_cannot_go_on_says_why_to_all() {
    let c = case(Op::AllReduce, 2);
    let id = fresh();
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| join(&sim(2, 0).1, 0, 0, 2, &id, &config(&c)).unwrap_err().to_string());
        let (_, node) = sim(2, 0);
        let stream = stream_on(&**node.driver(), 1);
        node.driver().stream_begin_capture(stream).unwrap();
        // SAFETY: nobody ends the stream before the node goes.
        let mine = unsafe { Rank::join(&node, stream, 1, 2, &id, &config(&c)) }
            .unwrap_err()
            .to_string();
        assert!(mine.starts_with("the rank's stream is one that captures"), "{mine}");
        assert!(zero.join().unwrap().contains(&format!("rank 1 could not join: {mine}")));
    });
    // Two on one device, each of which sees it whole.
    let id = fresh();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let (id, c) = (&id, &c);
            scope.spawn(move || {
                let error = join(&sim(2, 0).1, 1, rank, 2, id, &config(c)).unwrap_err().to_string();
                assert!(error.contains("where rank 0 has share 0 of 1"), "{error}");
            });
        }
    });
}

#[test]
fn sums_of_the_switch_are_not_had_between_nodes_and_that_is_noted() {
    let c = case(Op::AllReduce, 2);
    let config = config(&c).numerics(Numerics::InSwitch);
    let id = fresh();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let (id, config, c) = (&id, &config, &c);
            scope.spawn(move || {
                let sim = SimConfig {
                    multicast: true,
                    ..SimConfig::new(2, 0)
                };
                let rank = join(&Node::sim(sim).unwrap(), rank, rank, 2, id, config).unwrap();
                let notes = rank.notes().join("\n");
                assert!(notes.contains("no sums in the switch, though asked for"), "{notes}");
                perform(&rank, c, &Data::new(c), c.routes()[0]).unwrap();
            });
        }
    });
}

#[test]
fn each_may_see_its_own_device_alone() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let id = fresh();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|rank| {
                let (id, c, data) = (&id, &c, &data);
                scope.spawn(move || {
                    let sim = SimConfig {
                        visible: Some(vec![2 - rank]),
                        ..SimConfig::new(3, 0)
                    };
                    // Everybody's device 0 is another one.
                    let rank = join(&Node::sim(sim).unwrap(), 0, rank, 3, id, &config(c)).unwrap();
                    assert_eq!(rank.topology().gpus.len(), 3);
                    let notes = rank.notes().join("; ");
                    assert!(notes.contains("no process sees the devices of all ranks"), "{notes}");
                    perform(&rank, c, data, c.routes()[0]).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    judge(&c, &data, &results, "one visible device each");
    assert_eq!(results, run(&c, c.routes()[0], 0).unwrap());
}

#[test]
fn graphs_are_replayed_between_nodes() {
    let c = case(Op::GemmAllReduce, 2);
    let data = Data::new(&c);
    let ranks = joined(&c, 6, &config(&c));
    let results = on_each(&ranks, |rank| {
        let plan: Plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
        let mut loaded = Loaded::new(rank, &c, &data).unwrap();
        let (node, stream) = (rank.node(), rank.stream());
        let driver = node.driver();
        driver.stream_begin_capture(stream).unwrap();
        loaded.launch(&plan, c.m).unwrap();
        let graph = driver.stream_end_capture(stream).unwrap();
        let exec = driver.graph_instantiate(graph, stream).unwrap();
        rank.host_barrier(LONG).unwrap();
        for _ in 0..20 {
            driver.graph_launch(exec, stream).unwrap();
        }
        rank.synchronize().unwrap();
        loaded.result().unwrap()
    });
    judge(&c, &data, &results, "replays");
}

/// Nobody waits for kernels here: what they know is looked for all the same.
#[test]
fn the_host_barrier_hears_of_a_failure_that_kernels_know() {
    let c = case(Op::GemmAllReduce, 2);
    let data = Data::new(&c);
    let ranks = joined(&c, 7, &config(&c).deadline(Duration::from_millis(200)));
    let mut loaded = Loaded::new(&ranks[0], &c, &data).unwrap();
    let plan = ranks[0].plan(&c.spec(0, c.routes()[0])).unwrap();
    loaded.launch(&plan, c.m).unwrap();
    let stream = ranks[0].stream();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // Somebody has to wait for a simulated device.
        scope.spawn(|| ranks[0].node().driver().stream_synchronize(stream).unwrap());
        let error = ranks[0].host_barrier(LONG).unwrap_err();
        let Error::Poisoned(first) = &error else {
            panic!("{error}")
        };
        assert!(
            matches!(&**first, Error::Wait { root, .. } if root.peer == 1),
            "{error}"
        );
    });
    assert!(begin.elapsed() < LONG / 2, "the barrier's deadline ended it");
}

#[test]
fn close_gives_up_what_is_not_done_in_time_on_all_ranks() {
    let c = case(Op::GemmAllReduce, 3);
    let data = Data::new(&c);
    let mut ranks = joined(&c, 8, &config(&c));
    let hasty = ranks.remove(0);
    let mut loaded = Loaded::new(&hasty, &c, &data).unwrap();
    let plan = hasty.plan(&c.spec(0, c.routes()[0])).unwrap();
    loaded.launch(&plan, c.m).unwrap();
    let told = "rank 0 was closed with work that was not done after 0.050 s";
    std::thread::scope(|scope| {
        // It waits for rank 2, which never launches.
        let waits = scope.spawn(|| perform(&ranks[0], &c, &data, c.routes()[0]).unwrap_err().to_string());
        let error = hasty.close(Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        let error = waits.join().unwrap();
        assert!(error.contains("rank 0 gave up") && error.contains(told), "{error}");
    });
    while ranks[1].health().is_ok() {
        std::thread::yield_now();
    }
    assert!(ranks[1].health().unwrap_err().to_string().contains(told));
}

/// Ranks of groups beside each other on the same nodes: rank `rank` has a node of its own, which serves all its groups.
fn side_by_side(world: usize, each: impl Fn(usize, &Node) + Sync) {
    std::thread::scope(|scope| {
        for rank in 0..world {
            let each = &each;
            scope.spawn(move || each(rank, &sim(world, rank as u64).1));
        }
    });
}

#[test]
fn two_groups_at_once_within_budgets_and_beyond_them() {
    let c = case(Op::AllReduce, 2);
    let data = Data::new(&c);
    let (one, two, three) = (fresh(), fresh(), fresh());
    side_by_side(2, |rank, node| {
        let sms = node
            .driver()
            .place_info(tileweave::driver::Place {
                device: rank,
                share: 0,
                shares: 1,
            })
            .unwrap()
            .sms;
        let half = config(&c).max_ctas(sms / 2);
        let groups = [&one, &two].map(|id| join(node, rank, rank, 2, id, &half).unwrap());
        // Not in the same order on both ranks: within the budgets both groups' kernels are resident.
        let launched: Vec<_> = (0..2)
            .map(|turn| {
                let group = &groups[(turn + rank) % 2];
                let plan = group.plan(&c.spec(rank, c.routes()[0])).unwrap();
                let mut loaded = Loaded::new(group, &c, &data).unwrap();
                loaded.launch(&plan, c.m).unwrap();
                loaded
            })
            .collect();
        for group in &groups {
            group.synchronize().unwrap();
        }
        let results: Vec<_> = launched.iter().map(|loaded| loaded.result().unwrap()).collect();
        assert_eq!(results[0], results[1]);
        // A third has no room, and every rank is told the numbers.
        let error = join(node, rank, rank, 2, &three, &half).unwrap_err().to_string();
        assert!(
            error.contains("max_ctas") && error.contains("SMs of other groups"),
            "{error}"
        );
    });
}

#[test]
fn subgroups_work_between_nodes() {
    let world = fresh();
    let pair = case(Op::GemmAllReduce, 2);
    let data = Data::new(&pair);
    let expected = run(&pair, pair.routes()[0], 0).unwrap();
    side_by_side(4, |rank, node| {
        let (c, data) = (&pair, &data);
        let half = Id::of([&world.0[..], &[rank as u8 / 2]].concat());
        let all = join(node, rank, rank, 4, &world, &config(&case(Op::AllReduce, 4))).unwrap();
        let part = join(node, rank, rank % 2, 2, &half, &config(c)).unwrap();
        assert_eq!((all.world(), part.world(), part.place().device), (4, 2, rank));
        assert_eq!(perform(&part, c, data, c.routes()[0]).unwrap(), expected[rank % 2]);
        all.host_barrier(LONG).unwrap();
    });
}

#[test]
fn the_wrong_graph_on_one_node_is_named_by_health_alone() {
    let c = case(Op::GemmAllReduce, 2);
    let other = Case { m: 35, ..c.clone() };
    let ranks = joined(&c, 9, &config(&c));
    let errors = on_each(&ranks, |rank| {
        let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
        let (node, stream) = (rank.node(), rank.stream());
        let driver = node.driver();
        let mut kept = Vec::new();
        let execs = [&c, &other].map(|c| {
            let mut loaded = Loaded::new(rank, c, &Data::new(c)).unwrap();
            driver.stream_begin_capture(stream).unwrap();
            loaded.launch(&plan, c.m).unwrap();
            kept.push(loaded);
            let graph = driver.stream_end_capture(stream).unwrap();
            driver.graph_instantiate(graph, stream).unwrap()
        });
        rank.host_barrier(LONG).unwrap();
        for turn in 0..10 {
            // Rank 1 takes the other bucket at the sixth replay.
            let wrong = usize::from(rank.rank() == 1 && turn == 5);
            driver.graph_launch(execs[wrong], stream).unwrap();
        }
        driver.stream_synchronize(stream).unwrap();
        rank.health().unwrap_err()
    });
    for error in errors {
        let Error::Disagreed {
            epoch, ours, theirs, ..
        } = &error
        else {
            panic!("{error}")
        };
        let both = format!("{ours} / {theirs}");
        assert!(
            *epoch == 6 && both.contains("M 70") && both.contains("M 35"),
            "epoch {epoch}: {both}"
        );
    }
}
