//! Groups beside each other: each rank has a node of its own, which serves all its groups.

use super::*;
use crate::common::run;

/// Runs `each` on a thread and a node for every rank.
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
            .place_info(Place {
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
