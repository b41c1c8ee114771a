//! A group whose ranks are on several hosts. No rank reaches another's memory, so there are no shared heaps, and of our kernels only
//! GEMMs run: what travels is NCCL's. What ranks agree on, and what each hears of the others' end, is as on one host; the
//! sockets are TCP.
//!
//! All meet at an address of rank 0's ([`super::venue`]), and connect to each other from there ([`Doors`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::holdings::{Holdings, Local};
use super::super::links::Links;
use super::super::nccl;
use super::super::{GROUPS, Group, GroupConfig, Node, Numerics, Rank, RankPlace, holdings};
use super::Id;
use super::agreed::agreed;
use super::doors::Doors;
use super::hall::{Comer, Given, Hall};
use super::peers::Peers;
use super::places::Told;
use super::processes::{Joiner, Offer, least};
use super::venue::Address;
use super::words::{Greeting, MAGIC, PROTOCOL, Process};
use crate::abi::{self, TwControl};
use crate::driver::Stream;
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::memory::layout::Layout;
use crate::nccl::NcclPolicy;
use crate::op::Facts;
use crate::route::Machine;
use crate::route::constants::{CLASSES, Class, SIMULATED};
use crate::topology;

/// How long ranks may take to reach each other once each has said where it listens.
const REACHING: Duration = Duration::from_secs(10);

impl Rank {
    /// Joins the group of `world` ranks on several hosts that share `id`, as rank `rank`, whose operations are enqueued on `stream`.
    /// They meet at `at`: a name or address of rank 0's host, and a port that is free there; rank 0 listens at it while the ranks
    /// join. [`Environment::meeting`](crate::Environment::meeting) tells it under a launcher. Returns once all have joined;
    /// `config.joining` bounds that, but for what the resolver of names takes.
    ///
    /// What ranks of such a group exchange goes by NCCL: with [`NcclPolicy::Own`] every plan is our GEMM and NCCL's
    /// collective; with `Decline` every plan declines, and the caller takes its own path. Each process has one rank of the group
    /// here. Tensor parallelism within a host and across is one group: ranks that share a host are not apart.
    ///
    /// # Safety
    /// As [`Rank::join`].
    ///
    /// # Errors
    /// As [`Rank::join`]; [`Error::Unavailable`] for an address that cannot be had, or a rank that another cannot connect to;
    /// [`Error::BadArgument`] for [`NcclPolicy::Never`].
    pub unsafe fn join_across(
        node: &Node,
        stream: Stream,
        rank: usize,
        world: usize,
        id: &Id,
        at: (&str, u16),
        config: &GroupConfig,
    ) -> Result<Rank> {
        let begin = Instant::now();
        if !(1..=abi::TW_MAX_RANKS as usize).contains(&world) {
            return Err(Error::bad_argument("world", world, "1 to 16 ranks"));
        }
        config.check()?;
        if world == 1 {
            // SAFETY: the caller's word.
            return unsafe { Rank::join(node, stream, rank, world, id, config) };
        }
        if config.nccl == NcclPolicy::Never {
            let expected = "Own or Decline: ranks on several hosts exchange by NCCL alone";
            return Err(Error::bad_argument("GroupConfig::nccl", "Never", expected));
        }
        let driver = node.driver();
        let place = driver.stream_place(stream)?;
        let process = Process::here(Arc::as_ptr(driver).cast::<()>() as usize)?;
        let until = begin.checked_add(config.joining);
        // An end beyond what a clock can tell is as good as none.
        let until = until.unwrap_or_else(|| begin + Duration::from_secs(1 << 31));
        let comer = Comer {
            rank,
            world,
            process,
            agreed: agreed(&**driver, place, config)?,
            until,
        };
        let address = Address::resolve(at.0, at.1)?;
        // Waiting at a socket does not hold the simulated node up.
        let _guard = driver.wait_elsewhere();
        let (mut hall, processes) = Hall::enter_across(address.clone(), id, comer)?;
        let joiner = Joiner {
            driver,
            rank,
            at: RankPlace {
                place,
                stream: Some(stream),
            },
            config,
        };
        let secret = id.digest(&format!("mesh {processes:?}"));
        let doors = Doors {
            address,
            greeting: Greeting {
                magic: MAGIC.to_string(),
                protocol: PROTOCOL,
                group: secret,
                rank,
                world,
                patience_ms: 0,
                process,
                agreed: Vec::new(),
            },
            until: until.min(Instant::now() + REACHING),
        };
        joiner.across(&mut hall, &doors)
    }
}

impl Joiner<'_> {
    /// The group of those who are in the hall.
    fn across(&self, hall: &mut Hall, doors: &Doors) -> Result<Rank> {
        let (driver, config, world) = (self.driver, self.config, doors.greeting.world);
        let told = hall.gather("place", self.prepare().and_then(|told| self.described(told)))?;
        let told: Vec<(Told, String)> = told.into_iter().map(|(told, _)| told).collect();
        let class = told.first().map_or(SIMULATED, |(_, name)| class_of(name));
        let mut links = Links::told(topology::read(&**driver)?, None, Vec::new());
        let offers = hall.gather("offer", self.offer(world, &links).map(|offer| (offer, Given::new())))?;
        let offers: Vec<Offer> = offers.into_iter().map(|(offer, _)| offer).collect();
        let different = (0..world).filter(|b| !told[..*b].iter().any(|one| one.0.shares_device(&told[*b].0)));
        let machine = Machine::across_hosts(class, world, different.count());
        if config.numerics == Numerics::InSwitch {
            links.say("no sums in the switch, though asked for: no switch joins several hosts".to_string());
        }

        holdings::give_back();
        let mut holdings = Holdings::default();
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::alone(config.heap_bytes, world)?;
        let made = self.room(&mut holdings, &layout, world);
        hall.gather("heap", made.map(|()| ((), Given::new())))?;
        let mesh = doors.mesh(hall)?;
        let by_nccl = match nccl::wanted(&**driver, &machine, config) {
            Ok(()) => self.by_nccl(hall, &holdings, &layout)?,
            Err(reason) => Err(reason),
        };
        let facts = Facts {
            world,
            layout,
            hopper: offers.iter().all(|offer| offer.hopper),
            ctas: least(&offers),
            nccl: config.nccl,
            communicators: by_nccl.as_ref().map(drop).map_err(String::clone),
            machine,
            multicast: Err("no switch joins several hosts".to_string()),
        };
        holdings.nccl = by_nccl.ok();
        let peers = Peers::new(mesh);
        holdings.line = Some(peers.line());
        let mut group = Group::of(driver, number, holdings, facts, links, config);
        group.peers = Some(peers);
        self.ready(hall, group, told.iter().map(|(told, _)| told.to_string()))
    }

    /// With the class that its device is reckoned as.
    fn described(&self, told: Told) -> Result<((Told, String), Given)> {
        let topology = topology::read(&**self.driver)?;
        let gpu = topology
            .gpu_of(&told.identity())
            .and_then(|index| topology.gpus.get(index));
        let class = gpu.map_or(SIMULATED, Class::of);
        Ok(((told, class.name.to_string()), Given::new()))
    }

    /// This rank's own scratch, which a GEMM's product lies in; of the others' nothing is here.
    fn room(&self, holdings: &mut Holdings, layout: &Layout, world: usize) -> Result<()> {
        let RankPlace { place, stream } = self.at;
        for rank in 0..world {
            holdings.heaps.push(match rank == self.rank {
                true => Heap::new(self.driver, place, self.config.heap_bytes, 1, &[place])?,
                false => Heap::elsewhere(self.driver),
            });
        }
        let local = Local::new(self.driver, self.rank, place, stream)?;
        let stream = local.lane.stream;
        holdings.locals.push(local);
        let ptr = holdings.heaps[self.rank].ptr();
        self.driver.fill(ptr, 0, layout.zeroed_bytes(), stream)?;
        self.driver.copy_in(ptr, &TwControl::initial().to_bytes(), stream)?;
        self.driver.stream_synchronize(stream)
    }
}

fn class_of(name: &str) -> Class {
    CLASSES
        .into_iter()
        .find(|class| class.name == name)
        .unwrap_or(SIMULATED)
}
