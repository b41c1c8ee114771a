//! What a group holds of the machine, and how it is given back.
//!
//! Kernels of a group write into its heaps until they end, and a kernel that waits for a peer may take until the deadline. So
//! nothing is given back while work is left in a stream of the group; and because dropping must not wait for that, what
//! cannot be given back yet is left behind here. Whoever makes, closes or drops a group later looks again, and what nobody
//! looks for goes with the process.
//!
//! Only work of this process counts. Another rank's mapping of this rank's heap keeps the memory behind it alive, in this
//! process or another, so no peer has to be asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::budget::Budget;
use super::nccl::Nccl;
use crate::abi::TwDescriptor;
use crate::driver::{DevicePtr, Driver, Event, Kind, Place, Stream};
use crate::error::Result;
use crate::memory::heap::Heap;
use crate::memory::multicast::SharedHeaps;
use crate::memory::report::Report;

/// What was launched or captured, by the hash that its hello carries; at most [`MOST_KNOWN`].
pub(super) type Known = HashMap<u64, TwDescriptor>;

/// What a rank has launched.
#[derive(Debug, Default)]
pub(super) struct Launches {
    /// Held while an operation is enqueued: the order of launches is the order of epochs.
    known: Mutex<Known>,
    /// Operations that ran when they were launched. Written under the lock, and read by whoever must not wait for it: a launch
    /// blocks where the device's queue is full, for as long as the kernels in it.
    eager: AtomicU64,
    /// Whether some were captured: how often those run, who launches their graph knows.
    captured: AtomicBool,
}

impl Launches {
    /// What is known of them; nobody launches meanwhile. It is whole at every moment, whatever happened to a thread that held it.
    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, by whoever holds the lock.
    pub fn count(&self, captured: bool) {
        // Relaxed: numbers that order nothing else.
        if captured {
            self.captured.store(true, Ordering::Relaxed);
        } else {
            self.eager.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many; unknown once one was captured.
    pub fn total(&self) -> Option<u64> {
        let eager = self.eager.load(Ordering::Relaxed);
        (!self.captured.load(Ordering::Relaxed)).then_some(eager)
    }
}

/// What a disagreement can tell the words of. More sizes than that are told by their hashes.
pub(super) const MOST_KNOWN: usize = 4096;

/// A rank's stream, ended on drop where the group made it; it is idle then.
#[derive(Debug)]
pub(super) struct Lane {
    driver: Arc<dyn Driver>,
    pub stream: Stream,
    pub owned: bool,
    /// Recorded behind the last work when the last handle goes: a stream of the caller's may be gone before that work is looked
    /// for again.
    last: Event,
}

impl Lane {
    /// On `stream`, or on one of its own.
    pub fn new(driver: &Arc<dyn Driver>, place: Place, stream: Option<Stream>) -> Result<Lane> {
        let owned = stream.is_none();
        let stream = stream.map_or_else(|| driver.stream_create(place), Ok)?;
        let last = driver.event_create_for(stream);
        if let (Err(_), true) = (&last, owned) {
            // The event's error is the one to report.
            let _ = driver.stream_destroy(stream);
        }
        Ok(Lane {
            driver: driver.clone(),
            stream,
            owned,
            last: last?,
        })
    }

    /// Whether no work is left, as far as the group may look at the stream; where some is, it is marked for
    /// [`Lane::is_done`]. A stream that cannot tell (its context is lost, the simulated node has stopped, it captures) runs
    /// nothing that could be waited for.
    fn leave(&self) -> bool {
        self.driver.stream_wait(self.stream, Duration::ZERO).unwrap_or(true)
            || self.driver.event_record(self.last, self.stream).is_err()
    }

    /// Whether what [`Lane::leave`] marked is done.
    fn is_done(&self) -> bool {
        self.driver.event_done(self.last).unwrap_or(true)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure.
        let _ = self.driver.event_destroy(self.last);
        if self.owned {
            let _ = self.driver.stream_destroy(self.stream);
        }
    }
}

/// A rank that this process drives.
#[derive(Debug)]
pub(super) struct Local {
    pub rank: usize,
    pub place: Place,
    pub lane: Lane,
    /// What its kernels tell the host.
    pub report: Report,
    pub launched: Launches,
    /// Buffers dropped while the stream captured: freeing them then would have been captured, too.
    pub retired: Mutex<Vec<DevicePtr>>,
}

impl Local {
    pub fn new(driver: &Arc<dyn Driver>, rank: usize, place: Place, stream: Option<Stream>) -> Result<Local> {
        Ok(Local {
            rank,
            place,
            lane: Lane::new(driver, place, stream)?,
            report: Report::new(driver, place)?,
            launched: Launches::default(),
            retired: Mutex::default(),
        })
    }
}

/// All of it. Fields are given back in this order: what joins ranks and heaps first, then streams and host words, then the heaps.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Where the policy has it made: aborted when it goes, so not before its kernels are done.
    pub nccl: Option<Nccl>,
    pub shared: Option<SharedHeaps>,
    /// The ranks that this process drives, by ascending rank.
    pub locals: Vec<Local>,
    /// Every rank's, in rank order.
    pub heaps: Vec<Heap>,
    /// The SMs that are this group's among others'.
    pub budget: Option<Budget>,
    /// Tells other processes by its end that this rank's kernels are done, or that its process is gone.
    pub line: Option<Arc<dyn std::fmt::Debug + Send + Sync>>,
    /// Whether work was left in the streams when the caller let go of them.
    pub busy: OnceLock<bool>,
}

impl Holdings {
    /// The last look at the streams, which may be gone from here on; whether work is left in them.
    pub fn leave(&self) -> bool {
        // Every stream is marked, whatever the others say.
        let busy = || self.locals.iter().filter(|local| !local.lane.leave()).count() > 0;
        *self.busy.get_or_init(busy)
    }
}

/// What is left behind, given back in the same order.
#[derive(Debug)]
struct Left {
    _nccl: Option<Nccl>,
    _shared: Option<SharedHeaps>,
    locals: Vec<Local>,
    _heaps: Vec<Heap>,
    _budget: Option<Budget>,
    _line: Option<Arc<dyn std::fmt::Debug + Send + Sync>>,
}

impl Left {
    fn driver(&self) -> Option<&Arc<dyn Driver>> {
        self.locals.first().map(|local| &local.lane.driver)
    }

    /// How often it holds its driver: a lane and a report for each rank, and every heap.
    fn holds(&self) -> usize {
        2 * self.locals.len() + self._heaps.len() + usize::from(self._shared.is_some())
    }

    fn is_done(&self) -> bool {
        self.locals.iter().all(|local| local.lane.is_done())
    }
}

/// Whether nobody but what is left holds this simulated node: it advances only while somebody waits for it, so its work is
/// never done.
fn is_forsaken(left: &[Left], driver: &Arc<dyn Driver>) -> bool {
    let same = |other: &&Left| other.driver().is_some_and(|other| Arc::ptr_eq(other, driver));
    let held: usize = left.iter().filter(same).map(Left::holds).sum();
    driver.kind() == Kind::Sim && Arc::strong_count(driver) == held
}

static LEFT: Mutex<Vec<Left>> = Mutex::new(Vec::new());

impl Drop for Holdings {
    fn drop(&mut self) {
        if !self.leave() {
            return; // the fields go now
        }
        let left = Left {
            _nccl: self.nccl.take(),
            _shared: self.shared.take(),
            locals: std::mem::take(&mut self.locals),
            _heaps: std::mem::take(&mut self.heaps),
            _budget: self.budget.take(),
            _line: self.line.take(),
        };
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(left);
    }
}

/// Gives back what groups have left behind and whose work is done by now; never waits.
pub(super) fn give_back() {
    let mut all = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    // Told of each before the first one goes: what is on its way out still holds its driver.
    let forsaken: Vec<bool> = all
        .iter()
        .map(|left| left.driver().is_some_and(|driver| is_forsaken(&all, driver)))
        .collect();
    let (mut gone, mut running) = (Vec::new(), Vec::new());
    for (mut left, forsaken) in std::mem::take(&mut *all).into_iter().zip(forsaken) {
        if !forsaken && !left.is_done() {
            running.push(left);
            continue;
        }
        // Ending a stream waits for its work: a node that nobody has goes with what is in its streams.
        left.locals.iter_mut().for_each(|local| local.lane.owned &= !forsaken);
        gone.push(left);
    }
    *all = running;
    drop(all);
    // Without the lock: the last one to hold a driver ends it.
    drop(gone);
}
