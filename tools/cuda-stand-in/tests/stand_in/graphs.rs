//! Captures, as a runtime makes them: with the driver library's own calls on the rank's stream.

use cudarc::driver::sys;
use tileweave::timeline::{Activity, Recorder, Timeline};
use tileweave::{DType, Op, Path, Rank};

use crate::common::{Case, Data, Sum, judge, synchronize};
use crate::support::{config, cuda_node, group_for, inside, load};

fn stream(rank: &Rank) -> sys::CUstream {
    std::ptr::with_exposed_provenance_mut(rank.stream().0)
}

fn ok(code: sys::CUresult) {
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

/// Captures what `enqueue` puts into the rank's stream.
fn capture(rank: &Rank, enqueue: impl FnOnce()) -> sys::CUgraphExec {
    let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the rank's stream is live, and every pointer outlives its call. The graph is not used after it is
    // destroyed.
    unsafe {
        ok(sys::cuStreamBeginCapture_v2(stream(rank), mode));
        enqueue();
        ok(sys::cuStreamEndCapture(stream(rank), &mut graph));
        ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        ok(sys::cuGraphDestroy(graph));
        ok(sys::cuGraphUpload(exec, stream(rank)));
    }
    exec
}

inside! {
    fn a_capture_by_raw_calls_is_replayed() {
        let node = cuda_node();
        let case = Case::new(Op::GemmAllReduce, 2, 9, 40, 64, DType::Bf16);
        let ranks = group_for(&node, &case);
        let data = Data::new(&case);
        let mut loaded = load(&ranks, &case, &data);
        let mut graphs = Vec::new();
        for (rank, operands) in ranks.iter().zip(&mut loaded) {
            let plan = rank.plan(&case.spec(rank.rank(), Path::Fused)).unwrap();
            graphs.push((stream(rank), capture(rank, || operands.launch(&plan, case.m).unwrap())));
        }
        for _ in 0..10 {
            for (stream, exec) in &graphs {
                // SAFETY: both are live, and so is the memory that was captured.
                ok(unsafe { sys::cuGraphLaunch(*exec, *stream) });
            }
        }
        synchronize(&ranks);
        let results: Vec<_> = loaded.iter().map(|operands| operands.result().unwrap()).collect();
        judge(&case, &data, &results, "replayed");
        for (_, exec) in graphs {
            // SAFETY: live, and ended once.
            ok(unsafe { sys::cuGraphExecDestroy(exec) });
        }

        // With stamps: the heads' fills are captured, too.
        let recorders: Vec<_> = ranks.iter().map(|rank| Recorder::new(rank, 100).unwrap()).collect();
        let mut graphs = Vec::new();
        for ((rank, operands), recorder) in ranks.iter().zip(&mut loaded).zip(&recorders) {
            let plan = rank.plan(&case.spec(rank.rank(), Path::Unfused)).unwrap();
            let record = || plan.launch_recorded(&operands.operands(case.m).unwrap(), recorder).unwrap();
            graphs.push((stream(rank), capture(rank, record)));
        }
        for _ in 0..3 {
            for (stream, exec) in &graphs {
                // SAFETY: as above.
                ok(unsafe { sys::cuGraphLaunch(*exec, *stream) });
            }
            synchronize(&ranks);
            let timeline = Timeline::read(&recorders).unwrap();
            assert!(!timeline.one_clock);
            for rank in &timeline.ranks {
                assert_eq!((rank.kernels.len(), rank.start_ns(), rank.dropped()), (2, 0, 0), "{rank:?}");
                assert!(rank.spans().any(|span| span.activity == Activity::Math), "{rank:?}");
            }
        }
        for (_, exec) in graphs {
            // SAFETY: as above.
            ok(unsafe { sys::cuGraphExecDestroy(exec) });
        }

        // Replays and eager launches in turn, of other sizes.
        let ranks = node.group(2, &config().heap_bytes(2 << 20)).unwrap();
        let mut sums: Vec<_> = ranks.iter().map(|rank| Sum::new(rank, 8)).collect();
        let captured: Vec<_> = sums.iter_mut().map(|sum| sum.capture(4).unwrap()).collect();
        for round in 0..6 {
            let m = if round % 2 == 0 { 4 } else { 7 };
            for (sum, captured) in sums.iter_mut().zip(&captured) {
                sum.refill(8, round as f32);
                match m {
                    4 => captured.replay().unwrap(),
                    m => sum.launch(m).unwrap(),
                }
            }
            synchronize(&ranks);
            sums.iter().for_each(|sum| sum.check(m, round as f32));
        }
    }
}
