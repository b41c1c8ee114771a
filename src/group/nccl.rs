//! A group's communicators of NCCL's: whether it has them, and what its ranks ask of them.
//!
//! They are made with the group, by policy [`NcclPolicy::Own`], and end with it: any failure of the group aborts them, since their
//! kernels wait for peers without a deadline; a failure of theirs is the group's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// By rank: whether the stream was not seen dry since it got work of NCCL's.
    outstanding: Vec<AtomicBool>,
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
            outstanding: (0..world).map(|_| AtomicBool::new(false)).collect(),
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
        let Some((nccl, outstanding)) = self
            .holdings
            .nccl
            .as_ref()
            .and_then(|nccl| Some((nccl, nccl.outstanding.get(rank)?)))
        else {
            return self.driver.stream_synchronize(stream);
        };
        // What is launched meanwhile raises it again.
        if !outstanding.swap(false, Ordering::AcqRel) {
            return self.driver.stream_synchronize(stream);
        }
        let deadline = nccl.communicators.deadline();
        let begin = Instant::now();
        while !self.driver.stream_wait(stream, LOOK)? {
            // Of a group that has failed NCCL's kernels are leaving; ours have a deadline.
            nccl.communicators.health(rank)?;
            if begin.elapsed() >= deadline {
                return Err(stuck(deadline));
            }
        }
        Ok(())
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
        if let Some(outstanding) = nccl.outstanding.get(self.rank()) {
            outstanding.store(true, Ordering::Release);
        }
        let parts: Vec<_> = calls.iter().map(|call| (self.rank(), *call, self.stream())).collect();
        // SAFETY: the caller's word.
        unsafe { nccl.communicators.enqueue(&parts) }.map_err(|error| self.group.fail(error))
    }

    /// Whether NCCL has found something wrong.
    pub(super) fn nccl_health(&self) -> Result<()> {
        let health = self
            .group
            .holdings
            .nccl
            .as_ref()
            .map(|nccl| nccl.communicators.health(self.rank()));
        health.unwrap_or(Ok(())).map_err(|error| self.group.fail(error))
    }
}

#[cfg(all(test, feature = "cuda", target_os = "linux"))]
mod tests;
