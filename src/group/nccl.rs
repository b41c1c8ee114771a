//! A group's communicators of NCCL's: whether it has them, and what its ranks ask of them.
//!
//! They are made with the group, by policy [`NcclPolicy::Own`], and end with it: any failure of the group aborts them, since their
//! kernels wait for peers without a deadline; a failure of theirs is the group's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::holdings::Holdings;
use super::{Group, GroupConfig, Rank};
use crate::driver::{Driver, Kind, Place, Stream};
use crate::error::{Error, Result};
use crate::memory::layout::Layout;
use crate::nccl::{Call, Communicators, Config, Library, NcclPolicy, Space, UniqueId, connect};
use crate::route::Machine;

/// How long a stream is waited for between two looks at the communicators.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Nccl {
    communicators: Communicators,
    /// By rank.
    work: Vec<Work>,
}

/// What a rank's stream has got of NCCL's work.
#[derive(Debug, Default)]
struct Work {
    /// Counts on before and behind each group of calls: a stream that was dry between is not taken for one behind it.
    enqueued: AtomicU64,
    /// What was counted when the stream was seen dry.
    done: AtomicU64,
    /// Whether some were captured: a graph may bring them at any time, and nobody says so.
    captured: AtomicBool,
}

impl Work {
    /// A group of calls is about to be enqueued, or was.
    fn note(&self, captured: bool) {
        self.enqueued.fetch_add(1, Ordering::AcqRel);
        self.captured.fetch_or(captured, Ordering::AcqRel);
    }

    /// The count, where the stream was not seen dry behind all of it.
    fn outstanding(&self) -> Option<u64> {
        let enqueued = self.enqueued.load(Ordering::Acquire);
        let all_done = self.done.load(Ordering::Acquire) >= enqueued && !self.captured.load(Ordering::Acquire);
        (!all_done).then_some(enqueued)
    }

    /// The stream was dry after that count was read.
    fn end(&self, enqueued: u64) {
        self.done.fetch_max(enqueued, Ordering::AcqRel);
    }
}

/// What goes for a group: where nobody could call NCCL, nobody stands in.
pub(super) fn policy(driver: &dyn Driver, machine: &Machine, asked: NcclPolicy) -> NcclPolicy {
    match asked {
        NcclPolicy::Decline if driver.kind() == Kind::Sim || machine.gpus < machine.world => NcclPolicy::Never,
        asked => asked,
    }
}

/// Whether a group of this machine and configuration wants NCCL, and may have it; else why not. Ranks that agreed on both agree
/// on this.
pub(super) fn wanted(driver: &dyn Driver, machine: &Machine, config: &GroupConfig) -> Result<(), String> {
    if config.nccl != NcclPolicy::Own {
        return Err("communicators of NCCL's were not asked of the group (GroupConfig::nccl, NcclPolicy::Own)".into());
    }
    if driver.kind() == Kind::Sim {
        return Err("the simulated node has no NCCL".into());
    }
    if machine.world < 2 {
        return Err("one rank has nobody to exchange with".into());
    }
    if machine.gpus < machine.world {
        let (world, gpus) = (machine.world, machine.gpus);
        return Err(format!(
            "NCCL wants a GPU for each rank, and {world} ranks share {gpus}"
        ));
    }
    Ok(())
}

/// The library on this rank; else why there is none.
pub(super) fn library() -> Result<Arc<Library>, String> {
    #[cfg(test)]
    if let Some(found) = STAND_IN.with(|stand_in| stand_in.borrow().clone()) {
        return found;
    }
    Library::find().map_err(|error| error.to_string())
}

#[cfg(test)]
thread_local! {
    /// What a test's thread finds for NCCL.
    pub(super) static STAND_IN: std::cell::RefCell<Option<Result<Arc<Library>, String>>> = const { std::cell::RefCell::new(None) };
}

impl Nccl {
    /// The communicators of the ranks that this process drives, connected. Every process of the group does this at about the same
    /// time, with the id that one rank minted, and with heaps of one layout that no kernel uses yet. That takes at most about three times
    /// `patience`; later waits have `deadline`.
    pub fn join(
        driver: &Arc<dyn Driver>,
        library: &Arc<Library>,
        id: &UniqueId,
        holdings: &Holdings,
        layout: &Layout,
        (patience, deadline): (Duration, Duration),
    ) -> Result<Nccl> {
        let (world, locals) = (holdings.heaps.len(), &holdings.locals);
        let places: Vec<(usize, Place)> = locals.iter().map(|local| (local.rank, local.place)).collect();
        let ranks: Vec<usize> = locals.iter().map(|local| local.rank).collect();
        let at = driver.clone();
        let context = move |rank: usize, body: &mut dyn FnMut() -> Result<()>| match places
            .iter()
            .find(|(local, _)| *local == rank)
        {
            Some((_, place)) => at.in_context(*place, body),
            None => Err(Error::bad_argument("rank", rank, "one of this process")),
        };
        let config = Config {
            deadline: patience,
            most_ctas: None,
        };
        let mut communicators = Communicators::new(library, id, world, &ranks, config, Box::new(context))?;
        // Scratch and staging: what they hold counts only when a kernel has written it.
        let spaces = locals
            .iter()
            .filter_map(|local| Some((local, holdings.heaps.get(local.rank)?)));
        let spaces = spaces.map(|(local, heap)| Space {
            rank: local.rank,
            ptr: heap.ptr() + layout.scratch,
            bytes: (layout.heap_bytes - layout.scratch) as usize,
            stream: local.lane.stream,
        });
        let spaces: Vec<Space> = spaces.collect();
        // SAFETY: the heaps are the ranks' own, mapped, and used by nobody yet; nothing is launched before the streams are dry.
        unsafe { connect(&communicators, world, &spaces) }?;
        let begin = Instant::now();
        for local in locals {
            while !driver.stream_wait(local.lane.stream, LOOK)? {
                communicators.health(local.rank)?;
                if begin.elapsed() >= patience {
                    return Err(stuck(patience));
                }
            }
        }
        communicators.set_deadline(deadline);
        Ok(Nccl {
            communicators,
            work: (0..world).map(|_| Work::default()).collect(),
        })
    }

    /// What NCCL is, for a person.
    pub fn words(&self) -> String {
        let library = self.communicators.library();
        format!("NCCL {} ({})", library.version(), library.name())
    }
}

fn stuck(waited: Duration) -> Error {
    let waited = waited.as_secs_f64();
    Error::Driver {
        call: "ncclCommGetAsyncError",
        code: 0,
        message: format!("kernels of NCCL's were not done after {waited} s: did every rank launch the operation?"),
    }
}

impl Group {
    /// Makes NCCL's kernels leave, where there are any; returns at once.
    pub(super) fn abort_nccl(&self) {
        if let Some(nccl) = &self.holdings.nccl {
            nccl.communicators.abort();
        }
    }

    /// Waits for the work in a rank's stream. NCCL's has no deadline of its own: where there may be some, this has.
    pub(super) fn finish(&self, rank: usize, stream: Stream) -> Result<()> {
        match self.finish_nccl(rank, stream)? {
            true => Ok(()),
            false => self.driver.stream_synchronize(stream),
        }
    }

    /// The same where there may be work of NCCL's; whether there was.
    fn finish_nccl(&self, rank: usize, stream: Stream) -> Result<bool> {
        let nccl = self.holdings.nccl.as_ref();
        let Some((nccl, work)) = nccl.and_then(|nccl| Some((nccl, nccl.work.get(rank)?))) else {
            return Ok(false);
        };
        let Some(enqueued) = work.outstanding() else {
            return Ok(false);
        };
        let deadline = nccl.communicators.deadline();
        let begin = Instant::now();
        while !self.driver.stream_wait(stream, LOOK)? {
            if self.failure.get().is_some() || self.gave_up() {
                // NCCL's kernels would wait for whoever has. Which rank that is, `Rank::health` finds out.
                self.abort_nccl();
            } else {
                nccl.communicators.health(rank)?;
            }
            if begin.elapsed() >= deadline {
                return Err(stuck(deadline));
            }
        }
        work.end(enqueued);
        Ok(true)
    }

    /// Whether our own kernels have, on a rank here.
    fn gave_up(&self) -> bool {
        self.holdings.locals.iter().any(|local| local.report.abort() != 0)
    }
}

impl Rank {
    /// The NCCL that the group made communicators of, with its version; else why it has none
    /// ([`GroupConfig::nccl`]).
    pub fn nccl(&self) -> Result<String, String> {
        let why = || self.facts().communicators.clone().err().unwrap_or_default();
        self.group.holdings.nccl.as_ref().map(Nccl::words).ok_or_else(why)
    }

    /// Enqueues calls of NCCL on the rank's stream, as one group. A failure is the whole group's.
    ///
    /// # Safety
    /// As [`Communicators::enqueue`].
    pub(crate) unsafe fn enqueue_nccl(&self, calls: &[Call]) -> Result<()> {
        let Some(nccl) = &self.group.holdings.nccl else {
            return Err(Error::RouteUnavailable {
                path: crate::route::Path::Nccl,
                reason: self.nccl().err().unwrap_or_default(),
            });
        };
        let captured = self.driver().stream_is_capturing(self.stream())?;
        let note = || nccl.work.get(self.rank()).inspect(|work| work.note(captured));
        note();
        let parts: Vec<_> = calls.iter().map(|call| (self.rank(), *call, self.stream())).collect();
        // SAFETY: the caller's word.
        let enqueued = unsafe { nccl.communicators.enqueue(&parts) };
        note();
        enqueued.map_err(|error| self.group.fail(error))
    }

    /// Waits for work of NCCL's in the stream, where there may be some and the stream does not capture: before whatever else would
    /// wait behind it without a bound.
    pub(crate) fn finish_nccl(&self) -> Result<()> {
        if self.group.holdings.nccl.is_none() || self.driver().stream_is_capturing(self.stream())? {
            return Ok(());
        }
        let finished = self.group.finish_nccl(self.rank(), self.stream());
        finished.map(drop).map_err(|error| self.group.fail(error))
    }

    /// Whether NCCL, or a rank here that NCCL's kernels of this one may have waited for, has found something wrong.
    pub(super) fn nccl_health(&self) -> Result<()> {
        let Some(nccl) = &self.group.holdings.nccl else {
            return Ok(());
        };
        if self.group.gave_up() {
            return Err(self.diagnose());
        }
        let health = nccl.communicators.health(self.rank());
        health.map_err(|error| self.group.fail(error))
    }
}

#[cfg(all(test, feature = "cuda", target_os = "linux"))]
mod tests;
