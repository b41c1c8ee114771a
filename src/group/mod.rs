//! Groups of ranks: one order of operations, one symmetric heap on each rank, one fate.
//!
//! A [`Group`] is what this process has of it: every rank's heap, and of the ranks that it drives stream and host words.
//! [`Rank`]s, plans and buffers share it. When the last of them goes nothing is waited for: [`holdings`] tells how heaps outlive
//! the kernels that write into them. Where some ranks have launched more than others, so that somebody would wait for a
//! launch that cannot come any more, the group is aborted then. What was captured is launched without the group's knowledge:
//! once there was a capture, nothing is known of who has launched more, and the deadline alone bounds that wait.

#[cfg(not(target_os = "linux"))]
mod alone;
mod barrier;
mod budget;
mod config;
mod diagnose;
#[cfg(test)]
pub(crate) mod fake;
mod holdings;
#[cfg(target_os = "linux")]
mod join;
mod links;
mod nccl;
mod node;
mod rank;
mod residence;
mod stats;
#[cfg(test)]
mod tests;

use std::cmp::Ordering as Cmp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

#[cfg(not(target_os = "linux"))]
use alone::Peers;
use barrier::HostBarrier;
pub use config::{GroupConfig, Numerics, Probing};
use holdings::{Holdings, Launches, Local};
#[cfg(target_os = "linux")]
use join::peers::Peers;
#[cfg(target_os = "linux")]
pub use join::{Environment, Id};
pub use node::Node;
pub use rank::Rank;
pub use stats::{PathStats, Stats};

use crate::abi::{self, CONTROL_BYTES, TwControl, TwDescriptor, TwGroup};
use crate::driver::{DevicePtr, Driver, Place, Stream};
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::memory::layout::Layout;
use crate::memory::multicast::{self, SharedHeaps};
use crate::op::{Facts, descriptor};
use crate::trace;

/// Where a rank runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankPlace {
    /// The device, or the share of one.
    pub place: Place,
    /// The stream its operations are enqueued on; `None`: one of its own.
    pub stream: Option<Stream>,
}

#[derive(Debug)]
pub(crate) struct Group {
    driver: Arc<dyn Driver>,
    /// Unlike that of any other group in this process.
    number: u64,
    holdings: Holdings,
    facts: Facts,
    abi: TwGroup,
    /// The first failure; every later launch is refused with it.
    failure: OnceLock<Error>,
    barrier: HostBarrier,
    /// The machine as it describes itself, and its links as they were found.
    links: links::Links,
    /// The ranks that other processes drive, where there are any.
    peers: Option<Peers>,
    /// What an adapter has it keep, the streams above all. Last: the holdings look at streams when they are dropped.
    #[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
    kept: std::sync::Mutex<Vec<Arc<dyn std::fmt::Debug + Send + Sync>>>,
}

/// The numbers of this process's groups.
static GROUPS: AtomicU64 = AtomicU64::new(0);

/// How long a failure waits for the kernels of other processes before it is told.
const SETTLING: Duration = Duration::from_millis(500);

impl Group {
    fn make(driver: &Arc<dyn Driver>, ranks: &[RankPlace], config: &GroupConfig) -> Result<Vec<Rank>> {
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
        holdings::give_back();
        // From here on what was made is given back whatever happens, and not before the work in its streams is done.
        let mut holdings = Holdings::default();
        holdings.budget = Some(budget::claim(driver, number, &places, config.max_ctas)?);
        let ctas = residence::resident_ctas(&**driver, &places, config.max_ctas)?;
        let multicast = match config.numerics {
            Numerics::Exact => {
                Err("it was not asked of the group (GroupConfig::numerics, Numerics::InSwitch)".to_string())
            }
            Numerics::InSwitch => links.multicast().and_then(|()| multicast::possible(&**driver, &places)),
        };
        let unit = *multicast.as_ref().unwrap_or(&1);
        for (rank, RankPlace { place, stream }) in ranks.iter().enumerate() {
            let accessors = links.accessors(&**driver, &places, *place)?;
            let heap = Heap::new(driver, *place, config.heap_bytes, unit, &accessors)?;
            let ptr = heap.ptr();
            holdings.heaps.push(heap);
            let local = Local::new(driver, rank, *place, *stream)?;
            let stream = local.lane.stream;
            holdings.locals.push(local);
            driver.fill(ptr, 0, layout.zeroed_bytes(), stream)?;
            driver.copy_in(ptr, &TwControl::initial().to_bytes(), stream)?;
        }
        // No rank launches before every control block is ready for the peers' first words.
        for local in &holdings.locals {
            driver.stream_synchronize(local.lane.stream)?;
        }
        // What a machine claims and then does not give is no error, but said: sums are exact then.
        let heaps: Vec<&Heap> = holdings.heaps.iter().collect();
        let shared =
            multicast.and_then(|_| SharedHeaps::new(driver, &places, &heaps).map_err(|error| error.to_string()));
        if let (Numerics::InSwitch, Err(reason)) = (config.numerics, &shared) {
            links.say(format!("no sums in the switch, though asked for: {reason}"));
        }
        // Whoever claimed what: here is one.
        machine.multicast |= shared.is_ok();
        let by_nccl = nccl::wanted(&**driver, &machine, config).and_then(|()| {
            let library = nccl::library()?;
            let id = library.unique_id().map_err(|error| error.to_string())?;
            let made = nccl::Nccl::join(
                driver,
                &library,
                &id,
                &holdings,
                &layout,
                (config.deadline, config.deadline),
            );
            made.map_err(|error| error.to_string())
        });
        let facts = Facts {
            world,
            layout,
            hopper: residence::all_hopper(&**driver, &places)?,
            ctas,
            nccl: nccl::policy(&**driver, &machine, config.nccl),
            communicators: by_nccl.as_ref().map(drop).map_err(String::clone),
            machine,
            multicast: shared.as_ref().map(drop).map_err(String::clone),
        };
        holdings.shared = shared.ok();
        holdings.nccl = by_nccl.ok();
        let group = Arc::new(Group::of(driver, number, holdings, facts, links, config));
        let ranks: Vec<Rank> = (0..world).map(|rank| Rank::new(group.clone(), rank, rank)).collect();
        trace::group_made(&ranks[0], places.iter().map(Place::to_string));
        Ok(ranks)
    }

    /// The group of what was made ready.
    fn of(
        driver: &Arc<dyn Driver>,
        number: u64,
        holdings: Holdings,
        facts: Facts,
        links: links::Links,
        config: &GroupConfig,
    ) -> Group {
        let mut abi = TwGroup {
            multicast: holdings.shared.as_ref().map_or(0, SharedHeaps::ptr),
            deadline_ns: config.deadline_ns(),
            ..facts.layout.group()
        };
        for (address, heap) in abi.heap.iter_mut().zip(&holdings.heaps) {
            *address = heap.ptr();
        }
        Group {
            driver: driver.clone(),
            number,
            barrier: HostBarrier::new(holdings.heaps.len()),
            holdings,
            facts,
            abi,
            failure: OnceLock::new(),
            links,
            peers: None,
            #[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
            kept: std::sync::Mutex::default(),
        }
    }

    /// Reads every rank's control block, as it is now.
    fn controls(&self) -> Result<Vec<TwControl>> {
        self.holdings.heaps.iter().map(|heap| self.control(heap)).collect()
    }

    /// The same once the kernels of other processes have given up, too, which they do soon after the first: waits a bounded
    /// time. Those of this process are done.
    fn settled(&self) -> Result<Vec<TwControl>> {
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

    fn control(&self, heap: &Heap) -> Result<TwControl> {
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
    fn raise_abort(&self) -> Result<()> {
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
        let mut first = false;
        self.failure.get_or_init(|| {
            first = true;
            trace::group_failed(self.number, &error);
            error
        });
        first
    }

    /// The group's failure: the first one to be set, which the other processes are told.
    fn fail(&self, error: Error) -> Error {
        if self.settle(error.clone()) {
            self.tell_peers();
        }
        self.wake();
        self.abort_nccl();
        self.failure.get().cloned().unwrap_or(error)
    }

    fn tell_peers(&self) {
        if let (Some(peers), Some(why)) = (&self.peers, self.failure.get()) {
            peers.failed(why);
        }
    }

    /// Whoever waits for other ranks looks again whether the group has failed.
    fn wake(&self) {
        self.barrier.wake();
        if let Some(peers) = &self.peers {
            peers.wake();
        }
    }

    /// Fails for a reason of this process that kernels do not know of, has them give up, and tells the other processes.
    fn give_up(&self, error: Error) {
        if self.lose(error) {
            self.tell_peers();
        }
    }

    /// Fails for a reason that the ranks of other processes know or are, and has the kernels here give up; whether it is the first
    /// failure.
    fn lose(&self, error: Error) -> bool {
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
    fn kernels_gave_up(&self, of: impl Fn(u64) -> bool) -> bool {
        self.holdings.locals.iter().any(|local| of(local.report.abort()))
    }

    /// Operations that the first rank here has launched; unknown once anything was captured.
    fn launched_here(&self) -> Option<u64> {
        let launched = Group::launched(self.holdings.locals.first()?);
        (!launched.captured).then_some(launched.eager)
    }

    fn launched(local: &Local) -> MutexGuard<'_, Launches> {
        // The counts are whole at every moment, whatever happened to a thread that held them.
        local.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was launched under a hash, on any rank of this process.
    fn known(&self, hash: u64) -> Option<TwDescriptor> {
        let mut locals = self.holdings.locals.iter();
        locals.find_map(|local| Group::launched(local).known.get(&hash).copied())
    }

    /// Waits for the work in a stream, unless the stream captures: waiting would only spoil the capture.
    fn run_dry(&self, local: &Local) -> Result<()> {
        if self.driver.stream_is_capturing(local.lane.stream)? {
            return Ok(());
        }
        self.driver.stream_synchronize(local.lane.stream)
    }

    /// Frees a buffer of `local` behind the work in its stream; during a capture later, with the next one.
    fn retire(&self, local: &Local, ptr: DevicePtr) -> Result<()> {
        let stream = local.lane.stream;
        let mut retired = local.retired.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Whether some rank here has launched more than another one here: somebody waits, or will, for a launch that cannot
    /// come any more once the last handle is gone. Unknown, and taken for no, once anything was captured.
    fn is_uneven(&self) -> bool {
        let mut counts = self.holdings.locals.iter().map(|local| {
            let launched = Group::launched(local);
            (!launched.captured).then_some(launched.eager)
        });
        let first = counts.next().flatten();
        first.is_some() && counts.clone().all(|count| count.is_some()) && counts.any(|count| count != first)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A capture that nobody ended would outlive the stream. There is nobody left to tell of a failure, here and below.
        for Local { lane, .. } in self.holdings.locals.iter().filter(|local| local.lane.owned) {
            if let Ok(true) = self.driver.stream_is_capturing(lane.stream)
                && let Ok(graph) = self.driver.stream_end_capture(lane.stream)
            {
                let _ = self.driver.graph_destroy(graph);
            }
        }
        if self.failure.get().is_none() && self.is_uneven() {
            let _ = self.raise_abort();
        }
        if let Some(peers) = &self.peers {
            // A rank that goes because of another must not look as if it went by itself.
            self.tell_peers();
            peers.farewell(self.launched_here());
        }
        for local in &self.holdings.locals {
            let retired = local.retired.lock().unwrap_or_else(PoisonError::into_inner);
            for ptr in retired.iter() {
                let _ = self.driver.free_async(*ptr, local.lane.stream);
            }
        }
        holdings::give_back();
    }
}
