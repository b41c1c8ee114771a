//! The slices' guards, held until the work is enqueued.
//!
//! cudarc keeps one event of a slice's reads and one of its writes: a later one, on whatever stream, takes the place of an earlier
//! one that may still be under way. So its events alone do not keep a slice until our kernel has run. The stream that the slice
//! is of, which frees it, is made to wait for the launch, too, and a launch that writes waits for that stream.

use std::sync::Arc;

use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaStream, SyncOnDrop};

use super::element::SliceElement;
use super::matrix::{Matrix, MatrixMut};
use super::{check, failed};
use crate::error::{Error, Result};
use crate::memory::RawMat;

/// Who sees to it that slices outlive the work, and that streams do not meet in them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// cudarc's events and the slices' own streams, as was checked.
    Checked,
    /// The caller.
    Callers,
}

/// That cudarc orders the use of a slice on `stream` with every other, and its end. The guard tells whether the slice
/// has events. They are waited for and recorded where the objects of both streams' contexts say so: there may be several
/// objects of one context.
fn check_order(name: &str, own: &CudaStream, stream: &CudaStream, guard: &SyncOnDrop<'_>) -> Result<()> {
    let managing = |stream: &CudaStream| stream.context().is_managing_stream_synchronization();
    let ordered = match guard {
        SyncOnDrop::Record(events) => events.is_some() && managing(stream) && managing(own),
        SyncOnDrop::Sync(waits) => waits.is_some(),
    };
    if own == stream || ordered {
        return Ok(());
    }
    let expected = "one of the rank's stream, or one that cudarc's event tracking follows (of a CudaContext with streams of its own, and with \
                    CudaContext::enable_event_tracking before it is allocated): else nothing keeps it until the kernel has run \
                    (Plan::launch_slices_unchecked leaves that to you)";
    Err(Error::bad_argument(
        name,
        "a slice of another stream, without events",
        expected,
    ))
}

/// That another stream does not capture: the rank's would be drawn into that.
fn check_capture(name: &str, own: &CudaStream) -> Result<()> {
    match own
        .capture_status()
        .map_err(|error| failed("cuStreamIsCapturing", error))?
    {
        CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
        _ => Err(Error::bad_argument(
            name,
            "a slice of a stream that captures",
            "one of a stream that does not: the rank's would be captured, too",
        )),
    }
}

/// Takes addresses, and holds the slices' guards.
pub(super) struct Taker<'a> {
    stream: &'a Arc<CudaStream>,
    order: Order,
    guards: [Option<SyncOnDrop<'a>>; 7],
    taken: usize,
    /// The other streams that slices are of.
    others: Vec<Arc<CudaStream>>,
}

impl<'a> Taker<'a> {
    pub(super) fn new(stream: &'a Arc<CudaStream>, order: Order) -> Taker<'a> {
        Taker {
            stream,
            order,
            guards: Default::default(),
            taken: 0,
            others: Vec::new(),
        }
    }

    /// A slice of `own` is about to be taken; whether that is another stream, which this orders with the rank's.
    fn meet(&mut self, name: &str, own: &Arc<CudaStream>) -> Result<bool> {
        if self.order == Order::Callers || own == self.stream {
            return Ok(false);
        }
        if !self.others.contains(own) {
            check_capture(name, own)?;
            self.others.push(own.clone());
        }
        Ok(true)
    }

    fn hold(&mut self, name: &str, own: &CudaStream, guard: SyncOnDrop<'a>) -> Result<()> {
        let checked = match self.order {
            Order::Checked => check_order(name, own, self.stream, &guard),
            Order::Callers => Ok(()),
        };
        self.guards[self.taken] = Some(guard);
        self.taken += 1;
        checked
    }

    pub(super) fn read<T: SliceElement>(&mut self, name: &str, mat: &Option<Matrix<'a, T>>) -> Result<Option<RawMat>> {
        let Some(Matrix { slice, shape }) = *mat else {
            return Ok(None);
        };
        self.meet(name, slice.stream())?;
        let (ptr, guard) = slice.device_ptr(self.stream);
        self.hold(name, slice.stream(), guard)?;
        Ok(Some(shape.at::<T>(ptr)))
    }

    pub(super) fn write<T: SliceElement>(&mut self, name: &str, mat: &'a mut MatrixMut<'_, T>) -> Result<RawMat> {
        let own = mat.slice.stream().clone();
        if self.meet(name, &own)? {
            // It may read the slice, with its event gone by a later read elsewhere.
            self.stream
                .join(&own)
                .map_err(|error| failed("cuStreamWaitEvent", error))?;
        }
        let (ptr, guard) = mat.slice.device_ptr_mut(self.stream);
        self.hold(name, &own, guard)?;
        Ok(mat.shape.at::<T>(ptr))
    }

    /// Behind the launch: the slices' own streams, and so their ends, wait for it; then cudarc records its events.
    pub(super) fn release(mut self) -> Result<()> {
        let others = std::mem::take(&mut self.others);
        let joined = others.iter().try_for_each(|other| other.join(self.stream));
        let stream = self.stream;
        drop(self);
        joined.map_err(|error| failed("cuStreamWaitEvent", error))?;
        // Whether whoever comes next will wait for the work is this.
        check(stream.context(), "SyncOnDrop")
    }
}
