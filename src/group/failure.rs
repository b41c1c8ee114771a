//! A group's one failure: who may set it, who is told, and the control blocks that tell why.

use std::cmp::Ordering as Cmp;
use std::time::{Duration, Instant};

use super::Group;
use super::holdings::Local;
use crate::abi::{self, CONTROL_BYTES, TwControl, TwDescriptor};
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::op::descriptor;
use crate::trace;

/// How long a failure waits for what is left in the streams of this process before it is told. Kernels that have given up take
/// microseconds to end, on a simulated node that shares its cores longer.
const GIVING_UP: Duration = Duration::from_secs(10);

/// How long a failure waits for the kernels of other processes before it is told.
const SETTLING: Duration = Duration::from_millis(500);

impl Group {
    /// Reads every rank's control block, as it is now.
    pub(super) fn controls(&self) -> Result<Vec<TwControl>> {
        self.holdings.heaps.iter().map(|heap| self.control(heap)).collect()
    }

    /// The same once the kernels of other processes have given up, too, which they do soon after the first: waits a bounded
    /// time. Those of this process are done.
    pub(super) fn settled(&self) -> Result<Vec<TwControl>> {
        let begin = Instant::now();
        loop {
            let controls = self.controls()?;
            let remote =
                (0..controls.len()).filter(|rank| self.holdings.locals.iter().all(|local| local.rank != *rank));
            // An operation's last CTA advances `epoch` beyond what its first CTA left in `epoch_started`.
            let runs = |control: &TwControl| {
                control.epoch == control.epoch_started && control.record.state != abi::TW_RECORD_COMPLETE
            };
            let busy = remote
                .into_iter()
                .any(|rank| runs(&controls[rank]) || self.announced(&controls, rank));
            // A rank whose process has ended never gives up; that it has is the failure then.
            if !busy || begin.elapsed() > SETTLING || self.failure.get().is_some() {
                return Ok(controls);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether a rank's hello, or its record, is here, and what it launched is not yet: its words travel one by one.
    fn announced(&self, controls: &[TwControl], rank: usize) -> bool {
        let TwControl {
            epoch_started,
            current,
            record,
            ..
        } = &controls[rank];
        // `None`: whatever it was.
        let told = |epoch: u64, hash: Option<u64>| match epoch_started.cmp(&epoch) {
            Cmp::Less => false,
            Cmp::Equal => hash.is_none_or(|hash| descriptor::hash(current) == hash),
            Cmp::Greater => true,
        };
        let mut hellos = self.holdings.locals.iter().flat_map(|local| {
            let mailboxes = &controls[local.rank].hello;
            mailboxes.iter().map(|mailbox| mailbox[rank])
        });
        let recorded = match (record.state, record.cause) {
            (abi::TW_RECORD_COMPLETE, abi::TW_CAUSE_DISAGREED) => told(record.epoch, Some(record.expected)),
            (abi::TW_RECORD_COMPLETE, _) => told(record.epoch, None),
            _ => true,
        };
        !recorded || hellos.any(|hello| hello.epoch > 0 && !told(hello.epoch, Some(hello.hash)))
    }

    pub(super) fn control(&self, heap: &Heap) -> Result<TwControl> {
        // Nothing was launched on a group with a heap that this rank does not reach.
        if heap.ptr() == 0 {
            return Ok(TwControl::initial());
        }
        let mut bytes = [0; CONTROL_BYTES];
        self.driver.peek(&mut bytes, heap.ptr())?;
        Ok(TwControl::from_bytes(bytes))
    }

    /// Raises the abort word of every rank of this process: kernels that wait give up, one by one and soon. Other processes raise
    /// their own, once they know why.
    pub(super) fn raise_abort(&self) -> Result<()> {
        let at = std::mem::offset_of!(TwControl, abort) as u64;
        let word = (abi::TW_ABORT_HOST as u64).to_le_bytes();
        // Every rank is tried, whatever becomes of the others; the first failure is reported.
        let mut result = Ok(());
        self.abort_nccl();
        for local in &self.holdings.locals {
            let heap = self.holdings.heaps[local.rank].ptr();
            result = result.and(self.driver.poke(heap + at, &word));
        }
        result
    }

    /// Makes `error` the group's failure, unless it has one; whether it is.
    fn settle(&self, error: Error) -> bool {
        let first = self.failure.set(error.clone()).is_ok();
        if first {
            trace::group_failed(self.number, &error);
        }
        first
    }

    /// The group's failure: the first one to be set, which the other processes are told.
    pub(super) fn fail(&self, error: Error) -> Error {
        if self.settle(error.clone()) {
            self.tell_peers();
        }
        self.wake();
        self.abort_nccl();
        self.failure.get().cloned().unwrap_or(error)
    }

    pub(super) fn tell_peers(&self) {
        if let (Some(peers), Some(why)) = (&self.peers, self.failure.get()) {
            peers.failed(why);
        }
    }

    /// Whoever waits for other ranks looks again whether the group has failed.
    pub(super) fn wake(&self) {
        self.barrier.wake();
        if let Some(peers) = &self.peers {
            peers.wake();
        }
    }

    /// Fails for a reason of this process that kernels do not know of, has them give up, and tells the other processes.
    pub(super) fn give_up(&self, error: Error) {
        if self.lose(error) {
            self.tell_peers();
        }
    }

    /// Fails for a reason that the ranks of other processes know or are, and has the kernels here give up; whether it is the first
    /// failure.
    pub(super) fn lose(&self, error: Error) -> bool {
        let first = self.settle(error);
        if first {
            // An abort word that cannot be written leaves the kernels to their deadline; the group is refused all the same.
            let _ = self.raise_abort();
            self.wake();
        }
        first
    }

    /// Whether the kernels of a rank here have given up, for a cause (`TW_ABORT_*`) that is `of`.
    #[cfg(target_os = "linux")]
    pub(super) fn kernels_gave_up(&self, of: impl Fn(u64) -> bool) -> bool {
        self.holdings.locals.iter().any(|local| of(local.report.abort()))
    }

    /// What was launched under a hash, on any rank of this process.
    pub(super) fn known(&self, hash: u64) -> Option<TwDescriptor> {
        let mut locals = self.holdings.locals.iter();
        locals.find_map(|local| local.launched.lock().get(&hash).copied())
    }

    /// Waits for the kernels in a stream that have given up, unless the stream captures: waiting would only spoil the capture. What
    /// else the caller has put there may wait for a rank that never comes, NCCL's kernels above all: so the wait is bounded.
    pub(super) fn run_dry(&self, local: &Local) -> Result<()> {
        if self.driver.stream_is_capturing(local.lane.stream)? {
            return Ok(());
        }
        self.driver.stream_wait(local.lane.stream, GIVING_UP).map(drop)
    }
}
