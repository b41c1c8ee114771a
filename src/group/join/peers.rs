//! The other ranks of a group that spans processes: what is heard of them becomes the group's failure, and its failures become theirs.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::super::Group;
use super::super::barrier::second_thread;
use super::mesh::{Hears, Mesh, Reason};
use crate::abi;
use crate::driver::Driver;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Peers {
    mesh: Mesh,
    /// The next round of the host barrier, from 1.
    round: Mutex<u64>,
}

impl Peers {
    pub fn new(mesh: Mesh) -> Peers {
        Peers {
            mesh,
            round: Mutex::new(1),
        }
    }

    /// From here on the group hears of its peers.
    pub fn listen(&self, group: &Arc<Group>) -> Result<()> {
        self.mesh.listen(Arc::new(Watch(Arc::downgrade(group))))
    }

    /// Tells all why the group has failed.
    pub fn failed(&self, error: &Error) {
        self.mesh.failed(reason(error));
    }

    /// Whoever waits for peers looks again.
    pub fn wake(&self) {
        self.mesh.wake();
    }

    /// Tells all that this rank goes, having launched so many operations.
    pub fn farewell(&self, launched: Option<u64>) {
        self.mesh.farewell(launched);
    }

    /// What keeps its sockets open, for as long as its kernels run: peers take their end for those kernels' end.
    pub fn line(&self) -> Arc<dyn std::fmt::Debug + Send + Sync> {
        self.mesh.line()
    }

    /// A peer that has gone after fewer operations than `launched`, of `world` ranks.
    pub fn gone_before(&self, launched: u64, world: usize) -> Option<Error> {
        (0..world).find_map(|peer| {
            let last = self.mesh.gone(peer)??;
            (last < launched).then(|| left(peer, last, launched))
        })
    }

    /// The host barrier between processes; as [`HostBarrier::wait`](super::super::barrier::HostBarrier::wait).
    pub fn barrier(
        &self,
        driver: &dyn Driver,
        rank: usize,
        deadline: Duration,
        failed: impl Fn() -> Option<Error>,
    ) -> Result<()> {
        let begin = Instant::now();
        let Ok(mut round) = self.round.try_lock().or_else(|busy| match busy {
            std::sync::TryLockError::Poisoned(poisoned) => Ok(PoisonError::into_inner(poisoned)),
            std::sync::TryLockError::WouldBlock => Err(()),
        }) else {
            return Err(second_thread(rank));
        };
        if let Some(error) = failed() {
            return Err(Error::Poisoned(Arc::new(error)));
        }
        let _elsewhere = driver.wait_elsewhere();
        // An end beyond what a clock can tell is none.
        let until = begin
            .checked_add(deadline)
            .unwrap_or_else(|| begin + Duration::from_secs(1 << 31));
        let (missing, left) = self.mesh.meet(*round, until, || failed().is_some());
        if missing.is_empty() && left.is_empty() {
            *round += 1;
            return Ok(());
        }
        Err(match failed() {
            Some(error) => Error::Poisoned(Arc::new(error)),
            None => Error::Missing {
                at: "the host barrier".to_string(),
                rank,
                missing,
                left,
                waited: begin.elapsed(),
            },
        })
    }
}

fn left(peer: usize, last: u64, launched: u64) -> Error {
    Error::PeerExited {
        rank: peer,
        why: format!("it left the group after {last} operations, and this rank has number {launched} for it"),
    }
}

/// The longest text that is told; a description of what was launched has some hundred characters.
const LONGEST_TEXT: usize = 2000;

fn reason(error: &Error) -> Reason {
    let short = |text: &str| text.chars().take(LONGEST_TEXT).collect::<String>();
    match error {
        Error::PeerExited { rank, why } => Reason::Gone {
            rank: *rank,
            why: short(why),
        },
        Error::Disagreed {
            epoch,
            rank,
            peer,
            ours,
            theirs,
        } => Reason::Disagreed {
            epoch: *epoch,
            rank: *rank,
            peer: *peer,
            ours: short(ours),
            theirs: short(theirs),
        },
        Error::Wait { root, verdict, chain } => Reason::Wait {
            root: root.clone(),
            verdict: short(verdict),
            chain: chain.clone(),
        },
        error => Reason::Other(short(&error.to_string())),
    }
}

/// Holds no group: the last handle of one may go at any time.
struct Watch(Weak<Group>);

impl Hears for Watch {
    fn lost(&self, peer: usize, why: &str) {
        let Some(group) = self.0.upgrade() else { return };
        // Where kernels here have found a reason of their own, that came first, and is looked into.
        let own = [abi::TW_ABORT_WAIT as u64, abi::TW_ABORT_DISAGREED as u64];
        if group.failure.get().is_some() || group.kernels_gave_up(|cause| own.contains(&cause)) {
            return;
        }
        let why = why.to_string();
        let gone = Error::PeerExited { rank: peer, why };
        // Told before this rank itself can act on it, and end: it would be taken for the first to go.
        if let Some(peers) = &group.peers {
            peers.failed(&gone);
        }
        group.lose(gone);
    }

    fn failed(&self, peer: usize, reason: Reason) {
        let Some(group) = self.0.upgrade() else { return };
        if group.kernels_gave_up(|cause| cause != abi::TW_ABORT_NONE as u64) {
            return;
        }
        group.lose(match reason {
            Reason::Gone { rank, why } => Error::PeerExited { rank, why },
            Reason::Disagreed {
                epoch,
                rank,
                peer,
                ours,
                theirs,
            } => Error::Disagreed {
                epoch,
                rank,
                peer,
                ours,
                theirs,
            },
            Reason::Wait { root, verdict, chain } => Error::Wait { root, verdict, chain },
            Reason::Other(why) => Error::Aborted {
                why: format!("rank {peer} gave up: {why}"),
            },
        });
    }

    fn farewell(&self, peer: usize, launched: Option<u64>) {
        let Some(group) = self.0.upgrade() else { return };
        if group.kernels_gave_up(|cause| cause != abi::TW_ABORT_NONE as u64) {
            return;
        }
        if let (Some(last), Some(mine)) = (launched, group.launched_here())
            && mine > last
        {
            group.lose(left(peer, last, mine));
        }
    }

    /// What it has not done by now nobody will do: its memory, which is still mapped here, tells how far it came. In order to go
    /// on, this rank must not need more of it.
    fn ended(&self, peer: usize) {
        let Some(group) = self.0.upgrade() else { return };
        if group.failure.get().is_some() || group.kernels_gave_up(|cause| cause != abi::TW_ABORT_NONE as u64) {
            return;
        }
        let own = group.holdings.locals.first().map(|local| local.rank);
        let control = |rank: usize| group.control(group.holdings.heaps.get(rank)?).ok();
        let (Some(theirs), Some(ours)) = (control(peer), own.and_then(control)) else {
            return;
        };
        let done = theirs.epoch_finished;
        // NCCL's operations are launched, and no epochs.
        let launched = match group.holdings.nccl {
            None => group.launched_here(),
            Some(_) => None,
        };
        if let (None, Some(peers)) = (&group.holdings.nccl, &group.peers) {
            peers.mesh.gone_after(peer, done);
        }
        let mine = launched.unwrap_or(0).max(ours.epoch_started);
        if mine > done {
            let why = format!(
                "its process ended in the midst of its work: {done} operations were done, and this rank has number {mine} for it"
            );
            group.give_up(Error::PeerExited { rank: peer, why });
        }
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
