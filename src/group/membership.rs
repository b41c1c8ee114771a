//! What the caller's handles of a group share.
//!
//! Ranks, plans and buffers are the caller's; the thread that listens to other processes is not, and may hold the [`Group`] for a
//! moment at any time. So leaving is tied to this, which only handles have: whoever drops the last of them says farewell and
//! looks at the caller's streams for the last time, before that drop returns. The process may exit right behind it, and the streams may be
//! ended. What is left of the group then goes with whoever holds it last, and touches neither.

use std::ops::Deref;
use std::sync::{Arc, PoisonError};

use super::holdings::{self, Local};
use super::{Group, Rank};

#[derive(Debug)]
pub(super) struct Membership(Arc<Group>);

impl Membership {
    pub(super) fn new(group: Group) -> Arc<Membership> {
        Arc::new(Membership(Arc::new(group)))
    }

    /// For whoever must not be taken for a handle.
    #[cfg(any(target_os = "linux", test))]
    pub(super) fn group(&self) -> &Arc<Group> {
        &self.0
    }

    /// The ranks `numbers`, which this process drives.
    pub(super) fn ranks(self: &Arc<Membership>, numbers: impl Iterator<Item = usize>) -> Vec<Rank> {
        let ranks = numbers.enumerate();
        ranks
            .map(|(local, rank)| Rank::new(self.clone(), rank, local))
            .collect()
    }
}

impl Deref for Membership {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
        holdings::give_back();
    }
}

impl Group {
    /// The end of this process's part. There is nobody left to tell of a failure.
    fn leave(&self) {
        // A capture that nobody ended would outlive the stream.
        for Local { lane, .. } in self.holdings.locals.iter().filter(|local| local.lane.owned) {
            if let Ok(true) = self.driver.stream_is_capturing(lane.stream)
                && let Ok(graph) = self.driver.stream_end_capture(lane.stream)
            {
                let _ = self.driver.graph_destroy(graph);
            }
        }
        if self.failure.get().is_none() && self.is_uneven() {
            let _ = self.raise_abort();
        }
        if let Some(peers) = &self.peers {
            // A rank that goes because of another must not look as if it went by itself.
            self.tell_peers();
            peers.farewell(self.launched_here());
        }
        for local in &self.holdings.locals {
            let retired = local.retired.lock().unwrap_or_else(PoisonError::into_inner);
            for ptr in retired.iter() {
                let _ = self.driver.free_async(*ptr, local.lane.stream);
            }
        }
        self.holdings.leave();
    }
}
