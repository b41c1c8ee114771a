//! A group whose ranks are on several hosts. No rank reaches another's memory, so there are no shared heaps, and of our kernels only
//! GEMMs run: what travels is NCCL's. What ranks agree on, and what each hears of the others' end, is as on one host; the
//! sockets are TCP.
//!
//! All meet at an address of rank 0's. Then each listens at a port of its own, at which the ranks above it find it: where that
//! is, is a matter of how each reached rank 0 ([`Doors`]).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::holdings::{Holdings, Local};
use super::super::links::Links;
use super::super::nccl;
use super::super::{GROUPS, Group, GroupConfig, Node, Numerics, Rank, RankPlace, holdings};
use super::Id;
use super::agreed::agreed;
use super::hall::{Comer, Given, Hall};
use super::line::Line;
use super::lobby::Lobby;
use super::mesh::Mesh;
use super::peers::Peers;
use super::places::Told;
use super::processes::{Joiner, Offer, least};
use super::venue::{Address, Venue, unspecified};
use super::wire::{self, Broken};
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

/// How the ranks of several hosts connect to each other, each to all below it.
///
/// A rank tells by which of its addresses it reached rank 0: there the others reach it, too. Rank 0 is where each of them has
/// reached it. A rank on rank 0's own host may have come by its loopback, which means nothing elsewhere: for other hosts it
/// is where rank 0 is.
struct Doors {
    /// Where all have met.
    address: Address,
    /// This rank's first word to each of the others. It names what only those know who were in the hall.
    greeting: Greeting,
    until: Instant,
}

impl Doors {
    fn mesh(&self, hall: &mut Hall) -> Result<Mesh> {
        let ends = hall.ends();
        let opened = self.open(ends.map(|(near, _)| near));
        let said = opened.as_ref().map(|(_, at)| (*at, Given::new())).map_err(Error::clone);
        let heard = hall.gather("port", said)?;
        let doors: Vec<SocketAddr> = heard.into_iter().map(|(at, _)| at).collect();
        let (mut lobby, _) = opened?;
        let zero = ends.and_then(|(_, far)| far);
        let made = self
            .connect(&doors, zero)
            .and_then(|below| self.let_in(&mut lobby, below));
        let said = made.as_ref().map(|_| ((), Given::new())).map_err(Error::clone);
        hall.gather("connections", said)?;
        let lines = made?;
        Mesh::of(self.greeting.rank, lines)
    }

    /// Listens at a port of this rank's own, at the address `near` by which it reached rank 0, or is reached.
    fn open(&self, near: Option<SocketAddr>) -> Result<(Lobby, SocketAddr)> {
        let failed = |broken: &dyn std::fmt::Display| Error::Unavailable {
            what: "a port for the other ranks".to_string(),
            reason: broken.to_string(),
        };
        let near = near.ok_or_else(|| failed(&"this end of the way to rank 0 has no address"))?;
        // Rank 0's peers on this host are not its only ones.
        let ip = match near.ip() {
            ip if ip.is_loopback() && !self.address.is_this_host_alone() => unspecified(ip),
            ip => ip,
        };
        let venue = Venue::Across(Address::of(SocketAddr::new(ip, 0)));
        let lobby = Lobby::open(&venue, self.greeting.group.clone());
        let lobby = lobby
            .map_err(|broken| failed(&broken))?
            .ok_or_else(|| failed(&"none is free"))?;
        let port = lobby.address().map_err(|error| failed(&error))?.port();
        Ok((lobby, SocketAddr::new(near.ip(), port)))
    }

    /// Lines to the ranks below; `zero`: where this one has reached rank 0.
    fn connect(&self, doors: &[SocketAddr], zero: Option<SocketAddr>) -> Result<Vec<Option<Line>>> {
        let mut lines: Vec<Option<Line>> = doors.iter().map(|_| None).collect();
        for (peer, door) in doors.iter().enumerate().take(self.greeting.rank) {
            let at = reached(peer, *door, zero);
            let line = self.reach(at).map_err(|broken| Error::Unavailable {
                what: format!("the way from rank {} to rank {peer} at {at}", self.greeting.rank),
                reason: broken.to_string(),
            })?;
            lines[peer] = Some(line);
        }
        Ok(lines)
    }

    fn reach(&self, at: SocketAddr) -> Result<Line, Broken> {
        let venue = Venue::Across(Address::of(at));
        let socket = loop {
            if let Some(socket) = venue.connect(self.until)? {
                break socket;
            }
            if Instant::now() >= self.until {
                return Err(Broken::Late);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let body = serde_json::to_vec(&self.greeting).map_err(|error| Broken::Garbage(error.to_string()))?;
        wire::send(socket.as_fd(), &body, &[], self.until)?;
        Line::stream(socket).map_err(|errno| Broken::System("setsockopt", errno))
    }

    /// Lines from the ranks above, beside those to the ones below.
    fn let_in(&self, lobby: &mut Lobby, mut lines: Vec<Option<Line>>) -> Result<Vec<Option<Line>>> {
        let (begin, rank, world) = (Instant::now(), self.greeting.rank, self.greeting.world);
        let failed = |broken: Broken| Error::Unavailable {
            what: format!("the ways to rank {rank}"),
            reason: broken.to_string(),
        };
        loop {
            let absent: Vec<usize> = (rank + 1..world).filter(|peer| lines[*peer].is_none()).collect();
            if absent.is_empty() {
                return Ok(lines);
            }
            if Instant::now() >= self.until {
                return Err(Error::Missing {
                    at: format!("rank {rank}'s port{}", lobby.refusals()),
                    rank,
                    missing: absent,
                    left: Vec::new(),
                    waited: begin.elapsed(),
                });
            }
            let (guests, _) = lobby.wait(&[], self.until).map_err(failed)?;
            for guest in guests {
                let peer = guest.greeting.rank;
                if !absent.contains(&peer) || guest.greeting.world != world {
                    lobby.refuse(&guest.socket, format!("rank {peer} is not waited for"));
                    continue;
                }
                let line = Line::stream(guest.socket).map_err(|errno| failed(Broken::System("setsockopt", errno)))?;
                lines[peer] = Some(line);
            }
        }
    }
}

/// Where `peer`, which told `door`, is for a rank that reached rank 0 at `zero`.
fn reached(peer: usize, door: SocketAddr, zero: Option<SocketAddr>) -> SocketAddr {
    let elsewhere = |ip: IpAddr| door.ip().is_loopback() && !ip.is_loopback();
    match zero {
        Some(zero) if peer == 0 || elsewhere(zero.ip()) => {
            let mut at = zero;
            at.set_port(door.port());
            at
        }
        _ => door,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_is_rank_0s_host() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (local, remote) = (Some(at("127.0.0.1:29500")), Some(at("10.0.0.1:29500")));
        // Rank 0 is where it was reached, whatever it says of itself.
        assert_eq!(reached(0, at("0.0.0.0:7"), remote), at("10.0.0.1:7"));
        assert_eq!(reached(0, at("0.0.0.0:7"), local), at("127.0.0.1:7"));
        // Rank 1 shares its host.
        assert_eq!(reached(1, at("127.0.0.1:7"), local), at("127.0.0.1:7"));
        assert_eq!(reached(1, at("127.0.0.1:7"), remote), at("10.0.0.1:7"));
        // Rank 2 does not.
        assert_eq!(reached(2, at("10.0.0.2:7"), local), at("10.0.0.2:7"));
        assert_eq!(reached(2, at("10.0.0.2:7"), remote), at("10.0.0.2:7"));
        let scoped = Some(at("[fe80::1%3]:29500"));
        assert_eq!(reached(0, at("[::]:7"), scoped), at("[fe80::1%3]:7"));
    }
}
