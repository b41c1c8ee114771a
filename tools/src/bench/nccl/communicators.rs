//! P communicators of one process, driven by one thread.
//!
//! They do not block: a call that is not done says so, and the communicators are asked until they are done or a deadline has
//! passed. Calls for several ranks stand in one group, since each would wait for the others'. After any failure, and where a
//! wait has run out, all are aborted, which makes NCCL's kernels leave; what was enqueued behind them goes on.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use super::library::{BF16, Comm, Config, IN_PROGRESS, Library, SUCCESS, SUM, Stream, UniqueId};

/// What the ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    ReduceScatter,
    AllReduce,
    AllGather,
}

/// One rank's part in it: bf16 matrices in device memory.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub from: u64,
    pub to: u64,
    pub stream: Stream,
}

/// Of ranks 0, 1, ...; none any more after a failure.
pub struct Communicators<'a> {
    library: &'a Library,
    comms: Vec<Comm>,
    /// Of every wait.
    pub(super) deadline: Duration,
}

fn at(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

impl<'a> Communicators<'a> {
    /// One for each of `most_ctas`, the CTAs that its kernels have at most. `current` makes a rank's device the thread's
    /// current one until what it returns is dropped. No wait takes longer than the deadline.
    pub fn new<Guard>(
        library: &'a Library,
        most_ctas: &[u32],
        deadline: Duration,
        current: impl Fn(usize) -> Result<Guard, String>,
    ) -> Result<Communicators<'a>, String> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: `id` outlives the call.
        library.check("ncclGetUniqueId", unsafe { (library.get_unique_id)(&mut id) })?;
        let ranks = i32::try_from(most_ctas.len()).map_err(|_| "too many ranks".to_string())?;
        let mut made = Communicators {
            library,
            comms: vec![null_mut(); most_ctas.len()],
            deadline,
        };
        made.grouped(|comms| {
            for (rank, (comm, most)) in (0..ranks).zip(comms.iter_mut().zip(most_ctas)) {
                let _device = current(rank as usize)?;
                let mut config = Config::new(*most);
                // SAFETY: the config is read before the call returns; the place of the communicator is an element of a vector
                // that is neither moved nor resized while the group is under way (`grouped` waits for its end).
                let status = unsafe { (library.comm_init)(comm, ranks, id, rank, &mut config) };
                library.check("ncclCommInitRankConfig", status)?;
            }
            Ok(())
        })?;
        Ok(made)
    }

    /// Enqueues a collective on every rank. `count`: of elements, as NCCL counts: a rank's result of a reduce-scatter, a
    /// rank's input of the others. The memory has to last until the streams have run this.
    pub fn launch(&mut self, collective: Collective, count: usize, parts: &[Part]) -> Result<(), String> {
        if parts.len() != self.comms.len() {
            return Err(format!("{} parts for {} communicators", parts.len(), self.comms.len()));
        }
        let library = self.library;
        self.grouped(|comms| {
            for (&comm, part) in comms.iter().zip(parts) {
                let (from, to, stream) = (at(part.from), at(part.to), part.stream);
                // SAFETY: the communicator is alive (`grouped` refuses to begin otherwise); addresses and streams are of live
                // device objects with room for `count` elements on the side that it counts and that many times the ranks on
                // the other: the caller's word.
                let (call, status) = unsafe {
                    match collective {
                        Collective::ReduceScatter => {
                            let status = (library.reduce_scatter)(from, to, count, BF16, SUM, comm, stream);
                            ("ncclReduceScatter", status)
                        }
                        Collective::AllReduce => {
                            let status = (library.all_reduce)(from, to, count, BF16, SUM, comm, stream);
                            ("ncclAllReduce", status)
                        }
                        Collective::AllGather => {
                            let status = (library.all_gather)(from, to, count, BF16, comm, stream);
                            ("ncclAllGather", status)
                        }
                    }
                };
                library.check(call, status)?;
            }
            Ok(())
        })
    }

    /// Waits for work that the ranks have enqueued: until `done`. A wait that runs out, or meets an error, aborts.
    pub fn wait(&mut self, mut done: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
        let until = Instant::now() + self.deadline;
        let outcome = loop {
            match done() {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() >= until => {
                    let limit = self.deadline.as_secs_f64();
                    break format!("its kernels were not done after {limit} s");
                }
                Ok(false) => std::thread::yield_now(),
                Err(reason) => break reason,
            }
        };
        self.abort();
        Err(outcome)
    }

    /// Calls of a group, and the wait until NCCL has done them (kernels enqueued, not run). A failure aborts.
    fn grouped(&mut self, calls: impl FnOnce(&mut [Comm]) -> Result<(), String>) -> Result<(), String> {
        if self.comms.is_empty() {
            return Err("the communicators were aborted".into());
        }
        let library = self.library;
        // SAFETY: takes nothing; the end follows below on the same thread.
        let started = library.check("ncclGroupStart", unsafe { (library.group_start)() });
        let outcome = started.and_then(|()| {
            let called = calls(&mut self.comms);
            // SAFETY: ends the group begun above, also after a call that failed: a group left open would take in all later
            // calls.
            let ended = library.check("ncclGroupEnd", unsafe { (library.group_end)() });
            called.and(ended).and_then(|()| self.settle())
        });
        if outcome.is_err() {
            self.abort();
        }
        outcome
    }

    /// Until no communicator is under way.
    fn settle(&self) -> Result<(), String> {
        let until = Instant::now() + self.deadline;
        for &comm in &self.comms {
            loop {
                let mut state = IN_PROGRESS;
                // SAFETY: the communicator is alive: made by a group's calls, not yet destroyed (null is refused); `state` outlives
                // the call.
                let status = unsafe { (self.library.comm_async_error)(comm, &mut state) };
                self.library.check("ncclCommGetAsyncError", status)?;
                self.library.check("an operation of NCCL", state)?;
                match state {
                    SUCCESS => break,
                    _ if Instant::now() >= until => {
                        return Err(format!("NCCL was not ready after {} s", self.deadline.as_secs_f64()));
                    }
                    _ => std::thread::yield_now(),
                }
            }
        }
        Ok(())
    }

    fn abort(&mut self) {
        for comm in self.comms.drain(..).filter(|comm| !comm.is_null()) {
            // SAFETY: the communicator was made and is ended once: it leaves the list here. Nobody is left to hear of a
            // failure.
            let _ = unsafe { (self.library.comm_abort)(comm) };
        }
    }
}

impl Drop for Communicators<'_> {
    fn drop(&mut self) {
        let library = self.library;
        // Finalising comes to its end first, as NCCL asks of communicators that do not block; where it fails, all are aborted.
        let finalized = self.grouped(|comms| {
            comms.iter().try_for_each(|&comm| {
                // SAFETY: the communicator is alive; nothing is called on it afterwards but its state and its end.
                library.check("ncclCommFinalize", unsafe { (library.comm_finalize)(comm) })
            })
        });
        if finalized.is_ok() {
            for comm in self.comms.drain(..) {
                // SAFETY: the communicator is alive, finalised, and ended once.
                let _ = unsafe { (library.comm_destroy)(comm) };
            }
        }
    }
}
