//! The slices' guards, held until the work is enqueued.

use std::sync::Arc;

use cudarc::driver::{CudaStream, SyncOnDrop};

use super::element::SliceElement;
use super::matrix::{Matrix, MatrixMut};
use crate::error::{Error, Result};
use crate::memory::RawMat;

/// Who sees to it that slices outlive the work, and that streams do not meet in them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// cudarc's events or the one stream, as was checked.
    Checked,
    /// The caller.
    Callers,
}

/// That cudarc orders the use of a slice on `stream` with every other, and its end. The guard tells whether the slice
/// has events.
fn check_order(name: &str, own: &CudaStream, stream: &CudaStream, guard: &SyncOnDrop<'_>) -> Result<()> {
    let recorded = matches!(guard, SyncOnDrop::Record(Some(_)) | SyncOnDrop::Sync(Some(_)));
    if own == stream || recorded && stream.context().is_managing_stream_synchronization() {
        return Ok(());
    }
    let expected = "one of the rank's stream, or one that cudarc's event tracking follows (CudaContext::enable_event_tracking before it is \
                    allocated): else nothing keeps it until the kernel has run (Plan::launch_slices_unchecked leaves that to you)";
    Err(Error::bad_argument(
        name,
        "a slice of another stream, without events",
        expected,
    ))
}

/// Takes addresses, and holds the slices' guards.
pub(super) struct Taker<'a> {
    stream: &'a Arc<CudaStream>,
    order: Order,
    guards: [Option<SyncOnDrop<'a>>; 7],
    taken: usize,
}

impl<'a> Taker<'a> {
    pub(super) fn new(stream: &'a Arc<CudaStream>, order: Order) -> Taker<'a> {
        Taker {
            stream,
            order,
            guards: Default::default(),
            taken: 0,
        }
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
        let (ptr, guard) = slice.device_ptr(self.stream);
        self.hold(name, slice.stream(), guard)?;
        Ok(Some(shape.at::<T>(ptr)))
    }

    pub(super) fn write<T: SliceElement>(&mut self, name: &str, mat: &'a mut MatrixMut<'_, T>) -> Result<RawMat> {
        let own = mat.slice.stream().clone();
        let (ptr, guard) = mat.slice.device_ptr_mut(self.stream);
        self.hold(name, &own, guard)?;
        Ok(mat.shape.at::<T>(ptr))
    }
}
