//! Groups of ranks: one order of operations, one symmetric heap on each rank, one fate.
//!
//! A [`Group`] is what this process has of it: every rank's heap, and of the ranks that it drives stream and host words.
//! [`Rank`]s, plans and buffers share it ([`membership`]). When the last of them goes nothing is waited for: [`holdings`] tells how heaps
//! outlive the kernels that write into them. Where some ranks have launched more than others, so that somebody would wait for a
//! launch that cannot come any more, the group is aborted then. What was captured is launched without the group's knowledge:
//! once there was a capture, nothing is known of who has launched more, and the deadline alone bounds that wait.

#[cfg(not(target_os = "linux"))]
mod alone;
mod barrier;
mod budget;
mod config;
mod diagnose;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
mod holdings;
#[cfg(target_os = "linux")]
mod join;
mod links;
mod membership;
mod nccl;
mod node;
mod rank;
mod residence;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

#[cfg(not(target_os = "linux"))]
use alone::Peers;
use barrier::HostBarrier;
pub use config::{GroupConfig, Numerics, Probing};
use holdings::{Holdings, Local};
#[cfg(target_os = "linux")]
use join::peers::Peers;
#[cfg(target_os = "linux")]
pub use join::{Environment, Id};
use membership::Membership;
pub use node::Node;
pub use rank::Rank;
pub use stats::{PathStats, Stats};

use crate::abi::{self, TwControl, TwGroup};
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
    /// What an adapter has it keep, the streams above all. Last: what is left in them is the holdings' matter.
    #[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
    kept: std::sync::Mutex<Vec<Arc<dyn std::fmt::Debug + Send + Sync>>>,
}

/// The numbers of this process's groups.
static GROUPS: AtomicU64 = AtomicU64::new(0);

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
        let membership = Membership::new(Group::of(driver, number, holdings, facts, links, config));
        let ranks = membership.ranks(0..world);
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

    /// Operations that the first rank here has launched; unknown once anything was captured.
    fn launched_here(&self) -> Option<u64> {
        self.holdings.locals.first()?.launched.total()
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
        let mut counts = self.holdings.locals.iter().map(|local| local.launched.total());
        let first = counts.next().flatten();
        first.is_some() && counts.clone().all(|count| count.is_some()) && counts.any(|count| count != first)
    }
}
