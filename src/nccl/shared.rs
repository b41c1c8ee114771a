//! Communicators, and what is done with one: a call, a question, its end.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::calls::{Call, Collective};
use super::library::{Comm, IN_PROGRESS, Library, SUCCESS, SUM};
use super::settle::Wait;
use crate::driver::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// NCCL's handle; null where there is none any more.
pub(super) struct Handle(pub(super) Comm);

// SAFETY: a name for an object of NCCL's, which ties none to a thread; what is not for two threads at once is done with the lock.
unsafe impl Send for Handle {}

pub(super) struct Member {
    pub(super) rank: usize,
    pub(super) comm: Mutex<Handle>,
}

impl Member {
    pub(super) fn lock(&self) -> MutexGuard<'_, Handle> {
        // The handle is whole at every moment, whatever happened to a thread that held it.
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Shared {
    pub(super) library: Arc<Library>,
    pub(super) members: Vec<Member>,
    /// Raised before the locks are asked for, so that who polls with one leaves.
    pub(super) ended: AtomicBool,
    pub(super) failure: OnceLock<Error>,
}

fn at(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// `ncclDataType_t`.
fn code(dtype: DType) -> c_int {
    match dtype {
        DType::F16 => 6,
        DType::F32 => 7,
        DType::Bf16 => 9,
    }
}

fn out_of_time(what: &str, waited: Duration) -> Error {
    Error::Driver {
        call: "ncclCommGetAsyncError",
        code: IN_PROGRESS.into(),
        message: format!("{what} after {} s: does every rank take part?", waited.as_secs_f64()),
    }
}

impl Shared {
    /// One call.
    ///
    /// # Safety
    /// As [`Communicators::enqueue`](super::Communicators::enqueue); the communicator is alive.
    pub(super) unsafe fn call(&self, comm: Comm, call: &Call, stream: Stream) -> Result<()> {
        let library = &self.library;
        let (from, to, count, dtype) = (at(call.from), at(call.to), call.count, code(call.dtype));
        let stream = std::ptr::with_exposed_provenance_mut(stream.0);
        // SAFETY: the caller's word. A root that is none of the clique's is refused by NCCL.
        let (name, status) = unsafe {
            match call.collective {
                Collective::AllReduce => {
                    let status = (library.all_reduce)(from, to, count, dtype, SUM, comm, stream);
                    ("ncclAllReduce", status)
                }
                Collective::ReduceScatter => {
                    let status = (library.reduce_scatter)(from, to, count, dtype, SUM, comm, stream);
                    ("ncclReduceScatter", status)
                }
                Collective::AllGather => {
                    let status = (library.all_gather)(from, to, count, dtype, comm, stream);
                    ("ncclAllGather", status)
                }
                Collective::Reduce { root } => {
                    let status = (library.reduce)(from, to, count, dtype, SUM, root as c_int, comm, stream);
                    ("ncclReduce", status)
                }
                Collective::Broadcast { root } => {
                    let status = (library.broadcast)(from, to, count, dtype, root as c_int, comm, stream);
                    ("ncclBroadcast", status)
                }
            }
        };
        library.check(name, status)
    }

    /// Whether a communicator is done with what it was asked for.
    pub(super) fn state(&self, comm: Comm) -> Result<bool> {
        let mut state = IN_PROGRESS;
        // SAFETY: the communicator is alive: made by a group's calls, and ended only with its lock, which the caller holds (null
        // is refused); `state` outlives the call.
        let status = unsafe { (self.library.comm_async_error)(comm, &mut state) };
        self.library.check("ncclCommGetAsyncError", status)?;
        self.library.check("an operation of NCCL", state)?;
        Ok(state == SUCCESS)
    }

    /// Until a communicator is not under way.
    pub(super) fn settle(&self, comm: Comm, wait: &Wait, patience: Duration) -> Result<()> {
        while !self.state(comm)? {
            if self.ended.load(Ordering::Acquire) {
                return Err(self.ended_because());
            }
            if !wait.rest() {
                return Err(out_of_time("NCCL was not ready", patience));
            }
        }
        Ok(())
    }

    pub(super) fn ended_because(&self) -> Error {
        let why = "the communicators were ended".to_string();
        self.failure.get().cloned().unwrap_or(Error::Aborted { why })
    }

    pub(super) fn abort(&self) {
        for member in &self.members {
            let comm = std::mem::replace(&mut member.lock().0, null_mut());
            if !comm.is_null() {
                // SAFETY: the communicator was made, and is ended once: it leaves its place here. Nobody is left to hear of a
                // failure.
                let _ = unsafe { (self.library.comm_abort)(comm) };
            }
        }
    }
}
