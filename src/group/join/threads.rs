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
        let mut tables = lock();
        let Some(tables) = tables.as_mut() else { return };
        let Some(seats) = tables.get_mut(&self.table) else {
            return;
        };
        seats[self.rank] = Seat::Left;
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
    let parts: Vec<Result<Rank>> = match made {
        Ok(ranks) => ranks.into_iter().map(Ok).collect(),
        Err(error) => (0..world).map(|_| Err(error.clone())).collect(),
    };
    let mut mine = None;
    let mut guards = Vec::new();
    let mut tables = lock();
    if let Some(seats) = tables.as_mut().and_then(|tables| tables.get_mut(&table)) {
        for (seat, part) in seats.iter_mut().zip(parts) {
            match std::mem::replace(seat, Seat::Left) {
                waits @ Seat::Waits { .. } => {
                    *seat = Seat::Served(part);
                    guards.push(waits);
                }
                // One that has given up: its part goes.
                _ if mine.is_some() => {}
                _ => mine = Some(part),
            }
        }
    }
    // All come back at once, before any of their threads runs.
    drop(guards);
    drop(tables);
    CHANGED.notify_all();
    mine.unwrap_or_else(|| Err(missing(Vec::new())))
}
