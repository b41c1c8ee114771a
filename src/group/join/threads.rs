//! Ranks that turn out to be threads of one process, on one driver: rank 0's thread makes one group of all, as
//! [`Node::group_on`](crate::Node::group_on) does, and the others pick up their parts here.
//!
//! A thread that waits here does not hold the simulated node up. Its guard is in its seat, and rank 0 drops the guards of all in
//! the moment that it hands out the parts: no simulated time passes before every thread has come back.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::super::{Group, GroupConfig, Rank, RankPlace};
use crate::driver::ThreadGuard;
use crate::error::{Error, Result};
use crate::group::Node;

/// What lies at one place of the table.
#[derive(Debug)]
enum Seat {
    Free,
    Waits {
        place: RankPlace,
        _guard: ThreadGuard,
    },
    Served(Result<Rank>),
    /// Its thread has its part, or has given up.
    Left,
}

type Tables = HashMap<u64, Vec<Seat>>;

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Option<Tables>> {
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread's claim on a table. Whoever leaves last takes the table away.
struct Claim {
    table: u64,
    rank: usize,
}

impl Claim {
    /// Looks at the table until `found`, at most until `until`.
    fn wait<T>(&self, until: Instant, mut found: impl FnMut(&mut Vec<Seat>) -> Option<T>) -> Result<T, Vec<usize>> {
        let mut tables = lock();
        loop {
            if let Some(seats) = tables.get_or_insert_default().get_mut(&self.table) {
                if let Some(found) = found(seats) {
                    return Ok(found);
                }
                if Instant::now() >= until {
                    let here = |seat: &Seat| matches!(seat, Seat::Waits { .. } | Seat::Served(_));
                    let absent = (0..seats.len()).filter(|rank| *rank != self.rank && !here(&seats[*rank]));
                    return Err(absent.collect());
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            (tables, _) = CHANGED
                .wait_timeout(tables, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // A part that nobody took goes after the lock.
        let _part;
        let mut tables = lock();
        let Some(tables) = tables.as_mut() else { return };
        let Some(seats) = tables.get_mut(&self.table) else {
            return;
        };
        _part = std::mem::replace(&mut seats[self.rank], Seat::Left);
        if self.rank == 0 {
            // Nobody serves any more, so whoever still comes finds that rank 0 has left.
            let gone = || Error::Aborted {
                why: "rank 0 could not make the group".to_string(),
            };
            for seat in seats
                .iter_mut()
                .filter(|seat| matches!(seat, Seat::Free | Seat::Waits { .. }))
            {
                *seat = Seat::Served(Err(gone()));
            }
        }
        if seats.iter().all(|seat| matches!(seat, Seat::Left)) {
            tables.remove(&self.table);
        }
        CHANGED.notify_all();
    }
}

/// Takes rank `rank`'s part of the group of `world` threads that `table` numbers. `guard` is held while it waits.
pub(super) fn join(
    node: &Node,
    (table, rank, world): (u64, usize, usize),
    place: RankPlace,
    guard: ThreadGuard,
    config: &GroupConfig,
    until: Instant,
) -> Result<Rank> {
    let begin = Instant::now();
    let missing = |missing: Vec<usize>| Error::Missing {
        at: "the meeting of its group's threads".to_string(),
        rank,
        missing: if missing.is_empty() { vec![0] } else { missing },
        left: Vec::new(),
        waited: begin.elapsed(),
    };
    let claim = {
        let mut tables = lock();
        let seats = tables.get_or_insert_default().entry(table);
        let seats = seats.or_insert_with(|| (0..world).map(|_| Seat::Free).collect());
        if matches!(seats[rank], Seat::Free) {
            seats[rank] = Seat::Waits { place, _guard: guard };
        }
        CHANGED.notify_all();
        Claim { table, rank }
    };
    if rank > 0 {
        let mine = claim.wait(until, |seats| match std::mem::replace(&mut seats[rank], Seat::Left) {
            Seat::Served(mine) => Some(mine),
            other => {
                seats[rank] = other;
                None
            }
        });
        return mine.map_err(missing)?;
    }
    let places = claim.wait(until, |seats| {
        let place = |seat: &Seat| match seat {
            Seat::Waits { place, .. } => Some(*place),
            _ => None,
        };
        let places: Option<Vec<RankPlace>> = seats.iter().map(place).collect();
        // Rank 0 works from here on, and holds the node up again.
        places.inspect(|_| seats[0] = Seat::Left)
    });
    let made = places
        .map_err(missing)
        .and_then(|places| Group::make(node.driver(), &places, config));
    serve(table, made, missing)
}

/// Gives every thread its part, and returns rank 0's. Where one has given up meanwhile nobody gets any: the group would wait for it.
fn serve(table: u64, made: Result<Vec<Rank>>, missing: impl Fn(Vec<usize>) -> Error) -> Result<Rank> {
    // A group that nobody gets goes after the lock.
    let mut unserved = None;
    let mut guards = Vec::new();
    let mut tables = lock();
    let seats = tables.as_mut().and_then(|tables| tables.get_mut(&table));
    let seats: &mut [Seat] = seats.map_or(&mut [], |seats| seats);
    let gone = (1..seats.len()).filter(|rank| !matches!(seats[*rank], Seat::Waits { .. }));
    let gone: Vec<usize> = gone.collect();
    let made = match made {
        Ok(ranks) if !gone.is_empty() => {
            unserved = Some(ranks);
            Err(missing(gone))
        }
        made => made,
    };
    let mut parts: Vec<Result<Rank>> = match made {
        Ok(ranks) => ranks.into_iter().map(Ok).collect(),
        Err(error) => (0..seats.len()).map(|rank| Err(told(&error, rank))).collect(),
    };
    let first = 1.min(parts.len());
    let others = parts.drain(first..);
    for (seat, part) in seats.iter_mut().skip(1).zip(others) {
        if matches!(seat, Seat::Waits { .. }) {
            guards.push(std::mem::replace(seat, Seat::Served(part)));
        }
    }
    // All come back at once, before any of their threads runs.
    drop(guards);
    drop(tables);
    CHANGED.notify_all();
    drop(unserved);
    parts.pop().unwrap_or_else(|| Err(missing(Vec::new())))
}

/// As `rank` is told of it.
fn told(error: &Error, rank: usize) -> Error {
    let mut told = error.clone();
    if let Error::Missing { rank: waits, .. } = &mut told {
        *waits = rank;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Place;
    use crate::group::fake::Fake;

    #[test]
    fn nobody_gets_a_group_that_one_has_given_up() {
        let (fake, node) = Fake::node(3);
        let table = u64::MAX;
        let waits = |device: usize| Seat::Waits {
            place: RankPlace {
                place: Place {
                    device,
                    share: 0,
                    shares: 1,
                },
                stream: None,
            },
            _guard: node.driver().wait_elsewhere(),
        };
        let config = GroupConfig::default().heap_bytes(4 << 20);
        for given_up in [false, true] {
            let second = if given_up { Seat::Left } else { waits(2) };
            lock()
                .get_or_insert_default()
                .insert(table, vec![Seat::Left, waits(1), second]);
            let missing = |missing| Error::Missing {
                at: "here".to_string(),
                rank: 0,
                missing,
                left: Vec::new(),
                waited: std::time::Duration::ZERO,
            };
            let mine = serve(table, node.group(3, &config), missing);
            let mut seats = lock().as_mut().and_then(|tables| tables.remove(&table)).unwrap();
            let Seat::Served(one) = seats.remove(1) else {
                panic!("rank 1 was not served")
            };
            if !given_up {
                assert_eq!((mine.unwrap().rank(), one.unwrap().rank()), (0, 1));
                assert!(matches!(&seats[1], Seat::Served(Ok(two)) if two.rank() == 2));
                continue;
            }
            for (me, error) in [mine.unwrap_err(), one.unwrap_err()].into_iter().enumerate() {
                assert!(
                    matches!(&error, Error::Missing { rank, missing, .. } if *rank == me && missing == &[2]),
                    "{error}"
                );
            }
            assert!(matches!(seats[1], Seat::Left));
        }
        assert!(fake.alive.lock().unwrap().is_empty(), "something of the group is left");
    }
}
