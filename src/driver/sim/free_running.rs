//! A node that is called as a GPU is: by threads that are attached to nothing, that poll, or launch one rank after the
//! other while the first runs already. A *free-running* node ([`SimConfig::free_running`](super::SimConfig)) is linked
//! from the start (`foreign.rs`): it runs what is enqueued by itself, in the wall's time. Besides, copies take memory
//! as they find it, since a caller may look at what a kernel is writing.
//!
//! The rest is what CUDA's calls can ask for and the driver layer does not.

use super::handle::SimNode;
use super::shared::Ask;
use super::stream::Command;
use crate::driver::{DevicePtr, Event, Physical, Place, Stream};
use crate::error::{Error, Result};

impl SimNode {
    /// Memory of the host, all 0, that kernels of every device reach under its own address: what CUDA calls page-locked.
    #[doc(hidden)]
    pub fn host_memory(&self, place: Place, bytes: usize) -> Result<DevicePtr> {
        let device = self.check_place(place)?.device;
        let ptr = self.arena.allocate(device, bytes)?;
        self.arena.open_to_all(ptr)?;
        Ok(ptr)
    }

    /// Gives back what [`SimNode::host_memory`] gave, at once; no work still uses it.
    #[doc(hidden)]
    pub fn host_memory_free(&self, ptr: DevicePtr) -> Result<()> {
        self.arena.free(ptr)
    }

    /// Copies as a driver does that goes another way where the stream's device does not reach both ends.
    #[doc(hidden)]
    pub fn copy_anywhere(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Stream) -> Result<()> {
        for (name, ptr) in [("dst", dst), ("src", src)] {
            self.check_range(name, ptr, bytes)?;
        }
        let bytes = bytes as u64;
        self.enqueue(stream, Command::Copy { dst, src, bytes }).map(drop)
    }

    /// The device that physical memory lives on; `None`: one that is not visible.
    #[doc(hidden)]
    pub fn physical_owner(&self, memory: Physical) -> Result<Option<usize>> {
        let device = self.arena.physical_device(memory.0)?;
        Ok(self.seen.iter().position(|seen| *seen == device))
    }

    /// Wall time between two records that have happened, on a free-running node.
    pub(super) fn elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>> {
        if !self.config.free_running && self.config.clock.is_none() {
            return Ok(None);
        }
        let at = |event: Event| -> Result<u64> {
            let when = self.node.shared.ask(|answer| Ask::When { event: event.0, answer })?;
            when.ok_or_else(|| Error::bad_argument("event", event.0, "one that was recorded and has happened"))
        };
        let (start, end) = (at(start)?, at(end)?);
        Ok(Some((end as f64 - start as f64) / 1e6))
    }
}
