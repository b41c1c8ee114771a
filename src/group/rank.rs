//! A rank: one participant of a group.

use std::sync::Arc;
use std::time::Duration;

use super::diagnose::diagnose;
use super::holdings::{Known, Launches, Local, MOST_KNOWN};
use super::membership::Membership;
use super::{Node, Peers, Stats};
use crate::abi::{TwGroup, TwParams};
use crate::driver::{DevicePtr, Driver, Place, Stream};
use crate::error::{Error, Result};
use crate::memory::Buffer;
use crate::op::{Facts, Gemm, OpSpec, Plan};
use crate::probe::Probe;
use crate::topology::Topology;

/// How long a rank that is closed with work left waits for its kernels to give up.
const GRACE: Duration = Duration::from_secs(1);

/// One participant of a group. Cheap to clone, may be shared by threads; one thread may drive all ranks.
///
/// Operations are numbered in the order of their launches, which is the same on every rank. A failure of one rank is the
/// group's: it is diagnosed once, every later launch on any rank is refused, and a new group has to be made. The device's
/// context stays usable.
#[derive(Debug, Clone)]
pub struct Rank {
    pub(super) group: Arc<Membership>,
    rank: usize,
    /// Which of the ranks that this process drives.
    local: usize,
}

impl Rank {
    pub(super) fn new(group: Arc<Membership>, rank: usize, local: usize) -> Rank {
        Rank { group, rank, local }
    }

    /// Has the group keep something until it is gone.
    #[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
    pub(crate) fn keep(&self, what: Arc<dyn std::fmt::Debug + Send + Sync>) {
        let kept = self.group.kept.lock();
        kept.unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
    }

    /// Which one, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn world(&self) -> usize {
        self.group.holdings.heaps.len()
    }

    /// The machine.
    pub fn node(&self) -> Node {
        Node::new(self.group.driver.clone())
    }

    /// The machine as it described itself when the group was made.
    pub fn topology(&self) -> &Topology {
        self.group.links.topology()
    }

    /// How the links between the group's devices were found; `None` where nobody tried them
    /// ([`GroupConfig::probing`](crate::GroupConfig::probing)).
    pub fn probe(&self) -> Option<&Probe> {
        self.group.links.probe()
    }

    /// What a person may want to know of how the group was made.
    pub fn notes(&self) -> &[String] {
        self.group.links.notes()
    }

    /// Where it runs.
    pub fn place(&self) -> Place {
        self.local().place
    }

    /// The stream that its operations are enqueued on.
    pub fn stream(&self) -> Stream {
        self.local().lane.stream
    }

    /// `bytes` of ordinary memory on its device.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Buffer::new(self, bytes)
    }

    /// Plans an operation for every M up to `spec.max_m`. Local: asks no peer and no device, allocates nothing there.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes beyond the kernels', [`Error::HeapTooSmall`] where the heap has no room for one
    /// round, [`Error::RouteUnavailable`] for an explicit route that cannot be had.
    pub fn plan(&self, spec: &OpSpec) -> Result<Plan> {
        Plan::new(self, spec)
    }

    /// Enqueues a GEMM of this rank's own on its stream: no word goes to a peer, and it is counted as no operation. Its tile,
    /// splits of K and mainloop are chosen as a plan's are, so the bits are those of the same product within an operation.
    ///
    /// # Errors
    /// [`Error::BadArgument`] before anything is enqueued; [`Error::RouteUnavailable`] for a mainloop that cannot be had;
    /// [`Error::Poisoned`] after a failure in the group.
    pub fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        gemm.launch(self)
    }

    /// Blocks until all work in the rank's stream is done, then tells whether it went well.
    ///
    /// # Errors
    /// As [`Rank::health`]; [`Error::BadArgument`], and no harm done, while the stream captures.
    pub fn synchronize(&self) -> Result<()> {
        self.not_capturing()?;
        if let Err(error) = self.group.finish(self.rank, self.stream()) {
            return Err(self.group.fail(error));
        }
        self.health()
    }

    /// Whether the rank's finished operations went well: one load of host memory while all is well (and a question to NCCL, where
    /// the group has communicators), so call it after every
    /// synchronisation of your own, also where graphs are replayed that no launch announces. On a failure it waits until the
    /// group's kernels have given up, and names the rank at the root.
    ///
    /// # Errors
    /// [`Error::Wait`] where a wait for another rank was not satisfied, [`Error::Disagreed`] where ranks launched different
    /// operations, [`Error::PeerExited`] where another process has ended, [`Error::Driver`] where NCCL found a failure,
    /// [`Error::Aborted`] after [`Rank::abort`]; the same
    /// error again at every later call on any rank.
    pub fn health(&self) -> Result<()> {
        if let Some(error) = self.group.failure.get() {
            return Err(error.clone());
        }
        match self.local().report.abort() {
            0 => self.nccl_health(),
            _ => Err(self.diagnose()),
        }
    }

    /// Finds out what went wrong. No lock is held while waiting: threads of several ranks may be here at once, and the
    /// simulated node goes on only while all of them wait for it.
    pub(super) fn diagnose(&self) -> Error {
        let group = &self.group;
        // Kernels of NCCL's would wait for ranks that have given up.
        group.abort_nccl();
        // How things stood when this rank gave up tells who was still computing; afterwards everybody has finished.
        let before = match group.controls() {
            Ok(controls) => controls,
            Err(error) => return group.fail(error),
        };
        for local in &group.holdings.locals {
            if let Err(error) = group.run_dry(local) {
                return group.fail(error);
            }
        }
        match group.settled() {
            Ok(after) => group.fail(diagnose(&before, &after, &|hash| group.known(hash))),
            Err(error) => group.fail(error),
        }
    }

    /// The orderly end of a rank: waits until its work is done, at most `deadline` (wall time), and tells whether all of it
    /// went well. Heaps and streams go with the last handle of the group, without a further wait; dropping alone gives them
    /// back, too, but tells nobody how things were.
    ///
    /// # Errors
    /// As [`Rank::health`]; [`Error::Aborted`] where work is left at the deadline, which is given up then;
    /// [`Error::BadArgument`] while the stream captures.
    pub fn close(self, deadline: Duration) -> Result<()> {
        self.not_capturing()?;
        let stream = self.stream();
        let done = self.driver().stream_wait(stream, deadline);
        if !done.map_err(|error| self.group.fail(error))? {
            let rank = self.rank;
            self.abort(&format!(
                "rank {rank} was closed with work that was not done after {:.3} s",
                deadline.as_secs_f64()
            ));
            // Kernels that wait give up soon; one that computes finishes first.
            let _ = self.driver().stream_wait(stream, GRACE);
        }
        self.health()
    }

    fn not_capturing(&self) -> Result<()> {
        if self.driver().stream_is_capturing(self.stream())? {
            let expected = "one whose capture has ended: what is captured runs when its graph is launched";
            return Err(Error::bad_argument("the rank's stream", "one that captures", expected));
        }
        Ok(())
    }

    /// Makes every rank's operations, running and launched, end soon and without a result. Later launches are refused.
    /// Without effect after another failure.
    pub fn abort(&self, why: &str) {
        self.group.give_up(Error::Aborted { why: why.to_string() });
    }

    /// Waits, on the host, until every rank of the group has called this as often; the ranks must have a thread each. What
    /// may wait for a device, and so for a kernel that waits for this rank, goes before it, and the first launch behind
    /// it: instantiating and uploading graphs, allocating, loading kernels of others (`docs/graphs.md`). `deadline` is wall
    /// time, also on the simulated node.
    ///
    /// # Errors
    /// [`Error::Missing`] names the ranks that did not come in time; a later call begins anew. [`Error::Poisoned`] as soon
    /// as the group has failed. [`Error::BadArgument`] where another thread of this rank waits already.
    pub fn host_barrier(&self, deadline: Duration) -> Result<()> {
        let failed = || self.group.failure.get().cloned();
        if let Some(peers) = &self.group.peers {
            // A failure that only kernels know of so far wakes nobody, and is looked into once the wait is over.
            let given_up = || self.group.failure.get().is_none() && self.local().report.abort() != 0;
            let unknown = || {
                given_up().then(|| Error::Aborted {
                    why: "kernels of this rank have given up".to_string(),
                })
            };
            let met = peers.barrier(self.driver(), self.rank, deadline, || failed().or_else(unknown));
            return match met {
                Err(_) if given_up() => Err(Error::Poisoned(Arc::new(self.diagnose()))),
                met => met,
            };
        }
        self.group.barrier.wait(self.driver(), self.rank, deadline, failed)
    }

    /// What it has done so far. Reads host memory alone.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.local().report.read(), self.world())
    }

    pub(super) fn local(&self) -> &Local {
        &self.group.holdings.locals[self.local]
    }

    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.group.driver
    }

    /// The group's number and the rank.
    pub(crate) fn identity(&self) -> (u64, usize) {
        (self.group.number, self.rank)
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.group.facts
    }

    /// The device address of this rank's heap, which begins with the control block of `csrc/abi.h`
    /// ([`TwControl`](crate::abi::TwControl)): for debuggers, and tests that plant faults.
    pub fn heap_address(&self) -> u64 {
        self.group.abi.heap[self.rank]
    }

    /// The heap and this rank, as kernels see them.
    pub(crate) fn abi_group(&self) -> TwGroup {
        TwGroup {
            rank: self.rank as u32,
            report: self.local().report.device(),
            ..self.group.abi
        }
    }

    /// Runs `enqueue` as the only one on this rank, unless the group has failed. What it launches is counted by
    /// [`Launching::count`].
    pub(crate) fn in_order<T>(&self, enqueue: impl FnOnce(&mut Launching<'_>) -> Result<T>) -> Result<T> {
        // A failure that only kernels know of so far; outside the lock, which finding out takes.
        if self.group.failure.get().is_none() && self.local().report.abort() != 0 {
            self.diagnose();
        }
        let launches = &self.local().launched;
        let mut known = launches.lock();
        if let Some(error) = self.group.failure.get() {
            return Err(Error::Poisoned(Arc::new(error.clone())));
        }
        // Every operation needs every rank: the next one would wait for a launch that cannot come.
        let gone = |(total, peers): (u64, &Peers)| peers.gone_before(total + 1, self.world());
        if let Some(gone) = launches.total().zip(self.group.peers.as_ref()).and_then(gone) {
            return Err(gone);
        }
        let captured = self.driver().stream_is_capturing(self.stream())?;
        enqueue(&mut Launching {
            launches,
            known: &mut known,
            captured,
        })
    }

    /// Gives back memory of this rank, behind the work in its stream.
    pub(crate) fn retire(&self, ptr: DevicePtr) -> Result<()> {
        self.group.retire(self.local(), ptr)
    }
}

/// A launch on a rank, with nobody else's between.
pub(crate) struct Launching<'a> {
    launches: &'a Launches,
    known: &'a mut Known,
    captured: bool,
}

impl Launching<'_> {
    /// An operation of the group was enqueued.
    pub(crate) fn count(&mut self, params: &TwParams) {
        if self.known.len() < MOST_KNOWN {
            self.known.entry(params.hash).or_insert(params.desc);
        }
        self.count_foreign();
    }

    /// An operation of the group was enqueued that leaves no trace in its control blocks: NCCL's.
    pub(crate) fn count_foreign(&mut self) {
        self.launches.count(self.captured);
    }

    #[cfg(test)]
    pub(crate) fn eager(&self) -> u64 {
        self.launches.total().unwrap_or(0)
    }
}

const _: () = {
    const fn shareable<T: Send + Sync + Clone + 'static>() {}
    shareable::<Rank>();
    shareable::<Plan>();
    shareable::<Node>();
};
