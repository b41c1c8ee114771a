//! What one process holds of a clique of ranks: communicators, one a rank.
//!
//! They do not block: a call that is not done says so, and the communicators are asked until they are done or a deadline has
//! passed. NCCL's kernels have no deadline of their own, so whoever waits for a stream with work of theirs has one, and ends in
//! [`Communicators::abort`], which makes them leave. After a failure of any, all are aborted: what was enqueued behind them
//! goes on.
//!
//! To end a communicator may take as long as its kernels do, and frees memory, which waits for the device. So aborting,
//! and dropping, which is no other thing, is done by a thread apart; [`Communicators::close`] is the orderly way.

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::Duration;

use super::calls::Call;
use super::library::{Library, RawConfig, UniqueId};
use super::settle::Wait;
use super::shared::{Handle, Member, Shared};
use crate::driver::Stream;
use crate::error::{Error, Result};

/// Makes a rank's device the thread's current one while the body runs ([`Driver::in_context`](crate::driver::Driver::in_context)).
pub type Context = dyn Fn(usize, &mut dyn FnMut() -> Result<()>) -> Result<()> + Send + Sync;

/// How communicators are made; equal on all ranks.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bound on every wait.
    pub deadline: Duration,
    /// The most CTAs that a kernel of NCCL's has; `None`: as it likes.
    pub most_ctas: Option<u32>,
}

/// Of this process's ranks of a clique, by ascending rank.
pub struct Communicators {
    shared: Arc<Shared>,
    context: Box<Context>,
    deadline: Duration,
}

impl std::fmt::Debug for Communicators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranks: Vec<usize> = self.shared.members.iter().map(|member| member.rank).collect();
        let (library, failure) = (&self.shared.library.name(), &self.shared.failure);
        f.debug_struct("Communicators")
            .field("library", library)
            .field("ranks", &ranks)
            .field("failure", failure)
            .finish()
    }
}

impl Communicators {
    /// Those of `ranks`, of a clique of `world`: every process of it makes its own, with the same id, at about the same time.
    ///
    /// # Errors
    /// [`Error::Driver`] in NCCL's words, or where not all came within the deadline; [`Error::BadArgument`] for ranks that the
    /// world has not.
    pub fn new(
        library: &Arc<Library>,
        id: &UniqueId,
        world: usize,
        ranks: &[usize],
        config: Config,
        context: Box<Context>,
    ) -> Result<Communicators> {
        let ascending = ranks.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = ranks.last().is_some_and(|last| *last < world);
        let count = c_int::try_from(world).ok().filter(|_| ascending && inside);
        let count = count.ok_or_else(|| {
            let expected = format!("some below {world}, the clique's size, by ascending number");
            Error::bad_argument("ranks", format!("{ranks:?}"), expected)
        })?;
        let member = |rank: &usize| Member {
            rank: *rank,
            comm: Mutex::new(Handle(null_mut())),
        };
        let made = Communicators {
            shared: Arc::new(Shared {
                library: library.clone(),
                members: ranks.iter().map(member).collect(),
                ended: AtomicBool::new(false),
                failure: OnceLock::new(),
            }),
            context,
            deadline: config.deadline,
        };
        let all: Vec<usize> = (0..ranks.len()).collect();
        made.grouped(&all, &mut |comms| {
            for (comm, rank) in comms.iter_mut().zip(ranks) {
                // Below `world`, which is a `c_int`.
                let number = *rank as c_int;
                (made.context)(*rank, &mut || {
                    let mut raw = RawConfig::new(config.most_ctas);
                    // SAFETY: the configuration is read before the call returns. NCCL writes the handle before it returns, or
                    // until the group is settled: its place is a member of the vector that `shared` owns, locked by `grouped`,
                    // which waits for the end; after a failure that vector is given to the thread that aborts.
                    let status = unsafe { (library.comm_init)(&mut comm.0, count, *id, number, &mut raw) };
                    library.check("ncclCommInitRankConfig", status)
                })?;
            }
            Ok(())
        })?;
        Ok(made)
    }

    /// The library that they are of.
    pub fn library(&self) -> &Arc<Library> {
        &self.shared.library
    }

    /// Bound on every wait.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// From now on this bounds every wait.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Enqueues collectives of ranks of this process, all in one group, and waits until NCCL has enqueued its kernels. Of one
    /// rank alone that waits for no other, where the clique is connected (`docs/nccl.md`).
    ///
    /// # Safety
    /// Addresses and streams are of live objects of the rank's device. There is room for what [`Call::count`] counts on its side
    /// and for as many times the ranks on the other one; and it lasts until the stream has run what is enqueued here.
    ///
    /// # Errors
    /// [`Error::Driver`] in NCCL's words, or after the deadline; everything is aborted then. [`Error::BadArgument`] for a rank
    /// of another process.
    pub unsafe fn enqueue(&self, parts: &[(usize, Call, Stream)]) -> Result<()> {
        let mut indices = Vec::with_capacity(parts.len());
        for (rank, _, _) in parts {
            let index = self.shared.members.binary_search_by_key(rank, |member| member.rank);
            indices.push(index.map_err(|_| Error::bad_argument("rank", rank, "one of this process"))?);
        }
        let mut locked = indices.clone();
        locked.sort_unstable();
        locked.dedup();
        if locked.is_empty() {
            return Ok(());
        }
        self.grouped(&locked, &mut |comms| {
            for ((rank, call, stream), index) in parts.iter().zip(&indices) {
                let comm = locked
                    .binary_search(index)
                    .ok()
                    .map_or(null_mut(), |place| comms[place].0);
                // SAFETY: the caller's word for the call; the communicator is alive: `grouped` refuses to begin otherwise.
                (self.context)(*rank, &mut || unsafe { self.shared.call(comm, call, *stream) })?;
            }
            Ok(())
        })
    }

    /// Whether the rank's communicator is well. Waits for nothing.
    ///
    /// # Errors
    /// What NCCL has found out meanwhile, such as a peer that is gone; the same at every later call.
    pub fn health(&self, rank: usize) -> Result<()> {
        if let Some(error) = self.shared.failure.get() {
            return Err(error.clone());
        }
        let member = self.shared.members.iter().find(|member| member.rank == rank);
        let comm = match member.map(|member| member.comm.try_lock()) {
            Some(Ok(comm)) => comm,
            Some(Err(TryLockError::Poisoned(comm))) => comm.into_inner(),
            // Who holds it hears of a failure.
            Some(Err(TryLockError::WouldBlock)) | None => return Ok(()),
        };
        if comm.0.is_null() {
            return Ok(());
        }
        let state = self.shared.state(comm.0);
        drop(comm);
        state.map(drop).map_err(|error| self.fail(error))
    }

    /// Makes NCCL's kernels leave, running or enqueued, and ends the communicators, on a thread apart: returns at once. Later
    /// calls are refused.
    pub fn abort(&self) {
        let again = self.shared.ended.swap(true, Ordering::AcqRel);
        if again {
            return;
        }
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("nccl abort".into());
        if thread.spawn(move || shared.abort()).is_err() {
            // No thread is to be had. Kernels that never end would be worse than a wait.
            self.shared.abort();
        }
    }

    /// Ends communicators whose work is done, together with those of the other processes.
    ///
    /// # Errors
    /// [`Error::Driver`] where that did not go well within `deadline`: they are aborted then.
    pub fn close(self, deadline: Duration) -> Result<()> {
        let shared = &self.shared;
        let all: Vec<usize> = (0..shared.members.len()).collect();
        self.grouped_within(&all, deadline, &mut |comms| {
            comms.iter().try_for_each(|comm| {
                // SAFETY: the communicator is alive; nothing is called on it afterwards but its state and its end.
                let status = unsafe { (shared.library.comm_finalize)(comm.0) };
                shared.library.check("ncclCommFinalize", status)
            })
        })?;
        shared.ended.store(true, Ordering::Release);
        for member in &shared.members {
            let comm = std::mem::replace(&mut member.lock().0, null_mut());
            if !comm.is_null() {
                // SAFETY: the communicator is alive, finalised, and ended once: it leaves its place here.
                let _ = unsafe { (shared.library.comm_destroy)(comm) };
            }
        }
        Ok(())
    }

    /// The first failure; it ends everything.
    fn fail(&self, error: Error) -> Error {
        let first = self.shared.failure.get_or_init(|| error).clone();
        self.abort();
        first
    }

    fn grouped(&self, members: &[usize], calls: &mut dyn FnMut(&mut [&mut Handle]) -> Result<()>) -> Result<()> {
        self.grouped_within(members, self.deadline, calls)
    }

    /// Calls of a group for members by ascending index, and the wait until NCCL has done them (kernels enqueued, not run). A
    /// failure ends everything.
    fn grouped_within(
        &self,
        members: &[usize],
        patience: Duration,
        calls: &mut dyn FnMut(&mut [&mut Handle]) -> Result<()>,
    ) -> Result<()> {
        let shared = &self.shared;
        let library = &shared.library;
        // By ascending index, so that two threads do not wait for each other.
        let mut locked: Vec<MutexGuard<'_, Handle>> =
            members.iter().map(|index| shared.members[*index].lock()).collect();
        if shared.ended.load(Ordering::Acquire) {
            return Err(shared.ended_because());
        }
        let mut comms: Vec<&mut Handle> = locked.iter_mut().map(|comm| &mut **comm).collect();
        // SAFETY: takes nothing; the end follows below on the same thread.
        let started = library.check("ncclGroupStart", unsafe { (library.group_start)() });
        let outcome = started.and_then(|()| {
            let called = calls(&mut comms);
            // SAFETY: ends the group begun above, also after a call that failed: a group left open would take in all later
            // calls.
            let ended = library.check("ncclGroupEnd", unsafe { (library.group_end)() });
            let wait = Wait::new(patience);
            called
                .and(ended)
                .and_then(|()| comms.iter().try_for_each(|comm| shared.settle(comm.0, &wait, patience)))
        });
        drop(comms);
        drop(locked);
        outcome.map_err(|error| self.fail(error))
    }
}

impl Drop for Communicators {
    fn drop(&mut self) {
        self.abort();
    }
}
