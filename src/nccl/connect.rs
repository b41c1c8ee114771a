//! Connects a clique before its first operation.
//!
//! Since 2.22 NCCL connects two ranks when an algorithm first needs it: a call then waits, on the host, until the peers' come.
//! One thread that drives several ranks launches them one after the other, and would wait for itself; and a capture is no
//! place to allocate. So each algorithm that NCCL may choose is run once when the clique is made, by collectives of sizes
//! from small to as large as there is memory for. A message beyond that may still be the first of its algorithm; where a thread
//! drives each rank that is only a wait.

use super::calls::{Call, Collective};
use super::communicators::Communicators;
use crate::driver::{DevicePtr, Stream};
use crate::dtype::DType;
use crate::error::Result;

/// The smallest message, in elements of a rank.
const SMALLEST: usize = 64;
/// How much larger each is than the one before.
const STEP: usize = 8;

/// Memory of a rank that may be written over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// The rank.
    pub rank: usize,
    /// Where.
    pub ptr: DevicePtr,
    /// How much; equal on all ranks.
    pub bytes: usize,
    /// The stream that the rank's work goes to.
    pub stream: Stream,
}

/// Runs every collective at a few sizes, on all ranks of this process; those of the others do the same. The streams still have to
/// run it.
///
/// # Safety
/// The memory is the rank's device's, aligned to 4 bytes, and nobody else's until the streams have run this.
pub(crate) unsafe fn connect(communicators: &Communicators, world: usize, spaces: &[Space]) -> Result<()> {
    let dtype = DType::Bf16;
    let room = spaces.iter().map(|space| space.bytes).min().unwrap_or(0) / dtype.size();
    let mut count = SMALLEST;
    while count.saturating_mul(world) <= room {
        let collectives = [Collective::AllReduce, Collective::ReduceScatter, Collective::AllGather];
        for collective in collectives {
            let part = |space: &Space| {
                // In place: what a rank gives or gets of the whole lies where it lies in the whole.
                let own = space.ptr + (space.rank * count * dtype.size()) as u64;
                let (from, to, count) = match collective {
                    Collective::ReduceScatter => (space.ptr, own, count),
                    Collective::AllGather => (own, space.ptr, count),
                    _ => (space.ptr, space.ptr, count * world),
                };
                let call = Call {
                    collective,
                    from,
                    to,
                    count,
                    dtype,
                };
                (space.rank, call, space.stream)
            };
            let parts: Vec<_> = spaces.iter().map(part).collect();
            // SAFETY: the caller's word; `count` elements a rank fit into its space.
            unsafe { communicators.enqueue(&parts) }?;
        }
        count = count.saturating_mul(STEP);
    }
    Ok(())
}
