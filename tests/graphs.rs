//! CUDA graphs, as a runtime uses them: operations captured from a rank's stream, replayed by the thousand, between eager
//! launches and other graphs; and what happens when ranks replay different ones, or a capture is broken.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Case, Data, Loaded, Rng, judge};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{GraphExec, Place, Stream};
use tileweave::{
    Buffer, DType, Error, GroupConfig, Mainloop, MatMut, Node, Op, OpSpec, Operands, Plan, Rank, RankPlace, Result,
};

const LONG: Duration = Duration::from_secs(60);

/// The simulated node, also where the suite runs on a GPU: for what only it tells, or for devices by number.
fn simulated(world: usize, seed: u64) -> Node {
    Node::new(Arc::new(SimNode::new(SimConfig::new(world, seed)).unwrap()))
}

/// A graph, ready to be launched on its rank's stream.
struct Captured {
    rank: Rank,
    exec: GraphExec,
}

impl Captured {
    fn new(rank: &Rank, enqueue: impl FnOnce() -> Result<()>) -> Result<Captured> {
        let (node, stream) = (rank.node(), rank.stream());
        let driver = node.driver();
        driver.stream_begin_capture(stream)?;
        let enqueued = enqueue();
        let graph = driver.stream_end_capture(stream);
        enqueued?;
        let graph = graph?;
        let exec = driver.graph_instantiate(graph, stream)?;
        driver.graph_destroy(graph)?;
        driver.graph_upload(exec, stream)?;
        let rank = rank.clone();
        Ok(Captured { rank, exec })
    }

    fn replay(&self) -> Result<()> {
        self.rank.node().driver().graph_launch(self.exec, self.rank.stream())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.rank.node().driver().graph_exec_destroy(self.exec).unwrap();
    }
}

fn all(graphs: &[Captured]) {
    graphs.iter().for_each(|graph| graph.replay().unwrap());
}

fn synchronize(ranks: &[Rank]) {
    ranks.iter().for_each(|rank| rank.synchronize().unwrap());
}

fn read(loaded: &[Loaded]) -> Vec<Vec<u8>> {
    loaded.iter().map(|l| l.out.read().unwrap()).collect()
}

/// One [M, N] all-reduce of f32 per rank, of any number of rows.
struct Sum {
    rank: Rank,
    plan: Plan,
    x: Buffer,
    out: Buffer,
}

impl Sum {
    const N: usize = 64;

    fn new(rank: &Rank, max_m: usize) -> Sum {
        let bytes = max_m * Self::N * 4;
        Sum {
            rank: rank.clone(),
            plan: rank
                .plan(&OpSpec::new(Op::AllReduce, Self::N, 0, max_m, DType::F32))
                .unwrap(),
            x: rank.alloc(bytes).unwrap(),
            out: rank.alloc(bytes).unwrap(),
        }
    }

    fn launch(&mut self, m: usize) -> Result<()> {
        let x = self.x.mat(m, Self::N, DType::F32)?;
        let out = self.out.mat_mut(m, Self::N, DType::F32)?;
        self.plan.launch(&Operands::plain(m, x, out))
    }

    fn capture(&mut self, m: usize) -> Result<Captured> {
        let rank = self.rank.clone();
        Captured::new(&rank, || self.launch(m))
    }

    /// Behind the work in the stream: other operands at the same address, and no result.
    fn refill(&mut self, m: usize, value: f32) {
        self.x
            .upload(&vec![value + self.rank.rank() as f32; m * Self::N])
            .unwrap();
        self.out.fill(0xff).unwrap();
    }

    #[track_caller]
    fn check(&self, m: usize, value: f32) {
        let world = self.rank.world() as f32;
        let sum = world * value + world * (world - 1.0) / 2.0;
        let out = self.out.to_vec::<f32>(m * Self::N).unwrap();
        assert!(
            out.iter().all(|y| *y == sum),
            "rank {}: {out:?} is not {sum}",
            self.rank.rank()
        );
    }
}

fn sums(node: &Node, world: usize, max_m: usize) -> (Vec<Rank>, Vec<Sum>) {
    // Simulated time stands still while this thread launches for one rank after the other; a GPU's does not.
    let deadline = if common::on_gpu() { 2000 } else { 20 };
    let config = GroupConfig::default().deadline(Duration::from_millis(deadline));
    let spec = OpSpec::new(Op::AllReduce, Sum::N, 0, max_m, DType::F32);
    let ranks = node.group(world, &config.sized_for(&[spec], world).unwrap()).unwrap();
    let sums = ranks.iter().map(|rank| Sum::new(rank, max_m)).collect();
    (ranks, sums)
}

/// What is captured does not run; each replay is an operation like any other, and its bits are those of an eager launch.
#[test]
fn every_operation_replays_bit_for_bit() {
    let mut cases: Vec<Case> = Op::ALL.map(|op| Case::new(op, 3, 70, 140, 24, DType::Bf16)).into();
    // With tensor maps among the parameters, and products of shared blocks in memory that no launch clears.
    let hopper = Case::new(Op::GemmAllReduce, 2, 64, 256, 128, DType::Bf16).mainloop(Mainloop::Hopper);
    cases.extend([
        hopper.clone(),
        Case {
            op: Op::AllGatherGemm,
            ..hopper
        },
    ]);
    cases.push(Case::new(Op::GemmAllReduce, 2, 3, 70, 2048, DType::F16));
    for (seed, c) in cases.into_iter().enumerate() {
        let (node, data) = (common::node(c.world, seed as u64), Data::new(&c));
        let ranks = common::group_for(&node, &c).unwrap();
        for &path in c.routes() {
            let eager = common::run_on(&ranks, &c, &data, path).unwrap();
            judge(&c, &data, &eager, "eager");
            let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, &c, &data).unwrap()).collect();
            let before = ranks[0].stats().unwrap().operations;
            let graphs: Vec<_> = ranks
                .iter()
                .zip(&mut loaded)
                .map(|(rank, loaded)| {
                    let plan = rank.plan(&c.spec(rank.rank(), path)).unwrap();
                    Captured::new(rank, || loaded.launch(&plan, c.m)).unwrap()
                })
                .collect();
            synchronize(&ranks);
            assert_eq!(ranks[0].stats().unwrap().operations, before, "a capture ran");
            assert_ne!(read(&loaded), eager);
            for replay in 1..=3 {
                all(&graphs);
                synchronize(&ranks);
                assert_eq!(ranks[0].stats().unwrap().operations, before + replay);
                assert!(read(&loaded) == eager, "{c:?}, {path}, replay {replay}");
            }
        }
    }
}

/// Ten thousand replays, across the round where packet tags begin again, on operands that change under the graph.
#[test]
fn ten_thousand_replays() {
    const REPLAYS: usize = 10_000;
    const AT_ONCE: usize = 200;
    let node = common::node(2, 11);
    let (ranks, mut sums) = sums(&node, 2, 1);
    for rank in &ranks {
        // The second word of the control block is the round.
        let round = u64::from(u32::MAX) - REPLAYS as u64 / 2;
        node.driver()
            .poke(rank.heap_address() + 8, &round.to_le_bytes())
            .unwrap();
    }
    let graphs: Vec<_> = sums.iter_mut().map(|sum| sum.capture(1).unwrap()).collect();
    let mut eager = 0;
    for batch in 0..REPLAYS / AT_ONCE {
        let value = batch as f32;
        sums.iter_mut().for_each(|sum| sum.refill(1, value - 1.0));
        (0..AT_ONCE - 1).for_each(|_| all(&graphs));
        if batch % 10 == 3 {
            sums.iter_mut().for_each(|sum| sum.launch(1).unwrap());
            eager += 1;
        }
        sums.iter_mut().for_each(|sum| sum.refill(1, value));
        all(&graphs);
        synchronize(&ranks);
        sums.iter().for_each(|sum| sum.check(1, value));
    }
    for rank in &ranks {
        assert_eq!(rank.stats().unwrap().operations, REPLAYS as u64 + eager);
    }
}

/// A graph for each batch size, in any order, with eager launches of sizes that have none in between.
#[test]
fn buckets_and_eager_launches_in_any_order() {
    let (buckets, max_m) = ([1, 2, 3, 8, 20, 300], 300);
    let node = common::node(3, 4);
    let (ranks, mut sums) = sums(&node, 3, max_m);
    let plan = &sums[0].plan;
    assert_ne!(
        plan.route(1).kernel,
        plan.route(300).kernel,
        "both algorithms are among them"
    );
    let graphs: Vec<Vec<_>> = buckets
        .iter()
        .map(|m| sums.iter_mut().map(|sum| sum.capture(*m).unwrap()).collect())
        .collect();
    let mut rng = Rng(5);
    for step in 0..60 {
        let bucket = rng.below(buckets.len() + 1);
        let m = buckets.get(bucket).copied().unwrap_or(5 + rng.below(40));
        sums.iter_mut().for_each(|sum| sum.refill(m, step as f32));
        match graphs.get(bucket) {
            Some(graphs) => all(graphs),
            None => sums.iter_mut().for_each(|sum| sum.launch(m).unwrap()),
        }
        if step % 3 == 0 {
            synchronize(&ranks);
        }
        sums.iter().for_each(|sum| sum.check(m, step as f32));
    }
    synchronize(&ranks);
}

/// One rank replays another bucket: both are named. Afterwards replays end, without a result and without a wait, and what goes through
/// a plan is refused.
#[test]
fn the_wrong_bucket_is_named() {
    let node = common::node(3, 2);
    let (ranks, mut sums) = sums(&node, 3, 8);
    let graphs: Vec<_> = sums
        .iter_mut()
        .map(|sum| (sum.capture(4).unwrap(), sum.capture(8).unwrap()))
        .collect();
    let two: Vec<_> = sums.iter_mut().map(|sum| sum.capture(2).unwrap()).collect();
    sums.iter_mut().for_each(|sum| sum.refill(8, 0.0));
    for (four, _) in &graphs {
        four.replay().unwrap();
    }
    synchronize(&ranks);
    for (rank, (four, eight)) in graphs.iter().enumerate() {
        let graph = if rank == 1 { eight } else { four };
        graph.replay().unwrap();
        // What comes behind, of yet another size, tells nothing of what went wrong.
        (0..3).for_each(|_| two[rank].replay().unwrap());
    }
    let error = ranks[0].synchronize().unwrap_err();
    let Error::Disagreed {
        epoch: 2, ours, theirs, ..
    } = &error
    else {
        panic!("{error}")
    };
    // A flat all-reduce counts elements.
    let both = [ours, theirs].map(|words| [256, 512].map(|m| words.contains(&format!("M {m} "))));
    assert!(
        both == [[true, false], [false, true]] || both == [[false, true], [true, false]],
        "{error}"
    );
    assert!(error.to_string().contains("rank 1"), "{error}");

    let started = ranks[0].stats().unwrap().operations;
    sums.iter_mut().for_each(|sum| sum.refill(4, 1.0));
    for (four, _) in &graphs {
        four.replay().unwrap();
    }
    for (rank, sum) in ranks.iter().zip(&mut sums) {
        assert_eq!(rank.synchronize().unwrap_err().to_string(), error.to_string());
        assert_eq!(rank.health().unwrap_err().to_string(), error.to_string());
        assert!(
            sum.out.to_vec::<f32>(4 * Sum::N).unwrap().iter().any(|y| y.is_nan()),
            "a result after a failure"
        );
        assert!(matches!(sum.launch(4), Err(Error::Poisoned(_))));
        assert!(matches!(sum.capture(4), Err(Error::Poisoned(_))));
    }
    assert!(ranks[0].stats().unwrap().operations >= started);
}

/// A rank that replays less often than the others is told by name.
#[test]
fn a_rank_that_does_not_replay() {
    let node = common::node(2, 8);
    let (ranks, mut sums) = sums(&node, 2, 2);
    let graphs: Vec<_> = sums.iter_mut().map(|sum| sum.capture(2).unwrap()).collect();
    sums.iter_mut().for_each(|sum| sum.refill(2, 0.0));
    all(&graphs);
    graphs[0].replay().unwrap();
    let Err(Error::Wait { root, verdict, .. }) = ranks[0].synchronize() else {
        panic!()
    };
    assert_eq!((root.peer, root.epoch), (1, 2), "{root}; {verdict}");
}

/// A runtime's own streams: a step of several layers and a fill is one graph.
#[test]
fn a_step_on_the_callers_streams() {
    let node = simulated(2, 3);
    let driver = node.driver();
    let place = |device| Place {
        device,
        share: 0,
        shares: 1,
    };
    let streams: Vec<Stream> = (0..2)
        .map(|device| driver.stream_create(place(device)).unwrap())
        .collect();
    let on: Vec<_> = (0..2)
        .map(|device| RankPlace {
            place: place(device),
            stream: Some(streams[device]),
        })
        .collect();
    let config = GroupConfig::default();
    {
        // SAFETY: live streams of this driver at these places, ended below, behind everything of the group.
        let ranks = unsafe { node.group_on(&on, &config) }.unwrap();
        let mut sums: Vec<_> = ranks
            .iter()
            .map(|rank| (Sum::new(rank, 4), Sum::new(rank, 4)))
            .collect();
        let graphs: Vec<_> = ranks
            .iter()
            .zip(&mut sums)
            .map(|(rank, (a, b))| {
                Captured::new(rank, || {
                    // A fill and a copy on the device are captured as they are.
                    b.x.fill(0)?;
                    rank.node()
                        .driver()
                        .copy_device(b.out.ptr(), b.x.ptr(), 4 * Sum::N * 4, rank.stream())?;
                    rank.node()
                        .driver()
                        .copy_device(b.x.ptr(), a.x.ptr(), 3 * Sum::N * 4, rank.stream())?;
                    a.launch(4)?;
                    b.launch(3)
                })
                .unwrap()
            })
            .collect();
        for step in 0..5 {
            for (a, b) in &mut sums {
                a.refill(4, step as f32);
                b.refill(4, -1.0);
            }
            all(&graphs);
            for (a, b) in &sums {
                a.check(4, step as f32);
                b.check(3, step as f32);
                assert!(
                    b.out.to_vec::<f32>(4 * Sum::N).unwrap()[3 * Sum::N..]
                        .iter()
                        .all(|y| *y == 0.0)
                );
            }
        }
        synchronize(&ranks);
    }
    driver.stream_begin_capture(streams[1]).unwrap();
    // SAFETY: as above.
    let error = unsafe { node.group_on(&on, &config) }.unwrap_err().to_string();
    assert!(
        error.starts_with("rank 1's stream is one that captures: expected one that does not"),
        "{error}"
    );
    let graph = driver.stream_end_capture(streams[1]).unwrap();
    driver.graph_destroy(graph).unwrap();
    streams
        .into_iter()
        .for_each(|stream| driver.stream_destroy(stream).unwrap());
}

#[track_caller]
fn code(result: Result<impl Sized>) -> i64 {
    match result {
        Err(Error::Driver { code, .. }) => code,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was allowed"),
    }
}

/// What CUDA refuses in a capture is refused by its code, and breaks the capture; what the crate can refuse first does not.
#[test]
fn what_a_capture_does_not_take() {
    let node = simulated(2, 1);
    let (ranks, mut sums) = sums(&node, 2, 2);
    let (driver, rank, other) = (node.driver(), &ranks[0], &ranks[1]);
    let stream = rank.stream();
    assert_eq!(code(driver.stream_end_capture(stream)), 401);

    let graph = Captured::new(rank, || {
        assert_eq!(code(driver.stream_begin_capture(stream)), 401);
        sums[0].launch(2)?;
        for result in [rank.synchronize(), rank.synchronize()] {
            assert!(matches!(result, Err(Error::BadArgument { .. })), "{result:?}");
        }
        assert!(driver.stream_is_capturing(stream)? && !driver.stream_is_capturing(other.stream())?);
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| code(driver.stream_end_capture(stream)));
            assert_eq!(elsewhere.join().unwrap(), 908);
        });
        rank.health()
    })
    .unwrap();
    for step in 0..2 {
        sums.iter_mut().for_each(|sum| sum.refill(2, step as f32));
        graph.replay().unwrap();
        sums[1].launch(2).unwrap();
        sums.iter().for_each(|sum| sum.check(2, step as f32));
    }
}

/// Calls that break a capture.
#[test]
fn what_breaks_a_capture() {
    let node = simulated(2, 1);
    let (ranks, mut sums) = sums(&node, 2, 2);
    let (driver, rank, other) = (node.driver(), &ranks[0], &ranks[1]);
    let (stream, place) = (rank.stream(), rank.place());
    let (inside, outside) = (driver.event_create(place).unwrap(), driver.event_create(place).unwrap());
    driver.event_record(outside, stream).unwrap();
    let sum = &mut sums[0];
    let mut host = [0f32; 4];
    type Call<'a> = &'a mut dyn FnMut(&mut Sum) -> i64;
    let calls: [Call; 8] = [
        &mut |sum| code(sum.x.upload(&[1f32; 4])),
        &mut |sum| code(sum.out.download(&mut host)),
        &mut |_| code(driver.stream_synchronize(stream)),
        &mut |_| code(driver.stream_destroy(stream)),
        &mut |_| code(rank.alloc(4)),
        &mut |_| code(driver.load_kernels(place)),
        &mut |_| code(node.group(2, &GroupConfig::default())),
        &mut |_| code(driver.stream_wait_event(stream, outside)) - 5,
    ];
    for (i, call) in calls.into_iter().enumerate() {
        driver.stream_begin_capture(stream).unwrap();
        sum.launch(1).unwrap();
        assert_eq!(call(sum), 900, "call {i}");
        assert_eq!(code(sum.launch(1)), 901, "call {i}");
        assert!(driver.stream_is_capturing(stream).unwrap());
        assert_eq!(code(driver.stream_end_capture(stream)), 901, "call {i}");
    }
    // An event of a capture orders within it, and never happens.
    let graph = sum.capture(1).unwrap();
    driver.stream_begin_capture(stream).unwrap();
    driver.event_record(inside, stream).unwrap();
    driver.stream_wait_event(stream, inside).unwrap();
    assert_eq!(code(driver.event_elapsed_ms(inside, outside)), 907);
    assert!(driver.stream_wait_event(other.stream(), inside).is_err());
    let empty = driver.stream_end_capture(stream).unwrap();
    let nothing = driver.graph_instantiate(empty, stream).unwrap();
    driver.graph_launch(nothing, stream).unwrap();
    rank.synchronize().unwrap();
    driver.graph_exec_destroy(nothing).unwrap();
    // Where it can be told that a graph is not a stream's, it is.
    let error = driver.graph_launch(graph.exec, other.stream()).unwrap_err().to_string();
    assert!(
        error.contains("device 1") && error.contains("one of device 0"),
        "{error}"
    );
    driver.graph_destroy(empty).unwrap();
    assert!(driver.graph_destroy(empty).is_err() && driver.graph_instantiate(empty, stream).is_err());
    assert!(driver.graph_launch(nothing, stream).is_err());
}

/// Every rank's thread captures, all meet, and only then does the first one launch.
#[test]
fn a_thread_for_each_rank_and_a_barrier_between() {
    let node = common::node(3, 6);
    let (ranks, sums) = sums(&node, 3, 2);
    let attached = std::sync::Barrier::new(ranks.len());
    let run = |mut sum: Sum| -> Result<()> {
        let (_guard, rank) = (sum.rank.node().attach_thread(), sum.rank.clone());
        attached.wait();
        for step in 0..4 {
            if rank.rank() == step % 3 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let graph = sum.capture(2)?;
            rank.host_barrier(LONG)?;
            sum.refill(2, step as f32);
            graph.replay()?;
            // Rank 0 is blocked in the driver while the others wait for it: they do not hold its work up.
            if rank.rank() == 0 {
                rank.synchronize()?;
            }
            rank.host_barrier(LONG)?;
            rank.synchronize()?;
            sum.check(2, step as f32);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = sums.into_iter().map(|sum| scope.spawn(|| run(sum))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}

/// One rank launches what the other replays: a group that goes while this still runs must let it end well, though the ranks' own
/// launches are not equally many. A capture that nobody ended goes with its stream.
#[test]
fn a_group_goes_behind_replays_and_in_a_capture() {
    let node = simulated(2, 9);
    let driver = node.driver();
    let place = |device| Place {
        device,
        share: 0,
        shares: 1,
    };
    let bytes = Sum::N * 4;
    let (memory, streams): (Vec<_>, Vec<_>) = (0..2)
        .map(|device| {
            (
                driver.alloc(place(device), bytes).unwrap(),
                driver.stream_create(place(device)).unwrap(),
            )
        })
        .unzip();
    {
        let on: Vec<_> = (0..2)
            .map(|device| RankPlace {
                place: place(device),
                stream: Some(streams[device]),
            })
            .collect();
        // SAFETY: live streams of this driver at these places, ended below.
        let ranks = unsafe { node.group_on(&on, &GroupConfig::default()) }.unwrap();
        let launch = |rank: &Rank| {
            let plan = rank
                .plan(&OpSpec::new(Op::AllReduce, Sum::N, 0, 1, DType::F32))
                .unwrap();
            let ptr = memory[rank.rank()];
            // SAFETY: `bytes` of this driver's memory on the rank's device, freed below behind its stream.
            let data = unsafe { MatMut::from_raw(ptr, 1, Sum::N, Sum::N, DType::F32) };
            plan.launch(&Operands::in_place(1, data))
        };
        for (rank, ptr) in ranks.iter().zip(&memory) {
            let ones: Vec<u8> = [1f32; Sum::N].iter().flat_map(|one| one.to_le_bytes()).collect();
            driver.copy_in(*ptr, &ones, rank.stream()).unwrap();
        }
        // Captured twice, launched once.
        let graphs = [(); 2].map(|()| Captured::new(&ranks[1], || launch(&ranks[1])).unwrap());
        launch(&ranks[0]).unwrap();
        graphs[0].replay().unwrap();
    }
    for (ptr, stream) in memory.iter().zip(&streams) {
        let mut out = [0; Sum::N * 4];
        driver.copy_out(&mut out, *ptr, *stream).unwrap();
        assert!(out.chunks(4).all(|y| y == 2f32.to_le_bytes()));
        driver.free_async(*ptr, *stream).unwrap();
        driver.stream_destroy(*stream).unwrap();
    }

    let (ranks, mut sums) = sums(&node, 2, 1);
    driver.stream_begin_capture(ranks[0].stream()).unwrap();
    sums[0].launch(1).unwrap();
    let stream = ranks[0].stream();
    drop((ranks, sums));
    assert!(driver.stream_is_capturing(stream).is_err(), "the stream is there still");
}

/// Buffers may go while their stream captures: the capture stays whole, and the memory comes back.
#[test]
fn buffers_dropped_in_a_capture() {
    let node = simulated(1, 0);
    let rank = &node.group(1, &GroupConfig::default()).unwrap()[0];
    let mut ptrs = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let buffer = rank.alloc(1 << 20).unwrap();
        ptrs.insert(buffer.ptr());
        Captured::new(rank, || {
            drop(buffer);
            Ok(())
        })
        .unwrap();
        drop(rank.alloc(1).unwrap());
        rank.synchronize().unwrap();
    }
    assert!(ptrs.len() < 10, "{} megabytes are gone", ptrs.len());
}
