//! Connects a clique before its first operation.
//!
//! Since 2.22 NCCL connects two ranks when an algorithm first needs it: a call then waits, on the host, until the peers' come.
//! One thread that drives several ranks launches them one after the other, and would wait for itself; and a capture is no
//! place to allocate. So everything that an operation calls is run when the clique is made, at sizes from small to as large as there
//! is memory for: the three collectives, and a reduction to, and a broadcast from, each rank, of which those of uneven chunks
//! are made. A message beyond that may still be the first of its algorithm; where a thread drives each rank that is only a wait.

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

/// Elements of a rank in each round: from few, in steps, to all that there is room for.
fn counts(most: usize) -> impl Iterator<Item = usize> {
    let first = (SMALLEST <= most).then_some(SMALLEST);
    std::iter::successors(first, move |count| {
        (*count < most).then(|| count.saturating_mul(STEP).min(most))
    })
}

/// What a rank calls in one round of `count` elements a rank, each in a group of its own.
fn round(space: &Space, world: usize, count: usize) -> [Vec<Call>; 5] {
    let dtype = DType::Bf16;
    // In place: what a rank gives or gets of the whole lies where it lies in the whole.
    let of = |rank: usize| space.ptr + (rank * count * dtype.size()) as u64;
    let own = of(space.rank);
    let call = |collective, from, to, count| Call {
        collective,
        from,
        to,
        count,
        dtype,
    };
    let each = |collective: fn(usize) -> Collective| {
        let one = |root| call(collective(root), of(root), of(root), count);
        (0..world).map(one).collect()
    };
    [
        vec![call(Collective::AllReduce, space.ptr, space.ptr, count * world)],
        vec![call(Collective::ReduceScatter, space.ptr, own, count)],
        vec![call(Collective::AllGather, own, space.ptr, count)],
        each(|root| Collective::Reduce { root }),
        each(|root| Collective::Broadcast { root }),
    ]
}

/// Runs everything at a few sizes, on all ranks of this process; those of the others do the same. The streams still have to
/// run it.
///
/// # Safety
/// The memory is the rank's device's, aligned to 4 bytes, and nobody else's until the streams have run this.
pub(crate) unsafe fn connect(communicators: &Communicators, world: usize, spaces: &[Space]) -> Result<()> {
    let room = spaces.iter().map(|space| space.bytes).min().unwrap_or(0) / DType::Bf16.size();
    for count in counts(room / world.max(1)) {
        let mut rounds = [const { Vec::new() }; 5];
        for space in spaces {
            for (parts, calls) in rounds.iter_mut().zip(round(space, world, count)) {
                parts.extend(calls.into_iter().map(|call| (space.rank, call, space.stream)));
            }
        }
        for parts in &rounds {
            // SAFETY: the caller's word; `count` elements of every rank fit into each space.
            unsafe { communicators.enqueue(parts) }?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn rounds_end_with_all_there_is_room_for() {
        let of = |most| counts(most).collect::<Vec<_>>();
        assert_eq!(of(5000), [64, 512, 4096, 5000]);
        assert_eq!(of(4096), [64, 512, 4096]);
        assert_eq!(of(64), [64]);
        assert!(of(63).is_empty());
    }
}
