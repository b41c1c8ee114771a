//! What is measured of NCCL: our GEMM and its collective in turn, and its collective alone.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::Duration;

use cudarc::driver::sys;
use tileweave::{Error, Op, Operands, Plan, Rank, Result};

use super::communicators::{Collective, Communicators, Part};
use super::library::Library;
use crate::bench::clock::Contest;
use crate::bench::contests::Overlapped;
use crate::bench::cublaslt::{Current, stream};
use crate::bench::latency;
use crate::bench::operands::{Pool, Rotating};
use crate::bench::shapes::Fused;

fn failed(reason: String) -> Error {
    let what = "NCCL".into();
    Error::Unavailable { what, reason }
}

/// A device's primary context, current until it is dropped.
struct Primary(sys::CUdevice);

impl Primary {
    /// By the device's ordinal.
    fn of(ordinal: usize) -> std::result::Result<Primary, String> {
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: `device` and `context` outlive the calls; a context retained is given back once, where it does not become
        // current at once, else when the guard is dropped. The symbols are there: ranks were made by the crate's CUDA driver,
        // which checked the library.
        let code = unsafe {
            let mut code = sys::cuDeviceGet(&mut device, ordinal as i32);
            if code == sys::CUresult::CUDA_SUCCESS {
                code = sys::cuDevicePrimaryCtxRetain(&mut context, device);
            }
            if code == sys::CUresult::CUDA_SUCCESS {
                code = sys::cuCtxPushCurrent_v2(context);
                if code != sys::CUresult::CUDA_SUCCESS {
                    let _ = sys::cuDevicePrimaryCtxRelease_v2(device);
                }
            }
            code
        };
        match code {
            sys::CUresult::CUDA_SUCCESS => Ok(Primary(device)),
            failed => Err(format!(
                "the context of device {ordinal} could not be made current: {failed:?}"
            )),
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        let mut popped = null_mut();
        // SAFETY: pops what `of` pushed on this thread (guards nest), and gives back what it retained.
        unsafe {
            let _ = sys::cuCtxPopCurrent_v2(&mut popped);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.0);
        }
    }
}

/// Communicators of a group's ranks. A rank's kernels get no more CTAs than it has SMs: a CTA waits for its like on the
/// other ranks, which must not be kept waiting for an SM.
fn communicators<'a>(library: &'a Library, ranks: &[Rank], deadline: Duration) -> Result<Communicators<'a>> {
    let sms = |rank: &Rank| Ok(rank.node().driver().place_info(rank.place())?.sms);
    let sms = ranks.iter().map(sms).collect::<Result<Vec<u32>>>()?;
    let current = |rank: usize| Primary::of(ranks[rank].place().device);
    Communicators::new(library, &sms, deadline, current).map_err(failed)
}

/// Until the ranks' streams are empty, within the communicators' deadline; then whether our kernels went well.
fn wait(comms: &mut Communicators<'_>, ranks: &[Rank]) -> Result<()> {
    let mut left = ranks;
    let empty = || {
        while let [rank, rest @ ..] = left {
            let _current = Current::of(rank).map_err(|error| error.to_string())?;
            // SAFETY: the stream lives as long as its rank; the symbol is there, as above.
            match unsafe { sys::cuStreamQuery(stream(rank).cast()) } {
                sys::CUresult::CUDA_SUCCESS => left = rest,
                sys::CUresult::CUDA_ERROR_NOT_READY => return Ok(false),
                failed => return Err(format!("a stream failed with {failed:?}")),
            }
        }
        Ok(true)
    };
    comms.wait(empty).map_err(failed)?;
    ranks.iter().try_for_each(Rank::synchronize)
}

/// Our GEMM with NCCL's collective, the only contender.
pub struct WithNccl<'a> {
    comms: Communicators<'a>,
    ours: &'a mut Overlapped,
    streams: Vec<*mut c_void>,
    op: Op,
    collective: Collective,
    count: usize,
}

impl<'a> WithNccl<'a> {
    pub fn new(
        library: &'a Library,
        ranks: &[Rank],
        fused: &Fused,
        ours: &'a mut Overlapped,
        deadline: Duration,
    ) -> Result<WithNccl<'a>> {
        if !fused.m.is_multiple_of(ranks.len()) {
            return Err(failed(format!(
                "its chunks are of equal size, and M = {} is no multiple of {} ranks",
                fused.m,
                ranks.len()
            )));
        }
        let rows = fused.m / ranks.len();
        let (collective, count) = match fused.op {
            Op::GemmReduceScatter => (Collective::ReduceScatter, rows * fused.n),
            Op::AllGatherGemm => (Collective::AllGather, rows * fused.k),
            _ => (Collective::AllReduce, fused.m * fused.n),
        };
        Ok(WithNccl {
            comms: communicators(library, ranks, deadline)?,
            ours,
            streams: ranks.iter().map(stream).collect(),
            op: fused.op,
            collective,
            count,
        })
    }

    fn exchange(&mut self, set: usize) -> Result<()> {
        let ends = self.ours.exchanged(set);
        let part = |(&stream, (from, to)): (&*mut c_void, (u64, u64))| Part { from, to, stream };
        let parts: Vec<Part> = self.streams.iter().zip(ends).map(part).collect();
        self.comms.launch(self.collective, self.count, &parts).map_err(failed)
    }
}

impl Contest for WithNccl<'_> {
    fn contenders(&self) -> usize {
        1
    }

    fn launch(&mut self, _contender: usize, set: usize) -> Result<()> {
        if self.op == Op::AllGatherGemm {
            self.exchange(set)?;
            return self.ours.gemms(set);
        }
        self.ours.gemms(set)?;
        self.exchange(set)
    }

    fn wait(&mut self, ranks: &[Rank]) -> Result<()> {
        wait(&mut self.comms, ranks)
    }
}

/// An all-reduce of one row: ours, then NCCL's.
pub struct Repeated<'a> {
    comms: Communicators<'a>,
    lanes: Vec<(Plan, Rotating, Rotating)>,
    streams: Vec<*mut c_void>,
    elements: usize,
}

impl<'a> Repeated<'a> {
    pub fn new(
        library: &'a Library,
        ranks: &[Rank],
        elements: usize,
        pool: &Pool,
        deadline: Duration,
    ) -> Result<Repeated<'a>> {
        let lanes = latency::lanes(ranks, elements, pool)?;
        Ok(Repeated {
            comms: communicators(library, ranks, deadline)?,
            lanes,
            streams: ranks.iter().map(stream).collect(),
            elements,
        })
    }
}

impl Contest for Repeated<'_> {
    fn contenders(&self) -> usize {
        2
    }

    fn launch(&mut self, contender: usize, set: usize) -> Result<()> {
        if contender == 0 {
            let launch = |(plan, x, out): &mut (Plan, Rotating, Rotating)| {
                plan.launch(&Operands::plain(1, x.mat(set)?, out.mat_mut(set)?))
            };
            return self.lanes.iter_mut().try_for_each(launch);
        }
        let lanes = self.streams.iter().zip(&self.lanes);
        let part = |(&stream, (_, x, out)): (&*mut c_void, &(Plan, Rotating, Rotating))| {
            let (from, to) = (x.ptr(set), out.ptr(set));
            Part { from, to, stream }
        };
        let parts: Vec<Part> = lanes.map(part).collect();
        self.comms
            .launch(Collective::AllReduce, self.elements, &parts)
            .map_err(failed)
    }

    fn wait(&mut self, ranks: &[Rank]) -> Result<()> {
        wait(&mut self.comms, ranks)
    }
}
