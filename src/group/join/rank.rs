//! [`Rank::join`]: who the ranks are decides what becomes of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::{GroupConfig, Node, Rank, RankPlace};
use super::agreed::agreed;
use super::hall::{Comer, Given, Hall};
use super::processes::Joiner;
use super::words::Process;
use super::{Id, threads};
use crate::abi;
use crate::driver::Stream;
use crate::error::{Error, Result};

impl Rank {
    /// Joins the group of `world` ranks that share `id`, as rank `rank`, whose operations are enqueued on `stream`. Returns once
    /// all have joined; `config.joining` bounds that.
    ///
    /// The ranks may be processes of one user on one host, which see all devices or each its own, or threads of one process.
    /// The device and its context are the stream's; a rank's number says nothing of its device. All ranks of one process that drive
    /// one `node` make a group as [`Node::group_on`] does; otherwise this process has one rank of the group here, and hears at
    /// once when another's ends. An id serves one group at a time: subgroups have their own.
    ///
    /// # Safety
    /// `stream` is a live stream of the node's driver, and outlives the group: this [`Rank`] and every
    /// [`Plan`](crate::Plan) and [`Buffer`](crate::Buffer) of it; where ranks are threads of one process, those of all. When the last
    /// of them goes, the stream does not capture, no graph of the group's launches is launched any more, and none runs but on the
    /// stream.
    ///
    /// # Errors
    /// On every rank that came: [`Error::Missing`] names the ranks that did not, or that stopped answering; [`Error::Mismatch`] two that
    /// differ in version, kernels, configuration, world size or user; [`Error::PeerExited`] one that ended meanwhile;
    /// [`Error::Aborted`] tells why another could not go on. [`Error::BadArgument`] for a rank that two have, or ranks whose
    /// kernels could not run at once; the driver's.
    pub unsafe fn join(
        node: &Node,
        stream: Stream,
        rank: usize,
        world: usize,
        id: &Id,
        config: &GroupConfig,
    ) -> Result<Rank> {
        let begin = Instant::now();
        if !(1..=abi::TW_MAX_RANKS as usize).contains(&world) {
            return Err(Error::bad_argument("world", world, "1 to 16 ranks"));
        }
        config.check()?;
        let driver = node.driver();
        let place = driver.stream_place(stream)?;
        let at = RankPlace {
            place,
            stream: Some(stream),
        };
        let comer = Comer {
            rank,
            world,
            process: Process::here(std::sync::Arc::as_ptr(driver).cast::<()>() as usize)?,
            agreed: agreed(&**driver, place, config)?,
            // An end beyond what a clock can tell is as good as none.
            until: begin
                .checked_add(config.joining)
                .unwrap_or_else(|| begin + Duration::from_secs(1 << 31)),
        };
        let until = comer.until;
        // Waiting at a socket does not hold the simulated node up.
        let guard = driver.wait_elsewhere();
        let (mut hall, processes) = Hall::enter(id, comer)?;
        if processes.iter().all(|process| *process == processes[0]) {
            static TABLES: AtomicU64 = AtomicU64::new(0);
            let table = hall.gather("table", Ok((TABLES.fetch_add(1, Ordering::Relaxed), Given::new())))?;
            drop(hall);
            return threads::join(node, (table[0].0, rank, world), at, guard, config, until);
        }
        let joiner = Joiner {
            driver,
            rank,
            at,
            config,
        };
        let joined = joiner.join(&mut hall, &processes);
        drop(guard);
        joined
    }
}
