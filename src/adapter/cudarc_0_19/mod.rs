//! cudarc 0.19's streams and slices. Feature `cudarc-0-19`.
//!
//! - [`Node::group_on_streams`](crate::Node::group_on_streams) and [`Rank::join_stream`](crate::Rank::join_stream) make ranks on
//!   `Arc<CudaStream>`s, and keep those.
//! - [`Plan::launch_slices`](crate::Plan::launch_slices) takes anything that is a [`DevicePtr`]: `CudaSlice`s, their views, and this crate's
//!   own buffers. [`SliceExt`] and [`SliceMutExt`] make matrices of them.
//! - [`Buffer::as_slice`](crate::Buffer::as_slice) and [`Buffer::as_slice_mut`](crate::Buffer::as_slice_mut) lend a buffer to whatever
//!   takes a [`DevicePtr`], as `nccl::Comm` does.
//!
//! # Order
//! cudarc tells streams apart by events: each slice has two, of its last read and its last write. A launch asks each
//! slice for its address *on the rank's stream*, which makes that wait for what others do with the slice, and lets go
//! of the slice (its `SyncOnDrop`) once the work is enqueued, which records it. An event is of the *last* read or write: who reads
//! the slice on yet another stream meanwhile takes the place of the launch's. So a launch makes the stream that a slice is of
//! wait for it, too. Whatever that stream does later, freeing included, comes behind the launch: a slice may be used there, or
//! dropped, at once.
//!
//! What cudarc's events leave open stays open, here as between cudarc's own calls: where two streams have read a slice, a third one
//! that writes it waits for the later read alone, so the earlier one may see the new values. The same goes for halves of a slice
//! that two streams have written. Memory is not at risk: nothing is freed before the launch is done.
//!
//! Events are waited for and recorded where the `CudaContext` objects of both streams have streams of their own and their event
//! tracking on, and only of slices that were made while it was. (Each `CudaContext::new` is an object of its own, with such a state
//! of its own, of the one primary context.) Elsewhere only the order of one stream is left: then each slice must be of the rank's own
//! stream, whose frees come behind the launch. [`Plan::launch_slices`](crate::Plan::launch_slices) refuses anything else; its
//! unchecked twin leaves it to the caller.
//!
//! # Captures
//! An event that was recorded outside a capture cannot be waited for inside: so cudarc's event tracking must be off
//! while a stream captures (`CudaContext::disable_event_tracking`), as for cudarc's own calls. And a graph uses the
//! captured addresses whenever it is launched, which no borrow here knows: only the unchecked launch may be captured. A slice of a
//! stream that captures, or whose last use was captured, would draw the rank's stream into that capture, and is refused.

mod buffer;
mod element;
mod group;
mod guards;
mod launch;
mod matrix;
mod operands;

pub use buffer::{BufferSlice, BufferSliceMut};
pub use element::SliceElement;
pub use matrix::{Matrix, MatrixMut, SliceExt, SliceMutExt};
pub use operands::SliceOperands;

#[expect(unused, reason = "for the documentation's links")]
use cudarc::driver::DevicePtr;
use cudarc::driver::{CudaContext, CudaStream, DriverError};

use crate::driver::Stream;
use crate::error::{Error, Result};
use crate::group::Rank;

/// A stream as this crate has it.
fn handle(stream: &CudaStream) -> Stream {
    Stream(stream.cu_stream().expose_provenance())
}

/// That a stream is a rank's: its work is ordered there.
fn check_rank_stream(rank: &Rank, stream: &CudaStream) -> Result<()> {
    if handle(stream) == rank.stream() {
        return Ok(());
    }
    let expected = format!("rank {}'s, {:#x}", rank.rank(), rank.stream().0);
    Err(Error::bad_argument(
        "stream",
        format!("{:#x}", handle(stream).0),
        expected,
    ))
}

/// What cudarc could not say where it happened.
fn check(context: &CudaContext, call: &'static str) -> Result<()> {
    context.check_err().map_err(|error| failed(call, error))
}

fn failed(call: &'static str, error: DriverError) -> Error {
    Error::Driver {
        call,
        code: error.0 as i64,
        message: format!("{:?}", error.0),
    }
}
