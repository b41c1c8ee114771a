//! Groups of ranks: one order of operations, one symmetric heap on each rank, one fate.
//!
//! In one process a [`Group`] owns every rank's heap and stream. [`Rank`]s, plans and buffers share it, so no heap goes
//! while a peer may still map it. When the last of them goes, the group first lets all streams run dry. That is bounded:
//! kernels' waits are, and where some ranks have launched more than others, so that somebody would wait for a launch that
//! cannot come any more, the group is aborted first. What was captured is launched without the group's knowledge: once
//! there was a capture, nothing is known of who has launched more, and the deadline alone bounds that wait.

mod barrier;
mod budget;
mod config;
mod diagnose;
#[cfg(test)]
pub(crate) mod fake;
mod links;
mod node;
mod rank;
mod residence;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use barrier::HostBarrier;
pub use config::{GroupConfig, Numerics, Probing};
pub use node::Node;
pub use rank::{Rank, Stats};

use crate::abi::{self, CONTROL_BYTES, TwControl, TwDescriptor, TwGroup};
use crate::driver::{DevicePtr, Driver, Place, Stream};
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::memory::layout::Layout;
use crate::memory::multicast::{self, SharedHeaps};
use crate::op::Facts;
use crate::trace;

/// Where a rank runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankPlace {
    /// The device, or the share of one.
    pub place: Place,
    /// The stream its operations are enqueued on; `None`: one of its own.
    pub stream: Option<Stream>,
}

/// What a rank has launched.
#[derive(Debug, Default)]
struct Launches {
    /// Operations that ran when they were launched.
    eager: u64,
    /// Whether some were captured: how often those run, who launches their graph knows.
    captured: bool,
    /// What was launched or captured, by the hash that its hello carries; at most [`MOST_KNOWN`].
    known: HashMap<u64, TwDescriptor>,
}

/// What a disagreement can tell the words of. More sizes than that are told by their hashes.
const MOST_KNOWN: usize = 4096;

/// A stream, run dry on drop, and ended where the group made it.
#[derive(Debug)]
struct Lane {
    driver: Arc<dyn Driver>,
    stream: Stream,
    owned: bool,
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure.
        let _ = if self.owned {
            self.driver.stream_destroy(self.stream)
        } else {
            self.driver.stream_synchronize(self.stream)
        };
    }
}

/// One rank's part of a group.
#[derive(Debug)]
struct Member {
    place: Place,
    // Dropped before the heap that its work touches.
    lane: Lane,
    heap: Heap,
    /// Held while an operation is enqueued: the order of launches is the order of epochs.
    launched: Mutex<Launches>,
    /// Buffers dropped while the stream captured: freeing them then would have been captured, too.
    retired: Mutex<Vec<DevicePtr>>,
}

#[derive(Debug)]
pub(crate) struct Group {
    driver: Arc<dyn Driver>,
    /// Unlike that of any other group in this process.
    number: u64,
    /// Dropped before the heaps that it joins.
    _shared: Option<SharedHeaps>,
    members: Vec<Member>,
    facts: Facts,
    abi: TwGroup,
    /// The first failure; every later launch is refused with it.
    failure: OnceLock<Error>,
    barrier: HostBarrier,
    /// The machine as it describes itself, and its links as they were found.
    links: links::Links,
    /// The SMs that are this group's among others', given back last.
    _budget: budget::Budget,
}

impl Group {
    fn make(driver: &Arc<dyn Driver>, ranks: &[RankPlace], config: &GroupConfig) -> Result<Vec<Rank>> {
        static GROUPS: AtomicU64 = AtomicU64::new(0);
        let world = ranks.len();
        if !(1..=abi::TW_MAX_RANKS as usize).contains(&world) {
            return Err(Error::bad_argument("world", world, "1 to 16 ranks"));
        }
        config.check()?;
        residence::check(&**driver, ranks)?;
        for (rank, RankPlace { stream, .. }) in ranks.iter().enumerate() {
            let capturing = stream.map_or(Ok(false), |stream| driver.stream_is_capturing(stream))?;
            if capturing {
                let name = format!("rank {rank}'s stream");
                let expected = "one that does not: a group is made before its launches are captured";
                return Err(Error::bad_argument(name, "one that captures", expected));
            }
        }
        let layout = Layout::new(config.heap_bytes, world, config.one_shot_bytes)?;
        let places: Vec<Place> = ranks.iter().map(|rank| rank.place).collect();
        // All kernels are there before the first launch: loading one under a kernel that waits may deadlock.
        for place in &places {
            driver.load_kernels(*place)?;
        }
        let mut links = links::Links::of(driver, &places, config.probing)?;
        let mut machine = links.machine(&**driver, &places)?;
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let budget = budget::claim(driver, number, &places, config.max_ctas)?;
        let ctas = residence::resident_ctas(&**driver, &places, config.max_ctas)?;
        let multicast = match config.numerics {
            Numerics::Exact => {
                Err("it was not asked of the group (GroupConfig::numerics, Numerics::InSwitch)".to_string())
            }
            Numerics::InSwitch => links.multicast().and_then(|()| multicast::possible(&**driver, &places)),
        };
        let unit = *multicast.as_ref().unwrap_or(&1);
        let mut members = Vec::with_capacity(world);
        for RankPlace { place, stream } in ranks {
            let lane = Lane {
                driver: driver.clone(),
                stream: stream.map_or_else(|| driver.stream_create(*place), Ok)?,
                owned: stream.is_none(),
            };
            let accessors = links.accessors(&**driver, &places, *place)?;
            let heap = Heap::new(driver, *place, config.heap_bytes, unit, &accessors)?;
            // Whole before its stream is used: dropped after an error, the stream runs dry before the heap goes.
            let member = Member {
                place: *place,
                lane,
                heap,
                launched: Mutex::default(),
                retired: Mutex::default(),
            };
            let stream = member.lane.stream;
            driver.fill(member.heap.ptr(), 0, layout.zeroed_bytes(), stream)?;
            driver.copy_in(member.heap.ptr(), &TwControl::initial().to_bytes(), stream)?;
            members.push(member);
        }
        // No rank launches before every control block is ready for the peers' first words.
        for member in &members {
            driver.stream_synchronize(member.lane.stream)?;
        }
        // What a machine claims and then does not give is no error, but said: sums are exact then.
        let heaps: Vec<&Heap> = members.iter().map(|member| &member.heap).collect();
        let shared =
            multicast.and_then(|_| SharedHeaps::new(driver, &places, &heaps).map_err(|error| error.to_string()));
        if let (Numerics::InSwitch, Err(reason)) = (config.numerics, &shared) {
            links.say(format!("no sums in the switch, though asked for: {reason}"));
        }
        let mut abi = TwGroup {
            multicast: shared.as_ref().map_or(0, SharedHeaps::ptr),
            deadline_ns: config.deadline_ns(),
            ..layout.group()
        };
        for (address, member) in abi.heap.iter_mut().zip(&members) {
            *address = member.heap.ptr();
        }
        // Whoever claimed what: here is one.
        machine.multicast |= shared.is_ok();
        let facts = Facts {
            world,
            layout,
            hopper: residence::all_hopper(&**driver, &places)?,
            ctas,
            alternative: links::alternative(&**driver, &machine, config.alternative),
            machine,
            multicast: shared.as_ref().map(drop).map_err(String::clone),
        };
        let failure = OnceLock::new();
        let group = Arc::new(Group {
            driver: driver.clone(),
            number,
            _shared: shared.ok(),
            members,
            facts,
            abi,
            failure,
            barrier: HostBarrier::new(world),
            links,
            _budget: budget,
        });
        let ranks: Vec<Rank> = (0..world).map(|rank| Rank::new(group.clone(), rank)).collect();
        trace::group_made(&ranks[0], &places);
        Ok(ranks)
    }

    /// Reads every rank's control block, as it is now.
    fn controls(&self) -> Result<Vec<TwControl>> {
        self.members.iter().map(|member| self.control(member)).collect()
    }

    fn control(&self, member: &Member) -> Result<TwControl> {
        let mut bytes = [0; CONTROL_BYTES];
        self.driver.peek(&mut bytes, member.heap.ptr())?;
        Ok(TwControl::from_bytes(bytes))
    }

    /// Raises every rank's abort word: kernels that wait give up, one by one and soon.
    fn raise_abort(&self) -> Result<()> {
        let at = std::mem::offset_of!(TwControl, abort) as u64;
        let word = (abi::TW_ABORT_HOST as u64).to_le_bytes();
        // Every rank is tried, whatever becomes of the others; the first failure is reported.
        let mut result = Ok(());
        for member in &self.members {
            result = result.and(self.driver.poke(member.heap.ptr() + at, &word));
        }
        result
    }

    /// The group's failure: the first one to be set.
    fn fail(&self, error: Error) -> Error {
        let told = |error| {
            trace::group_failed(self.number, &error);
            error
        };
        let first = self.failure.get_or_init(|| told(error)).clone();
        self.barrier.wake();
        first
    }

    fn launched(member: &Member) -> MutexGuard<'_, Launches> {
        // The counts are whole at every moment, whatever happened to a thread that held them.
        member.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was launched under a hash, on any rank.
    fn known(&self, hash: u64) -> Option<TwDescriptor> {
        self.members
            .iter()
            .find_map(|member| Group::launched(member).known.get(&hash).copied())
    }

    /// Waits for the work in a stream, unless the stream captures: waiting would only spoil the capture.
    fn run_dry(&self, member: &Member) -> Result<()> {
        if self.driver.stream_is_capturing(member.lane.stream)? {
            return Ok(());
        }
        self.driver.stream_synchronize(member.lane.stream)
    }

    /// Frees a buffer of `member` behind the work in its stream; during a capture later, with the next one.
    fn retire(&self, member: &Member, ptr: DevicePtr) -> Result<()> {
        let stream = member.lane.stream;
        let mut retired = member.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push(ptr);
        if self.driver.stream_is_capturing(stream)? {
            return Ok(());
        }
        // Every one is tried; the first failure is reported.
        let mut result = Ok(());
        for ptr in retired.drain(..) {
            result = result.and(self.driver.free_async(ptr, stream));
        }
        result
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A capture that nobody ended would outlive the stream. There is nobody left to tell of a failure, here and below.
        for Member { lane, .. } in self.members.iter().filter(|member| member.lane.owned) {
            if let Ok(true) = self.driver.stream_is_capturing(lane.stream)
                && let Ok(graph) = self.driver.stream_end_capture(lane.stream)
            {
                let _ = self.driver.graph_destroy(graph);
            }
        }
        let mut counts = self.members.iter().map(|member| {
            let launched = Group::launched(member);
            (!launched.captured).then_some(launched.eager)
        });
        let first = counts.next().flatten();
        let uneven =
            first.is_some() && counts.clone().all(|count| count.is_some()) && counts.any(|count| count != first);
        if self.failure.get().is_none() && uneven {
            // Some kernel waits, or will, for a launch that cannot come any more.
            let _ = self.raise_abort();
        }
        // Kernels of all ranks write into all heaps, so every stream runs dry before the first heap goes.
        for member in &self.members {
            let retired = member.retired.lock().unwrap_or_else(PoisonError::into_inner);
            for ptr in retired.iter() {
                let _ = self.driver.free_async(*ptr, member.lane.stream);
            }
            drop(retired);
            let _ = self.driver.stream_synchronize(member.lane.stream);
        }
    }
}
