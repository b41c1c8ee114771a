//! How groups end, and begin again: dropping waits for nothing, and nothing piles up.

mod common;

use common::{Data, judge, ready, run_on, small_case, small_config, three_devices};
use tileweave::driver::Stream;
use tileweave::{Error, Op, Path, RankPlace};

/// Memory of simulated devices that this process has open.
fn open_memory() -> usize {
    let folder = std::fs::read_dir("/proc/self/fd").unwrap();
    let is_memory = |entry: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(entry.ok()?.path()).ok()?;
        target.to_string_lossy().contains("tileweave-sim").then_some(())
    };
    folder.filter_map(is_memory).count()
}

/// Everything that counts open memory runs here, one after the other: the count is the process's.
#[test]
fn nothing_is_waited_for_and_nothing_piles_up() {
    dropping_waits_for_nothing();
    a_node_goes_with_what_waits_in_it();
    handles_may_go_in_any_order();
    poisoned_and_made_again();
    work_on_a_callers_stream_outlives_the_group();
}

/// A kernel that waits for a rank that never launched: the handles go at once, the heaps when it has given up.
fn dropping_waits_for_nothing() {
    let c = small_case(Op::GemmAllReduce);
    let (sim, node) = three_devices(1);
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let mut work = ready(&ranks, &c);
    let (plan, loaded) = &mut work[0];
    loaded.launch(plan, c.m).unwrap();
    let before = sim.schedule_digest().unwrap();
    drop((work, ranks));
    assert_eq!(
        sim.schedule_digest().unwrap(),
        before,
        "the node ran: something was waited for"
    );
    assert_eq!(open_memory(), 3, "heaps were taken from under a kernel");
    // Whoever waits for this node next has it finish that kernel, too.
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let data = Data::new(&c);
    judge(
        &c,
        &data,
        &run_on(&ranks, &c, &data, Path::Fused).unwrap(),
        "a new group",
    );
    drop(ranks);
    assert_eq!(open_memory(), 0);
}

/// Nobody will ever wait for this node again, so its work is never done.
fn a_node_goes_with_what_waits_in_it() {
    for op in [Op::GemmAllReduce, Op::AllGatherGemm] {
        let c = small_case(op);
        let (sim, node) = three_devices(2);
        let (first, second) = (
            node.group(3, &small_config(&c)).unwrap(),
            node.group(3, &small_config(&c)).unwrap(),
        );
        for ranks in [first, second] {
            let mut work = ready(&ranks, &c);
            let (plan, loaded) = &mut work[1];
            loaded.launch(plan, c.m).unwrap();
        }
        assert_eq!(open_memory(), 6);
        drop((sim, node));
        let (_other, node) = three_devices(3);
        let ranks = node.group(3, &small_config(&c)).unwrap();
        assert_eq!(open_memory(), 3, "the heaps of a node that is gone are still there");
        drop(ranks);
    }
    assert_eq!(open_memory(), 0);
}

fn handles_may_go_in_any_order() {
    let c = small_case(Op::ReduceScatter);
    for order in 0..6 {
        let (_sim, node) = three_devices(4);
        let ranks = node.group(3, &small_config(&c)).unwrap();
        let mut work = ready(&ranks, &c);
        for (plan, loaded) in &mut work {
            loaded.launch(plan, c.m).unwrap();
        }
        ranks[0].synchronize().unwrap();
        let (plans, buffers): (Vec<_>, Vec<_>) = work.into_iter().unzip();
        let mut handles: Vec<Option<Box<dyn std::any::Any>>> =
            vec![Some(Box::new(ranks)), Some(Box::new(plans)), Some(Box::new(buffers))];
        let (first, second) = (order / 2, order % 2);
        drop(handles.remove(first));
        drop(handles.remove(second));
        assert_eq!(open_memory(), 3, "one handle keeps all heaps");
        drop(handles);
        // The other ranks' work may have been left in their streams: the next group gives back what it was.
        drop(node.group(1, &small_config(&c)).unwrap());
    }
    drop(three_devices(5).1.group(1, &small_config(&c)).unwrap());
    assert_eq!(open_memory(), 0);
}

/// A hundred groups fail, one after the other, each for another rank that stays away.
fn poisoned_and_made_again() {
    let c = small_case(Op::GemmReduceScatter);
    let (_sim, node) = three_devices(6);
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut files = 0;
    for turn in 0..100 {
        let away = turn % 3;
        let ranks = node.group(3, &small_config(&c)).unwrap();
        let mut work = ready(&ranks, &c);
        for (rank, (plan, loaded)) in work.iter_mut().enumerate().filter(|(rank, _)| *rank != away) {
            assert!(loaded.launch(plan, c.m).is_ok(), "rank {rank}");
        }
        let error = ranks[(away + 1) % 3].synchronize().unwrap_err();
        assert!(
            matches!(&error, Error::Wait { root, .. } if root.peer == away),
            "turn {turn}: {error}"
        );
        let (plan, loaded) = &mut work[away];
        assert!(matches!(loaded.launch(plan, c.m), Err(Error::Poisoned(_))));
        drop((ranks, work));
        if turn == 5 {
            files = open_files();
        }
    }
    assert!(open_files() <= files, "{files} open files became {}", open_files());
    assert_eq!(open_memory(), 0);
    let ranks = node.group(3, &small_config(&c)).unwrap();
    let data = Data::new(&c);
    judge(
        &c,
        &data,
        &run_on(&ranks, &c, &data, Path::Fused).unwrap(),
        "the last group",
    );
}

/// On a stream of the caller's, whose results he waits for himself when all handles are gone.
fn work_on_a_callers_stream_outlives_the_group() {
    let c = small_case(Op::AllReduce);
    let (_sim, node) = three_devices(7);
    let driver = node.driver();
    let places: Vec<_> = (0..3)
        .map(|device| tileweave::driver::Place {
            device,
            share: 0,
            shares: 1,
        })
        .collect();
    let streams: Vec<Stream> = places
        .iter()
        .map(|place| driver.stream_create(*place).unwrap())
        .collect();
    let on: Vec<RankPlace> = places
        .iter()
        .zip(&streams)
        .map(|(place, stream)| RankPlace {
            place: *place,
            stream: Some(*stream),
        })
        .collect();
    let data = Data::new(&c);
    // SAFETY: the streams are this node's, on their devices, and outlive the group.
    let ranks = unsafe { node.group_on(&on, &small_config(&c)) }.unwrap();
    let mut work = ready(&ranks, &c);
    for (plan, loaded) in &mut work {
        loaded.launch(plan, c.m).unwrap();
    }
    // One rank's result is read on the way, so that the kernels have run; the others' streams still hold what frees buffers.
    judge(
        &c,
        &data,
        &work
            .iter()
            .map(|(_, loaded)| loaded.out.read().unwrap())
            .collect::<Vec<_>>(),
        "a caller's streams",
    );
    for (plan, loaded) in &mut work {
        loaded.launch(plan, c.m).unwrap();
    }
    drop((ranks, work));
    assert_eq!(open_memory(), 3);
    for stream in streams {
        driver.stream_synchronize(stream).unwrap();
        driver.stream_destroy(stream).unwrap();
    }
    // The streams are gone, and are not asked again.
    drop(node.group(1, &small_config(&c)).unwrap());
    assert_eq!(open_memory(), 0);
}
