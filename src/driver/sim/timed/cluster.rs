//! CTAs of a cluster, and barriers: of a CTA's warps, and of a cluster's.

use std::cell::RefCell;

use super::callbacks;
use super::warp::{Cta, Wait, Warp};
use super::words::Waiter;

/// Who has come to the cluster's barrier.
#[derive(Debug, Default)]
struct Meeting {
    arrived: u32,
    last: u64,
    waiting: Vec<Waiter>,
}

/// The CTAs of a cluster, by rank, as long as they run.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub members: RefCell<Vec<*mut Cta>>,
    meeting: RefCell<Meeting>,
}

/// Warps meet at a CTA's barrier `id`; `threads` of them, 0: all. What they voted.
///
/// # Safety
/// As [`callbacks::with`].
pub(super) unsafe fn barrier(w: *mut Warp, id: u32, threads: u32, vote: u32, mine: bool) -> u32 {
    // SAFETY: passed on; no borrow is held while others run.
    unsafe {
        let met = callbacks::with(w, |timed, cta, w| {
            let threads = if threads == 0 { cta.threads } else { threads };
            let barrier = &mut cta.barriers[id as usize & 15];
            let first = barrier.arrived == 0;
            barrier.any = mine || (!first && barrier.any);
            barrier.all = mine && (first || barrier.all);
            barrier.last = barrier.last.max(w.c.now);
            barrier.arrived += 32;
            if barrier.arrived < threads {
                w.wait = Wait::Barrier(id);
                barrier.waiting.push(w.waiter());
                return false;
            }
            let result = u32::from(if vote == 1 { barrier.any } else { barrier.all });
            let end = barrier.last + timed.rates.barrier;
            let waiting = std::mem::take(barrier).waiting;
            for who in waiting {
                timed.vote(who, result);
                timed.wake(who, end);
            }
            (w.c.now, w.result) = (end, result);
            true
        });
        if !met {
            callbacks::park(w);
        }
        (*w).result
    }
}

/// All warps of a cluster meet.
///
/// # Safety
/// As [`callbacks::with`].
pub(super) unsafe fn cluster_sync(w: *mut Warp) {
    // SAFETY: passed on; no borrow is held while others run.
    unsafe {
        let met = callbacks::with(w, |timed, cta, w| {
            let all = w.c.cluster_size * cta.threads.div_ceil(32);
            let cluster = cta.cluster.clone();
            let mut meeting = cluster.meeting.borrow_mut();
            meeting.last = meeting.last.max(w.c.now);
            meeting.arrived += 1;
            if meeting.arrived < all {
                w.wait = Wait::Cluster;
                meeting.waiting.push(w.waiter());
                return false;
            }
            let end = meeting.last + timed.rates.cluster;
            for who in std::mem::take(&mut *meeting).waiting {
                timed.wake(who, end);
            }
            w.c.now = end;
            true
        });
        if !met {
            callbacks::park(w);
        }
    }
}
