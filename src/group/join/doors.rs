//! How the ranks of several hosts connect to each other: each listens at a port of its own, and connects to all below it.
//!
//! A rank tells by which of its addresses it reached rank 0: there the others reach it, too. Rank 0 is where each of them has
//! reached it. A rank on rank 0's own host may have come by its loopback, which means nothing elsewhere: for other hosts it
//! is where rank 0 is.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::hall::{Given, Hall};
use super::line::Line;
use super::lobby::Lobby;
use super::mesh::Mesh;
use super::venue::{Address, Venue, unspecified};
use super::wire::{self, Broken};
use super::words::Greeting;
use crate::error::{Error, Result};

pub(super) struct Doors {
    /// Where all have met.
    pub address: Address,
    /// This rank's first word to each of the others. It names what only those know who were in the hall.
    pub greeting: Greeting,
    pub until: Instant,
}

impl Doors {
    /// Lines to all other ranks, in two phases.
    pub fn mesh(&self, hall: &mut Hall) -> Result<Mesh> {
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
