//! Where the threads of a group's ranks meet on the host: a barrier with a deadline that can say who did not come.
//!
//! A round ends when every rank has come. A rank that gives up is as absent as one that never came, but is told apart in
//! what the others are told; it may come again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::driver::{Driver, ThreadGuard};
use crate::error::{Error, Result};

/// A rank in the running round.
#[derive(Debug, Default)]
enum Seat {
    #[default]
    Absent,
    /// Its thread waits. While the guard lives it does not hold the simulated node up: whoever ends the round drops the
    /// guards of all, before any of their threads runs again, lest simulated time pass while they are about to launch.
    Waits {
        _guard: ThreadGuard,
    },
    Left,
}

#[derive(Debug)]
struct Round {
    number: u64,
    seats: Vec<Seat>,
}

#[derive(Debug)]
pub(super) struct HostBarrier {
    round: Mutex<Round>,
    changed: Condvar,
}

impl HostBarrier {
    pub(super) fn new(world: usize) -> HostBarrier {
        let seats = (0..world).map(|_| Seat::default()).collect();
        HostBarrier {
            round: Mutex::new(Round { number: 0, seats }),
            changed: Condvar::new(),
        }
    }

    /// The round. It is whole at every moment, whatever happened to a thread that held it.
    fn lock(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waiting ranks look again whether the group has failed.
    pub(super) fn wake(&self) {
        // Under the lock: a rank that has just looked is waiting by now.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Rank `rank` comes, and waits for all, at most until `deadline` has passed or the group has `failed`.
    pub(super) fn wait(
        &self,
        driver: &dyn Driver,
        rank: usize,
        deadline: Duration,
        failed: impl Fn() -> Option<Error>,
    ) -> Result<()> {
        let begin = Instant::now();
        let mut round = self.lock();
        if matches!(round.seats[rank], Seat::Waits { .. }) {
            return Err(second_thread(rank));
        }
        if let Some(error) = failed() {
            return Err(Error::Poisoned(Arc::new(error)));
        }
        round.seats[rank] = Seat::Waits {
            _guard: driver.wait_elsewhere(),
        };
        if round.seats.iter().all(|seat| matches!(seat, Seat::Waits { .. })) {
            round.number += 1;
            round.seats.fill_with(Seat::default);
            self.changed.notify_all();
            return Ok(());
        }
        let mine = round.number;
        loop {
            let left = deadline.saturating_sub(begin.elapsed());
            let (guard, _) = self
                .changed
                .wait_timeout(round, left)
                .unwrap_or_else(PoisonError::into_inner);
            round = guard;
            if round.number != mine {
                return Ok(());
            }
            let failure = failed();
            if failure.is_none() && begin.elapsed() < deadline {
                continue;
            }
            round.seats[rank] = Seat::Left;
            return Err(match failure {
                Some(error) => Error::Poisoned(Arc::new(error)),
                None => absent(rank, &round.seats, begin.elapsed()),
            });
        }
    }
}

/// A rank comes once a round.
pub(super) fn second_thread(rank: usize) -> Error {
    Error::bad_argument(
        "the host barrier's caller",
        format!("a second thread of rank {rank}"),
        "one thread of each rank",
    )
}

fn absent(rank: usize, seats: &[Seat], waited: Duration) -> Error {
    let with = |is: fn(&Seat) -> bool| {
        let others = seats
            .iter()
            .enumerate()
            .filter(|(other, seat)| *other != rank && is(seat));
        others.map(|(other, _)| other).collect()
    };
    Error::Missing {
        rank,
        at: "the host barrier".to_string(),
        missing: with(|seat| matches!(seat, Seat::Absent)),
        left: with(|seat| matches!(seat, Seat::Left)),
        waited,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::GroupConfig;
    use super::super::fake::Fake;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn group(world: usize) -> Vec<crate::Rank> {
        Fake::node(world)
            .1
            .group(world, &GroupConfig::default().heap_bytes(4 << 20))
            .unwrap()
    }

    #[test]
    fn nobody_leaves_before_all_have_come_round_after_round() {
        let (ranks, here) = (group(4), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for rank in &ranks {
                let here = &here;
                scope.spawn(move || {
                    for round in 1..=200 {
                        here.fetch_add(1, Ordering::SeqCst);
                        rank.host_barrier(LONG).unwrap();
                        assert!(here.load(Ordering::SeqCst) >= 4 * round);
                    }
                });
            }
        });
    }

    #[test]
    fn who_does_not_come_is_named_and_who_gave_up_is_told_apart() {
        let ranks = group(4);
        let told = |rank: &crate::Rank| match rank.host_barrier(Duration::from_millis(1)).unwrap_err() {
            Error::Missing {
                rank: me,
                missing,
                left,
                ..
            } => (me, missing, left),
            other => panic!("{other}"),
        };
        assert_eq!(told(&ranks[2]), (2, vec![0, 1, 3], vec![]));
        assert_eq!(told(&ranks[0]), (0, vec![1, 3], vec![2]));
        let text = ranks[0].host_barrier(Duration::ZERO).unwrap_err().to_string();
        let who = "at the host barrier: ranks 1, 3 did not come; rank 2 came, and gave up before";
        assert!(text.starts_with("rank 0 waited 0.") && text.ends_with(who), "{text}");
        // All come after all.
        std::thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(|| rank.host_barrier(LONG).unwrap());
            }
        });
    }

    #[test]
    fn a_failure_of_the_group_ends_the_wait() {
        let ranks = group(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ranks[0].host_barrier(LONG));
            while !matches!(ranks[0].group.barrier.lock().seats[0], Seat::Waits { .. }) {
                std::thread::yield_now();
            }
            let second = ranks[0].host_barrier(LONG).unwrap_err().to_string();
            assert!(second.contains("a second thread of rank 0"), "{second}");
            ranks[1].abort("the user left");
            let error = waiting.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Poisoned(_)) && error.to_string().contains("the user left"));
        });
        assert!(matches!(ranks[1].host_barrier(LONG), Err(Error::Poisoned(_))));
    }
}
