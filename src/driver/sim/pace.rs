//! The two ways that a node's time goes.
//!
//! As a rule it is simulated: it stands still unless somebody waits, and where nothing can run it jumps to the next deadline. So a
//! schedule depends on the program alone. A *free-running* node ([`SimConfig::free_running`](super::SimConfig)) is for those who
//! call it as they would a GPU, and poll, or launch one rank after the other while the first runs already: it advances as soon as
//! there is work, its time is the wall clock's, and where nothing can run it sleeps until somebody enqueues, pokes or a deadline
//! comes. Results are as promised; schedules, and who orders copies with kernels of other streams, are nobody's promise then.

use std::cmp::Reverse;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use super::clock::join;
use super::handle::SimNode;
use super::machine::Machine;
use super::shared::{Ask, State};
use super::stream::Command;
use crate::driver::{DevicePtr, Event, Place};
use crate::error::{Error, Result};

/// Wakes the node's thread, or makes it look up between two bursts.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// The node's thread sleeps here.
    pub work: Condvar,
    /// The node's thread should look up between two bursts.
    pub attention: AtomicBool,
}

impl Bell {
    pub fn ring(&self) {
        self.attention.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }
}

impl State {
    /// Whether there is work that a free-running node does unasked.
    pub fn has_work(&self) -> bool {
        let busy = |head: &super::shared::Head| head.done < head.enqueued || !head.queue.is_empty();
        self.free_running.is_some() && self.streams.values().any(busy)
    }

    /// A free-running node takes over what was enqueued at once.
    pub fn enqueued(&self) {
        if let Some(bell) = &self.free_running {
            bell.ring();
        }
    }
}

impl Machine {
    /// Free-running: time goes by itself.
    pub fn keep_time(&mut self) {
        if let Some(start) = self.wall {
            self.now = self.now.max(start.elapsed().as_nanos() as u64);
        }
    }

    /// How long a free-running node with nothing to run may sleep; `None`: until it is called.
    pub fn next_due(&self) -> Option<Duration> {
        let Reverse((until, ..)) = self.parked.peek()?;
        Some(Duration::from_nanos(until.saturating_sub(self.now)))
    }

    /// Free-running: the host may have seen whatever is done, by whatever way.
    pub fn host_saw_all(&mut self) {
        if self.wall.is_none() {
            return;
        }
        for stream in self.streams.values() {
            join(&mut self.host, &Rc::clone(&stream.rows), &mut Vec::new());
        }
    }
}

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

    /// Blocks until an event's last record has happened, but no longer than `patience`; whether it has. One that was never
    /// recorded has.
    #[doc(hidden)]
    pub fn event_wait(&self, event: Event, patience: Duration) -> Result<bool> {
        let Some((stream, position)) = ({
            let s = self.node.shared.lock();
            let recorded = s.events.get(&event.0).ok_or_else(|| super::arguments::bad_event(event))?;
            recorded.happens()?;
            match s.dead.clone() {
                Some(error) => return Err(error),
                None => recorded.place(),
            }
        }) else {
            return Ok(true);
        };
        {
            let s = self.node.shared.lock();
            let done = s.streams.get(&stream).is_none_or(|head| head.done >= position);
            if done || patience.is_zero() {
                return Ok(done);
            }
        }
        let end = Instant::now().checked_add(patience);
        self.node.shared.wait_at_most(stream, position, end)
    }

    /// Copies as a driver does that goes through the host where the stream's device does not reach both ends.
    #[doc(hidden)]
    pub fn copy_anywhere(&self, dst: DevicePtr, src: DevicePtr, bytes: usize, stream: crate::driver::Stream) -> Result<()> {
        for (name, ptr) in [("dst", dst), ("src", src)] {
            self.check_range(name, ptr, bytes)?;
        }
        let bytes = bytes as u64;
        self.enqueue(stream, Command::Copy { dst, src, bytes }).map(drop)
    }

    /// Wall time between two records that have happened, on a free-running node.
    pub(super) fn elapsed_ms(&self, start: Event, end: Event) -> Result<Option<f64>> {
        if !self.config.free_running {
            return Ok(None);
        }
        let at = |event: Event| -> Result<u64> {
            let when = self.node.shared.ask(|answer| Ask::Happened { event: event.0, answer })?;
            when.ok_or_else(|| Error::bad_argument("event", event.0, "one whose record has happened"))
        };
        let (start, end) = (at(start)?, at(end)?);
        Ok(Some((end as f64 - start as f64) / 1e6))
    }
}

/// What a free-running node's state holds of its thread.
pub(super) fn bell_of(bell: &Arc<Bell>, free_running: bool) -> Option<Arc<Bell>> {
    free_running.then(|| bell.clone())
}
