//! Where the ranks of one group speak to each other while they join.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::guest::{self, Door, Visitor};
use super::keeper::Keeper;
use super::lobby::Lobby;
use super::venue::{Address, Venue, user};
use super::wire::Broken;
use super::words::{Agreed, Greeting, MAGIC, PROTOCOL, Process, Verdict};
use super::{Heard, Id, Spoken};
use crate::error::{Error, Result};

/// Descriptors to give away: each with the rank that it is for; `None`: every other rank.
pub(crate) type Given = Vec<(Option<usize>, OwnedFd)>;

#[derive(Debug)]
enum Role {
    /// A group of one.
    Alone,
    Keeper(Box<Keeper>),
    Visitor(Box<Visitor>),
}

#[derive(Debug)]
pub(crate) struct Hall {
    role: Role,
    rank: usize,
    begin: Instant,
}

/// One that wants to join.
#[derive(Debug, Clone)]
pub(crate) struct Comer {
    pub rank: usize,
    pub world: usize,
    pub process: Process,
    /// What must be equal on all ranks.
    pub agreed: Agreed,
    pub until: Instant,
}

impl Hall {
    /// Waits until all ranks of `id` are here: their processes, in rank order.
    pub fn enter(id: &Id, comer: Comer) -> Result<(Hall, Vec<Process>)> {
        Hall::enter_as(user(), id, comer)
    }

    /// As [`Hall::enter`], for ranks of `user`.
    fn enter_as(user: u32, id: &Id, comer: Comer) -> Result<(Hall, Vec<Process>)> {
        let name = format!("tileweave-{}", &id.digest("rendezvous")[..32]);
        Hall::enter_at(&Venue::Here { name, user }, id, comer)
    }

    /// As [`Hall::enter`], for ranks of several hosts, which meet at an address of rank 0's. No descriptors are given there.
    pub fn enter_across(at: Address, id: &Id, comer: Comer) -> Result<(Hall, Vec<Process>)> {
        Hall::enter_at(&Venue::Across(at), id, comer)
    }

    fn enter_at(venue: &Venue, id: &Id, comer: Comer) -> Result<(Hall, Vec<Process>)> {
        let begin = Instant::now();
        let Comer {
            rank,
            world,
            process,
            agreed,
            until,
        } = comer;
        if rank >= world {
            return Err(Error::bad_argument(
                "rank",
                rank,
                format!("below the world size, {world}"),
            ));
        }
        if world == 1 {
            let role = Role::Alone;
            return Ok((Hall { role, rank, begin }, vec![process]));
        }
        let greeting = Greeting {
            magic: MAGIC.to_string(),
            protocol: PROTOCOL,
            group: id.digest("greeting"),
            rank,
            world,
            patience_ms: 0,
            process,
            agreed,
        };
        let told = |verdict: Verdict| verdict.error(rank, begin.elapsed());
        let (role, met) = match rank {
            0 => {
                let lobby = open(venue, &greeting, until).map_err(|door| ended(door, rank, begin))?;
                let mut keeper = Keeper::new(lobby, greeting, until);
                let met = keeper.meet().map_err(told)?;
                (Role::Keeper(Box::new(keeper)), met)
            }
            _ => {
                let mut visitor = guest::find(venue, &greeting, until).map_err(|door| ended(door, rank, begin))?;
                let met = visitor.meet().map_err(told)?;
                (Role::Visitor(Box::new(visitor)), met)
            }
        };
        let processes = met.into_iter().map(|greeting| greeting.process).collect();
        Ok((Hall { role, rank, begin }, processes))
    }

    /// Between hosts: this rank's end of the way to rank 0, and rank 0's, which that has not itself.
    pub fn ends(&self) -> Option<(SocketAddr, Option<SocketAddr>)> {
        match &self.role {
            Role::Alone => None,
            Role::Keeper(keeper) => Some((keeper.address().ok()?, None)),
            Role::Visitor(visitor) => visitor.ends().ok().map(|(near, far)| (near, Some(far))),
        }
    }

    /// Says a value, and gives descriptors, or tells all why it cannot; returns what every rank has said and given to this one, in
    /// rank order. All speak of the same `phase`.
    pub fn gather<T: Serialize + DeserializeOwned>(
        &mut self,
        phase: &str,
        mine: Result<(T, Given)>,
    ) -> Result<Vec<(T, Vec<OwnedFd>)>> {
        let mine = mine.and_then(|(value, fds)| {
            let value = serde_json::to_value(value).map_err(|error| unspeakable(phase, self.rank, &error))?;
            Ok(Spoken { value, fds })
        });
        // A rank's own error is better than what the others are told of it.
        let (mine, own) = match mine {
            Ok(mine) => (Ok(mine), None),
            Err(error) => (Err(error.to_string()), Some(error)),
        };
        let heard = match (&mut self.role, mine) {
            (Role::Keeper(keeper), mine) => keeper.gather(phase, mine),
            (Role::Visitor(visitor), mine) => visitor.gather(phase, mine),
            (Role::Alone, Ok(Spoken { value, .. })) => {
                let fds = Vec::new();
                Ok(vec![Heard { value, fds }])
            }
            (Role::Alone, Err(why)) => Err(Verdict::Failed { rank: 0, why }),
        };
        let heard = match (own, heard) {
            (Some(error), _) => return Err(error),
            (None, heard) => heard.map_err(|verdict| verdict.error(self.rank, self.begin.elapsed()))?,
        };
        let understood = heard.into_iter().enumerate().map(|(rank, Heard { value, fds })| {
            let value = serde_json::from_value(value).map_err(|error| unspeakable(phase, rank, &error))?;
            Ok((value, fds))
        });
        understood.collect()
    }
}

fn unspeakable(phase: &str, rank: usize, error: &serde_json::Error) -> Error {
    Error::Aborted {
        why: format!("what rank {rank} says of its {phase} is not what ranks say: {error}"),
    }
}

/// Listens as rank 0. Where somebody does already, that is a second rank 0, which is asked; or one that is just ending. An address may be
/// anybody's: it is waited for.
fn open(venue: &Venue, greeting: &Greeting, until: Instant) -> Result<Lobby, Door> {
    let broken = |broken: Broken| match venue {
        Venue::Here { .. } => Door::Closed(Verdict::Failed {
            rank: 0,
            why: broken.to_string(),
        }),
        Venue::Across(_) => Door::Refused(format!("{venue} cannot be kept: {broken}")),
    };
    loop {
        if let Some(lobby) = Lobby::open(venue, greeting.group.clone()).map_err(broken)? {
            return Ok(lobby);
        }
        let late = Instant::now() >= until;
        match venue {
            Venue::Across(_) if late => return Err(Door::Refused(format!("{venue} is taken: choose another port"))),
            Venue::Across(_) => std::thread::sleep(Duration::from_millis(20)),
            Venue::Here { .. } => match guest::knock(venue, &guest::patient(greeting, until), until).map_err(broken)? {
                Door::Nobody if !late => std::thread::sleep(Duration::from_millis(1)),
                Door::Nobody | Door::Open(_) => {
                    return Err(Door::Refused("the name of its rendezvous is taken".to_string()));
                }
                door => return Err(door),
            },
        }
    }
}

/// Why a rank found no seat.
fn ended(door: Door, rank: usize, begin: Instant) -> Error {
    match door {
        Door::Closed(verdict) => verdict.error(rank, begin.elapsed()),
        Door::Refused(why) => Error::Unavailable {
            what: format!("the group that rank {rank} is to join"),
            reason: why,
        },
        Door::Open(_) | Door::Nobody => Error::Unavailable {
            what: format!("the group that rank {rank} is to join"),
            reason: "nobody keeps its rendezvous".to_string(),
        },
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
