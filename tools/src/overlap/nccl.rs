//! NCCL beside ours on GPUs: measured where its library is there, else left out, with the reason told once.

use std::sync::{Arc, Once};
use std::time::Duration;

use tileweave::nccl::Library;
use tileweave::{Op, Rank, Result};

use super::cases::Message;
use super::subject::Subject;
use crate::bench::clock::{self, Effort};
use crate::bench::contests::Overlapped;
use crate::bench::nccl::{self, Repeated, WithNccl};
use crate::bench::operands::{DTYPE, Pool};
use crate::bench::shapes::Fused;
use crate::bench::statistics::median;
use crate::device;

/// The bound on waits for its kernels.
const DEADLINE: Duration = Duration::from_secs(20);
/// Values that messages are filled from.
const POOL: usize = (1 << 20) - 3;

fn left_out(reason: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| device::notice(&format!("no NCCL to compare with: {reason}")));
}

/// The library, where it takes these ranks: several on one GPU are a matter of its own.
fn library(ranks: usize, gpus: usize) -> Option<Arc<Library>> {
    let found = if ranks > gpus {
        nccl::open()
    } else {
        Library::find().map_err(|error| error.to_string())
    };
    found.inspect_err(|reason| left_out(reason)).ok()
}

fn gpus(ranks: &[Rank]) -> usize {
    let mut devices: Vec<usize> = ranks.iter().map(|rank| rank.place().device).collect();
    devices.sort_unstable();
    devices.dedup();
    devices.len()
}

/// Our GEMM and NCCL's collective. A failure of NCCL's leaves its column empty.
pub fn gemm_ms(ranks: &[Rank], fused: &Fused, ours: &mut Overlapped, effort: Effort) -> Result<Option<f64>> {
    let Some(library) = library(ranks.len(), gpus(ranks)).filter(|_| ranks.len() > 1) else {
        return Ok(None);
    };
    let measured = WithNccl::new(&library, ranks, fused, ours, DEADLINE)
        .and_then(|mut contest| clock::measure(ranks, &mut contest, effort));
    Ok(first(measured, 0))
}

/// NCCL's collective alone, in microseconds: the all-reduce, which the GPU table has a contest for.
pub fn alone_us(subject: &Subject, message: &Message, effort: Effort) -> Result<Option<f64>> {
    if message.op != Op::AllReduce || message.ranks < 2 {
        return Ok(None);
    }
    let elements = (message.bytes / DTYPE.size()).max(1);
    let specs = [crate::bench::latency::spec(elements)];
    let ranks = subject.group(&specs, message.ranks, tileweave::Numerics::Exact)?;
    let Some(library) = library(ranks.len(), gpus(&ranks)) else {
        return Ok(None);
    };
    let pool = Pool::new(POOL);
    let effort = Effort { sets: 1, ..effort };
    let measured = Repeated::new(&library, &ranks, elements, &pool, DEADLINE)
        .and_then(|mut contest| clock::measure(&ranks, &mut contest, effort));
    Ok(first(measured, 1).map(|ms| 1e3 * ms))
}

fn first(measured: Result<Option<Vec<Vec<f64>>>>, contender: usize) -> Option<f64> {
    match measured {
        Ok(samples) => samples.and_then(|samples| samples.get(contender).map(|ms| median(ms))),
        Err(error) => {
            left_out(&error.to_string());
            None
        }
    }
}
