//! Rank 0 of a group that joins: it keeps the rendezvous and passes on what every rank says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::lobby::{Guest, Lobby, tell};
use super::wire::{self, Broken, LONGEST};
use super::words::{Answer, Greeting, Turn, Verdict, difference};
use super::{Heard, Spoken};

/// How long a join that cannot be waits for the ranks that have not come yet, so that they hear of it, too.
const LINGER: Duration = Duration::from_secs(2);
/// How long a rank has to take a frame that is on its way.
pub(super) const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Keeper {
    lobby: Lobby,
    zero: Greeting,
    until: Instant,
    guests: BTreeMap<usize, Guest>,
    /// Guests that ended their conversation. They keep their seats, so that nobody waits for them.
    gone: BTreeSet<usize>,
    /// Those who came as a rank that was here already.
    second: Vec<Guest>,
}

impl Keeper {
    /// `zero` is rank 0's greeting.
    pub fn new(lobby: Lobby, zero: Greeting, until: Instant) -> Keeper {
        Keeper {
            lobby,
            zero,
            until,
            guests: BTreeMap::new(),
            gone: BTreeSet::new(),
            second: Vec::new(),
        }
    }

    /// Where it listens, of an address between hosts.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.lobby.address()
    }

    /// Waits for all ranks; their greetings in order.
    pub fn meet(&mut self) -> Result<Vec<Greeting>, Verdict> {
        let mut trouble: Option<(Verdict, Instant)> = None;
        while self.absent().next().is_some() {
            let until = trouble.as_ref().map_or(self.until, |(_, until)| self.until.min(*until));
            if Instant::now() >= until {
                break;
            }
            let (guests, spoke) = self.wait(until).map_err(broken_here)?;
            for guest in guests {
                if let Some(verdict) = self.seat(guest) {
                    trouble.get_or_insert((verdict, Instant::now() + LINGER));
                }
            }
            for rank in spoke {
                // Nobody has anything to say before all have come.
                let verdict = match self.read(rank) {
                    Ok(None) => continue,
                    Ok(Some(_)) => Verdict::Garbage {
                        rank,
                        what: "it spoke before all had come".to_string(),
                    },
                    Err(verdict) => verdict,
                };
                trouble.get_or_insert((verdict, Instant::now() + LINGER));
                self.gone.insert(rank);
            }
        }
        let verdict = match trouble {
            // Of several that differ the lowest is named, whichever came first.
            Some((Verdict::Mismatch { .. }, _)) => self.differing(),
            Some((verdict, _)) => Some(verdict),
            None if self.absent().next().is_some() => Some(Verdict::Missing {
                missing: self.absent().collect(),
                at: format!("the rendezvous{}", self.lobby.refusals()),
            }),
            None => None,
        };
        if let Some(verdict) = verdict {
            return Err(self.stop(verdict));
        }
        let mut all = vec![self.zero.clone()];
        all.extend(self.guests.values().map(|guest| guest.greeting.clone()));
        self.say_to_all(&Answer::Met(all.clone()))?;
        Ok(all)
    }

    /// Every rank's word of a phase, in rank order; of the descriptors those for rank 0.
    pub fn gather(&mut self, phase: &str, mine: Result<Spoken, String>) -> Result<Vec<Heard>, Verdict> {
        let mine = match mine {
            Ok(mine) => mine,
            Err(why) => return Err(self.stop(Verdict::Failed { rank: 0, why })),
        };
        let mut turns: BTreeMap<usize, Spoken> = BTreeMap::from([(0, mine)]);
        while turns.len() <= self.guests.len() {
            if Instant::now() >= self.until {
                let missing = self.guests.keys().copied();
                let verdict = Verdict::Missing {
                    missing: missing.filter(|rank| !turns.contains_key(rank)).collect(),
                    at: format!("the rendezvous, for what all say of their {phase}"),
                };
                return Err(self.stop(verdict));
            }
            let (late, spoke) = match self.wait(self.until) {
                Ok(heard) => heard,
                Err(broken) => return Err(self.stop(broken_here(broken))),
            };
            for guest in late {
                let Greeting { rank, process, .. } = &guest.greeting;
                let why = format!(
                    "all ranks have come, and process {} is one too many, as rank {rank}",
                    process.pid
                );
                self.lobby.refuse(&guest.socket, why);
            }
            for rank in spoke {
                let said = match self.read(rank) {
                    Ok(None) => continue,
                    Ok(Some(_)) if turns.contains_key(&rank) => Err(Verdict::Garbage {
                        rank,
                        what: format!("it spoke twice of its {phase}"),
                    }),
                    Ok(Some(frame)) => take_turn(frame, rank, self.zero.world, phase),
                    Err(verdict) => Err(verdict),
                };
                match said {
                    Ok(said) => drop(turns.insert(rank, said)),
                    Err(verdict) => return Err(self.stop(verdict)),
                }
            }
        }
        self.pass_on(phase, turns)
    }

    /// Tells every guest what all have said.
    fn pass_on(&mut self, phase: &str, turns: BTreeMap<usize, Spoken>) -> Result<Vec<Heard>, Verdict> {
        self.say_to_all(&Answer::Go)?;
        let mut failed = None;
        'guests: for (to, guest) in &self.guests {
            for (from, Spoken { value, fds }) in &turns {
                let theirs: Vec<BorrowedFd<'_>> = fds
                    .iter()
                    .filter(|(whom, _)| from != to && whom.is_none_or(|whom| whom == *to))
                    .map(|(_, fd)| fd.as_fd())
                    .collect();
                let turn = Turn {
                    phase: phase.to_string(),
                    said: Ok(value.clone()),
                    to: vec![Some(*to); theirs.len()],
                };
                if let Err(verdict) = say(guest, *to, &turn, &theirs) {
                    failed = Some(verdict);
                    break 'guests;
                }
            }
        }
        if let Some(verdict) = failed {
            return Err(self.stop(verdict));
        }
        let heard = turns.into_iter().map(|(from, Spoken { value, fds })| Heard {
            value,
            fds: fds
                .into_iter()
                .filter(|(to, _)| from != 0 && to.is_none_or(|to| to == 0))
                .map(|(_, fd)| fd)
                .collect(),
        });
        Ok(heard.collect())
    }

    /// The ranks that have not come, of as many as any that came speaks of.
    fn absent(&self) -> impl Iterator<Item = usize> {
        let worlds = self.guests.values().map(|guest| guest.greeting.world);
        let world = worlds.fold(self.zero.world, usize::max);
        (1..world).filter(|rank| !self.guests.contains_key(rank))
    }

    /// Waits for somebody new, or a word of the guests: their ranks.
    fn wait(&mut self, until: Instant) -> Result<(Vec<Guest>, Vec<usize>), Broken> {
        let here = self.guests.iter().filter(|(rank, _)| !self.gone.contains(rank));
        let (ranks, sockets): (Vec<usize>, Vec<BorrowedFd<'_>>) =
            here.map(|(rank, guest)| (*rank, guest.socket.as_fd())).unzip();
        let (guests, spoke) = self.lobby.wait(&sockets, until)?;
        Ok((guests, spoke.into_iter().map(|index| ranks[index]).collect()))
    }

    /// Gives one that greeted its seat. A verdict: with it there will be no group.
    fn seat(&mut self, guest: Guest) -> Option<Verdict> {
        let rank = guest.greeting.rank;
        let here = match rank {
            0 => Some(&self.zero),
            rank => self.guests.get(&rank).map(|guest| &guest.greeting),
        };
        if let Some(here) = here {
            let pids = (here.process.pid, guest.greeting.process.pid);
            self.second.push(guest);
            return Some(Verdict::Twice { rank, pids });
        }
        let patience = Duration::from_millis(guest.greeting.patience_ms);
        // Whoever loses patience first would leave the others waiting: it ends for all at once.
        self.until = Instant::now()
            .checked_add(patience)
            .map_or(self.until, |end| self.until.min(end));
        let verdict = difference(&guest.greeting, &self.zero);
        tell(guest.socket.as_fd(), &Answer::Welcome);
        self.guests.insert(rank, guest);
        verdict
    }

    fn differing(&self) -> Option<Verdict> {
        let mut guests = self.guests.values();
        guests.find_map(|guest| difference(&guest.greeting, &self.zero))
    }

    fn read(&mut self, rank: usize) -> Result<Option<wire::Frame>, Verdict> {
        let Some(guest) = self.guests.get_mut(&rank) else {
            return Ok(None);
        };
        let read = guest.incoming.read(guest.socket.as_fd(), LONGEST);
        read.map_err(|broken| of_guest(rank, broken))
    }

    fn say_to_all(&mut self, answer: &Answer) -> Result<(), Verdict> {
        let said = self
            .guests
            .iter()
            .try_for_each(|(rank, guest)| say(guest, *rank, answer, &[]));
        said.map_err(|verdict| self.stop(verdict))
    }

    /// Tells everybody that there will be no group.
    fn stop(&mut self, verdict: Verdict) -> Verdict {
        for guest in self.guests.values().chain(&self.second) {
            tell(guest.socket.as_fd(), &Answer::Stop(verdict.clone()));
        }
        verdict
    }
}

fn say<T: serde::Serialize>(guest: &Guest, rank: usize, what: &T, fds: &[BorrowedFd<'_>]) -> Result<(), Verdict> {
    let body = serde_json::to_vec(what).map_err(|error| Verdict::Failed {
        rank: 0,
        why: error.to_string(),
    })?;
    wire::send(guest.socket.as_fd(), &body, fds, Instant::now() + GRACE).map_err(|broken| of_guest(rank, broken))
}

/// What a guest's end of the conversation means for the group.
fn of_guest(rank: usize, broken: Broken) -> Verdict {
    match broken {
        Broken::Closed => Verdict::Exited { rank },
        Broken::Late => Verdict::Missing {
            missing: vec![rank],
            at: "the rendezvous, for it to listen".to_string(),
        },
        Broken::Garbage(what) => Verdict::Garbage { rank, what },
        broken @ Broken::System(..) => broken_here(broken),
    }
}

fn broken_here(broken: Broken) -> Verdict {
    Verdict::Failed {
        rank: 0,
        why: broken.to_string(),
    }
}

/// A guest's turn, of this phase and with as many descriptors as it tells the ends of.
pub(super) fn take_turn(frame: wire::Frame, rank: usize, world: usize, phase: &str) -> Result<Spoken, Verdict> {
    let garbage = |what: String| Verdict::Garbage { rank, what };
    let turn: Turn = serde_json::from_slice(&frame.body).map_err(|error| garbage(error.to_string()))?;
    if turn.phase != phase {
        return Err(garbage(format!(
            "it speaks of its {}, where all speak of their {phase}",
            turn.phase
        )));
    }
    let beyond = turn.to.iter().flatten().any(|to| *to >= world);
    if turn.to.len() != frame.fds.len() || beyond {
        let (fds, told) = (frame.fds.len(), &turn.to);
        return Err(garbage(format!("{fds} descriptors for {told:?}, of {world} ranks")));
    }
    match turn.said {
        Ok(value) => Ok(Spoken {
            value,
            fds: turn.to.into_iter().zip(frame.fds).collect(),
        }),
        Err(why) => Err(Verdict::Failed { rank, why }),
    }
}
