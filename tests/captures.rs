//! What a capture takes and what breaks it, on the simulated node: the caller's own streams, calls that CUDA refuses, and
//! what goes while there are graphs.

mod common;

use std::sync::Arc;

use common::{Captured, Sum, replay_all, sums, synchronize};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Place, Stream};
use tileweave::{DType, Error, GroupConfig, MatMut, Node, Op, OpSpec, Operands, Rank, RankPlace, Result};

fn simulated(world: usize, seed: u64) -> Node {
    Node::new(Arc::new(SimNode::new(SimConfig::new(world, seed)).unwrap()))
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
            replay_all(&graphs);
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
