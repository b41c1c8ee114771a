//! The adapter for cudarc 0.19, with cudarc's own safe layer on the stand-in.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, sys};
use cudarc::nccl::result::NcclError;
use cudarc::nccl::safe::{Comm, ReduceOp};
use half::bf16;
use tileweave::adapter::cudarc_0_19::{SliceExt, SliceMutExt, SliceOperands};
use tileweave::{DType, Error, Id, Op, OpSpec, Plan, Rank};

use crate::support::{config, cuda_node, inside};

const M: usize = 6;
const N: usize = 48;
const K: usize = 32;

fn contexts() -> Vec<Arc<CudaContext>> {
    (0..2).map(|device| CudaContext::new(device).unwrap()).collect()
}

fn streams(contexts: &[Arc<CudaContext>]) -> Vec<Arc<CudaStream>> {
    contexts.iter().map(|context| context.new_stream().unwrap()).collect()
}

fn spec() -> OpSpec {
    OpSpec::new(Op::GemmAllReduce, N, K, M, DType::Bf16).bias(true)
}

/// Ranks on streams, and a plan for each.
fn group(streams: &[Arc<CudaStream>]) -> Vec<(Rank, Plan)> {
    let config = config().sized_for(&[spec()], 2).unwrap();
    let ranks = cuda_node().group_on_streams(streams, &config).unwrap();
    ranks
        .into_iter()
        .map(|rank| {
            let plan = rank.plan(&spec()).unwrap();
            (rank, plan)
        })
        .collect()
}

fn all(value: f32, count: usize) -> Vec<bf16> {
    vec![bf16::from_f32(value); count]
}

/// x of 1, a weight of 2 and a bias of 3, over two ranks.
const SUM: f32 = 2.0 * 2.0 * K as f32 + 3.0;

#[track_caller]
fn refused(result: Result<(), Error>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

/// A launch whose operands are all of the rank's stream.
fn launch_on(plan: &Plan, stream: &Arc<CudaStream>) -> CudaSlice<bf16> {
    let (x, weight) = (
        stream.clone_htod(&all(1.0, M * K)).unwrap(),
        stream.clone_htod(&all(2.0, N * K)).unwrap(),
    );
    let bias = stream.clone_htod(&all(3.0, N)).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
    let operands = SliceOperands::gemm(
        M,
        x.mat(M, K).unwrap(),
        weight.mat(N, K).unwrap(),
        out.mat_mut(M, N).unwrap(),
    );
    plan.launch_slices(stream, operands.bias(bias.mat(1, N).unwrap()))
        .unwrap();
    out
}

/// Compiles, which is what there is to show without NCCL: a buffer is what its calls take.
#[expect(dead_code)]
fn nccl_takes_a_buffer(comm: &Comm, rank: &Rank, stream: &Arc<CudaStream>) -> Result<(), NcclError> {
    let (x, mut y) = (rank.alloc(64).unwrap(), rank.alloc(64).unwrap());
    let x = x.as_slice::<bf16>(stream, 32).unwrap();
    let mut y = y.as_slice_mut::<bf16>(stream, 32).unwrap();
    comm.all_reduce(&x, &mut y, &ReduceOp::Sum)?;
    comm.all_reduce_in_place(&mut y, &ReduceOp::Sum).map(drop)
}

inside! {
    fn slices_are_launched_and_dropped() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let mut results = Vec::new();
        for ((_, plan), stream) in ranks.iter().zip(&streams) {
            // Made on other streams, and dropped before anything has run.
            let other = stream.context().new_stream().unwrap();
            let x = other.clone_htod(&all(1.0, M * K)).unwrap();
            let weight = stream.clone_htod(&all(2.0, N * K)).unwrap();
            let bias = other.clone_htod(&all(3.0, N)).unwrap();
            let mut out = other.alloc_zeros::<bf16>(M * N).unwrap();
            let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight.mat(N, K).unwrap(), out.mat_mut(M, N).unwrap());
            plan.launch_slices(stream, operands.bias(bias.mat(1, N).unwrap())).unwrap();
            drop((x, weight, bias));
            // Memory that is had now may be what was just given back: nothing of it may reach the kernels.
            let spoiled = other.clone_htod(&all(100.0, N * K)).unwrap();
            results.push((out, other, spoiled));
        }
        for (out, other, _) in &results {
            // Behind the launch, by cudarc's event of the write.
            assert_eq!(other.clone_dtoh(out).unwrap(), all(SUM, M * N));
        }
        ranks.iter().for_each(|(rank, _)| rank.synchronize().unwrap());
        contexts.iter().for_each(|context| context.check_err().unwrap());
    }

    fn views_and_buffers_are_slices() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let mut results = Vec::new();
        for ((rank, plan), stream) in ranks.iter().zip(&streams) {
            // The operands lie in one slice, one behind the other.
            let packed = [all(1.0, M * K), all(2.0, N * K), all(3.0, N)].concat();
            let packed = stream.clone_htod(&packed).unwrap();
            let (x, rest) = packed.split_at(M * K);
            let mut y = rank.alloc(M * N * 2).unwrap();
            let mut out = y.as_slice_mut::<bf16>(stream, M * N).unwrap();
            let weight = rest.mat_at(0, N, K, K).unwrap();
            let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
            plan.launch_slices(stream, operands.bias(rest.mat_at(N * K, 1, N, N).unwrap())).unwrap();
            results.push(y);
        }
        for ((y, stream), context) in results.iter().zip(&streams).zip(&contexts) {
            let lent = y.as_slice::<bf16>(stream, M * N).unwrap();
            assert_eq!(stream.clone_dtoh(&lent).unwrap(), all(SUM, M * N));
            // Another stream finds it in order, too.
            assert_eq!(context.new_stream().unwrap().clone_dtoh(&lent).unwrap(), all(SUM, M * N));
            context.check_err().unwrap();
        }
    }

    fn what_nothing_orders_is_refused() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let (stream, plan) = (&streams[0], &ranks[0].1);
        let other = contexts[0].new_stream().unwrap();
        // SAFETY: what is left to the program is looked at below.
        unsafe { contexts[0].disable_event_tracking() };
        let untracked = other.clone_htod(&all(1.0, M * K)).unwrap();
        // SAFETY: as above.
        unsafe { contexts[0].enable_event_tracking() };
        let (weight, bias) = (stream.clone_htod(&all(2.0, N * K)).unwrap(), stream.clone_htod(&all(3.0, N)).unwrap());
        let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
        let elsewhere = streams[1].clone_htod(&all(1.0, M * K)).unwrap();
        let fine = stream.clone_htod(&all(1.0, M * K)).unwrap();
        let (weight, bias) = (weight.mat(N, K).unwrap(), bias.mat(1, N).unwrap());
        let operands = SliceOperands::gemm(M, untracked.mat(M, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(stream, operands.bias(bias)), "x is a slice of another stream, without events");
        let operands = SliceOperands::gemm(M, elsewhere.mat(M, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(stream, operands.bias(bias)), "x is a slice of device 1's context");
        let operands = SliceOperands::gemm(M, fine.mat(M, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(&other, operands.bias(bias)), "expected rank 0's");
        refused(fine.mat(M + 1, K).map(drop), "[7, 32] of bf16, ld 32, offset 0");
        refused(fine.mat_at(0, 2, K, K - 1).map(drop), "ld is 31");
        let shape = SliceOperands::gemm(M, fine.mat(M - 1, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(stream, shape.bias(bias)), "x is");
        refused(cuda_node().group_on_streams(&[contexts[0].default_stream()], &config()).map(drop), "a default stream");
        // Nothing of all that was launched, and nothing was spoiled.
        ranks.iter().for_each(|(rank, _)| rank.health().unwrap());
    }

    fn another_object_of_the_context_must_keep_events_too() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        // The same context, by an object that knows of no streams: cudarc neither waits for its slices nor keeps them.
        let again = CudaContext::new(0).unwrap();
        assert_eq!(again.cu_ctx(), contexts[0].cu_ctx());
        let (stream, plan) = (&streams[0], &ranks[0].1);
        let x = again.default_stream().clone_htod(&all(1.0, M * K)).unwrap();
        let (weight, bias) = (stream.clone_htod(&all(2.0, N * K)).unwrap(), stream.clone_htod(&all(3.0, N)).unwrap());
        let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
        let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight.mat(N, K).unwrap(), out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(stream, operands.bias(bias.mat(1, N).unwrap())), "x is a slice of another stream, without events");
        // With a stream of its own it does.
        let other = again.new_stream().unwrap();
        let x = other.clone_htod(&all(1.0, M * K)).unwrap();
        let mut results = vec![out];
        let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight.mat(N, K).unwrap(), results[0].mat_mut(M, N).unwrap());
        plan.launch_slices(stream, operands.bias(bias.mat(1, N).unwrap())).unwrap();
        drop(x);
        let spoiled = other.clone_htod(&all(100.0, M * K)).unwrap();
        results.push(launch_on(&ranks[1].1, &streams[1]));
        for (out, stream) in results.iter().zip(&streams) {
            assert_eq!(stream.clone_dtoh(out).unwrap(), all(SUM, M * N));
        }
        drop(spoiled);
    }

    fn a_later_reader_does_not_uncover_an_earlier_launch() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let others: Vec<_> = contexts.iter().map(|context| context.new_stream().unwrap()).collect();
        let thirds: Vec<_> = contexts.iter().map(|context| context.new_stream().unwrap()).collect();
        let mut read = Vec::new();
        let mut results = Vec::new();
        for ((stream, other), (_, plan)) in streams.iter().zip(&others).zip(&ranks) {
            let x = other.clone_htod(&all(1.0, M * K)).unwrap();
            let weight = other.clone_htod(&all(2.0, N * K)).unwrap();
            let bias = stream.clone_htod(&all(3.0, N)).unwrap();
            let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
            let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight.mat(N, K).unwrap(), out.mat_mut(M, N).unwrap());
            plan.launch_slices(stream, operands.bias(bias.mat(1, N).unwrap())).unwrap();
            results.push(out);
            read.push((x, weight));
        }
        for ((mut x, weight), (other, third)) in read.into_iter().zip(others.iter().zip(&thirds)) {
            // Another stream's reads take the place of the launch's events, and are done before it.
            let _copies = (third.clone_dtod(&x).unwrap(), third.clone_dtod(&weight).unwrap());
            // What the slices' own stream does comes behind the launch all the same: a write, an end and what is made of it.
            other.memset_zeros(&mut x).unwrap();
            drop(weight);
            let _spoiled = other.clone_htod(&all(100.0, N * K)).unwrap();
        }
        for (out, stream) in results.iter().zip(&streams) {
            assert_eq!(stream.clone_dtoh(out).unwrap(), all(SUM, M * N));
        }
        contexts.iter().for_each(|context| context.check_err().unwrap());
    }

    fn slices_of_a_stream_that_captures_are_refused() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let (stream, plan) = (&streams[0], &ranks[0].1);
        let other = contexts[0].new_stream().unwrap();
        let (weight, bias) = (stream.clone_htod(&all(2.0, N * K)).unwrap(), stream.clone_htod(&all(3.0, N)).unwrap());
        let (weight, bias) = (weight.mat(N, K).unwrap(), bias.mat(1, N).unwrap());
        let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let x = other.clone_htod(&all(1.0, M * K)).unwrap();
        other.begin_capture(mode).unwrap();
        let operands = SliceOperands::gemm(M, x.mat(M, K).unwrap(), weight, out.mat_mut(M, N).unwrap());
        refused(plan.launch_slices(stream, operands.bias(bias)), "x is a slice of a stream that captures");
        other.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap();
        contexts[0].check_err().unwrap();
        let result = launch_on(plan, stream);
        let same = launch_on(&ranks[1].1, &streams[1]);
        assert_eq!(stream.clone_dtoh(&result).unwrap(), all(SUM, M * N), "the rank's stream was left alone");
        drop(same);
    }

    fn captures_are_for_the_unchecked_launch_without_events() {
        let contexts = contexts();
        let streams = streams(&contexts);
        let ranks = group(&streams);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let (mut graphs, mut kept) = (Vec::new(), Vec::new());
        for ((_, plan), stream) in ranks.iter().zip(&streams) {
            let x = stream.clone_htod(&all(1.0, M * K)).unwrap();
            let weight = stream.clone_htod(&all(2.0, N * K)).unwrap();
            let bias = stream.clone_htod(&all(3.0, N)).unwrap();
            let mut out = stream.alloc_zeros::<bf16>(M * N).unwrap();
            stream.synchronize().unwrap();
            let (x_mat, w_mat, b_mat) = (x.mat(M, K).unwrap(), weight.mat(N, K).unwrap(), bias.mat(1, N).unwrap());
            stream.begin_capture(mode).unwrap();
            let operands = SliceOperands::gemm(M, x_mat, w_mat, out.mat_mut(M, N).unwrap()).bias(b_mat);
            refused(plan.launch_slices(stream, operands), "launch_slices_unchecked");
            let operands = SliceOperands::gemm(M, x_mat, w_mat, out.mat_mut(M, N).unwrap()).bias(b_mat);
            // SAFETY: it is refused.
            refused(unsafe { plan.launch_slices_unchecked(stream, operands) }, "disable_event_tracking");
            // SAFETY: each slice here is of the one stream, and is kept for longer than the graph.
            unsafe {
                stream.context().disable_event_tracking();
                let operands = SliceOperands::gemm(M, x_mat, w_mat, out.mat_mut(M, N).unwrap()).bias(b_mat);
                plan.launch_slices_unchecked(stream, operands).unwrap();
            }
            graphs.push(stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap());
            kept.push((x, weight, bias, out));
        }
        for _ in 0..5 {
            graphs.iter().for_each(|graph| graph.launch().unwrap());
        }
        for ((.., out), stream) in kept.iter().zip(&streams) {
            assert_eq!(stream.clone_dtoh(out).unwrap(), all(SUM, M * N));
        }
        drop(graphs);
    }

    fn a_group_keeps_its_streams() {
        let contexts = contexts();
        let id = Id::random().unwrap();
        let config = config().heap_bytes(2 << 20);
        let node = cuda_node();
        // Threads of one process that join: one group, of all streams.
        let ranks: Vec<Rank> = std::thread::scope(|scope| {
            let joining: Vec<_> = (0..2)
                .map(|rank| {
                    let (node, id, config, context) = (&node, &id, &config, &contexts[rank]);
                    scope.spawn(move || {
                        let stream = context.new_stream().unwrap();
                        Rank::join_stream(node, &stream, rank, 2, id, config).unwrap()
                    })
                })
                .collect();
            joining.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // The streams' own handles have gone with their threads.
        let spec = OpSpec::new(Op::AllReduce, N, 0, M, DType::F32);
        let mut sums = Vec::new();
        for rank in &ranks {
            let plan = rank.plan(&spec).unwrap();
            let mut data = rank.alloc(4 * M * N).unwrap();
            data.upload(&vec![1.5f32; M * N]).unwrap();
            plan.launch(&tileweave::Operands::in_place(M, data.mat_mut(M, N, DType::F32).unwrap())).unwrap();
            sums.push(data);
        }
        for (rank, data) in ranks.iter().zip(&sums) {
            rank.synchronize().unwrap();
            assert_eq!(data.to_vec::<f32>(M * N).unwrap(), vec![3.0; M * N]);
        }
        drop((sums, ranks, node, contexts));
        assert_eq!(crate::leaks::live()[..3], [0, 0, 0], "contexts, streams, events");
    }

    fn cudarcs_safe_layer_runs() {
        let context = CudaContext::new(1).unwrap();
        assert_eq!(context.name().unwrap(), "simulated device 1");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        let default = context.default_stream();
        let a = default.clone_htod(&[1u32, 2, 3]).unwrap();
        let fork = default.fork().unwrap();
        let mut b = fork.alloc_zeros::<u32>(5).unwrap();
        fork.memcpy_dtod(&a, &mut b.slice_mut(1..4)).unwrap();
        assert_eq!(default.clone_dtoh(&b).unwrap(), [0, 1, 2, 3, 0]);
        let (start, end) = (default.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap(), context.new_event(None).unwrap());
        end.record(&default).unwrap();
        end.synchronize().unwrap();
        assert!(start.is_complete() && end.is_complete());
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(5) }.unwrap();
        fork.memcpy_dtoh(&b, &mut pinned).unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [0, 1, 2, 3, 0]);
        // Between devices.
        let other = CudaContext::new(0).unwrap();
        let there = other.new_stream().unwrap();
        assert_eq!(there.clone_dtoh(&there.clone_dtod(&b).unwrap()).unwrap(), [0, 1, 2, 3, 0]);
        let (free, total) = context.mem_get_info().unwrap();
        assert!(free < total);
        context.synchronize().unwrap();
        context.check_err().unwrap();
        drop((a, b, start, end, pinned, fork, default, there, other, context));
        assert_eq!(crate::leaks::live(), [0; 8]);
    }
}
