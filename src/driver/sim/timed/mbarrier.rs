//! mbarriers. When bytes of a bulk copy arrive is known as soon as it is issued, so a phase's end is known when its last
//! arrival or copy has been issued, perhaps before it has come: whoever waits goes on at that time.

use super::warp::{Cta, Wait, Warp};
use super::words::Waiter;
use super::{Timed, callbacks};

#[derive(Debug, Default)]
pub(super) struct Mbarrier {
    count: u32,
    pending: u32,
    bytes: i64,
    /// The latest arrival or byte of the running phase.
    last: u64,
    /// Phases that are over, and when the last of each parity ended.
    phases: u64,
    ended: [u64; 2],
    waiting: Vec<(Waiter, u32)>,
}

impl Mbarrier {
    pub fn new(count: u32) -> Mbarrier {
        Mbarrier {
            count,
            pending: count,
            ..Mbarrier::default()
        }
    }

    /// Whether the phase of a parity is over, and since when: 0 is the first phase's.
    fn over(&self, parity: u32) -> Option<u64> {
        (self.phases & 1 != u64::from(parity)).then(|| self.ended[parity as usize])
    }

    fn step(&mut self, arrivals: u32, bytes: i64, at: u64) -> Vec<(Waiter, u64)> {
        self.pending = self.pending.saturating_sub(arrivals);
        self.bytes += bytes;
        self.last = self.last.max(at);
        let mut woken = Vec::new();
        if self.pending == 0 && self.bytes == 0 {
            let parity = self.phases & 1;
            self.ended[parity as usize] = self.last;
            self.phases += 1;
            self.pending = self.count;
            let end = self.last;
            self.last = 0;
            self.waiting.retain(|(who, wanted)| {
                let done = u64::from(*wanted) == parity;
                if done {
                    woken.push((*who, end));
                }
                !done
            });
        }
        woken
    }
}

impl Cta {
    pub(super) fn mbarrier_init(&mut self, bar: u32, count: u32) {
        let at = self.mbarriers.partition_point(|(addr, _)| *addr < bar);
        if self.mbarriers.get(at).is_some_and(|(addr, _)| *addr == bar) {
            self.mbarriers[at].1 = Mbarrier::new(count);
        } else {
            self.mbarriers.insert(at, (bar, Mbarrier::new(count)));
        }
    }

    fn mbarrier(&mut self, bar: u32) -> Option<&mut Mbarrier> {
        let first = self.mbarriers.first()?.0;
        let near = (bar.wrapping_sub(first) / 8) as usize;
        let at = match self.mbarriers.get(near) {
            Some((addr, _)) if *addr == bar => near,
            _ => self.mbarriers.binary_search_by_key(&bar, |(addr, _)| *addr).ok()?,
        };
        Some(&mut self.mbarriers[at].1)
    }
}

impl Timed {
    /// `arrivals` and, if any, bytes expected (positive) or come (negative), at a time.
    pub(super) fn mbarrier(&mut self, cta: &mut Cta, bar: u32, arrivals: u32, bytes: i64, at: u64) {
        let Some(mbarrier) = cta.mbarrier(bar) else {
            self.trouble
                .get_or_insert_with(|| format!("no mbarrier was initialised at {bar:#x} of shared memory"));
            return;
        };
        for (who, end) in mbarrier.step(arrivals, bytes, at) {
            self.wake(who, end + self.rates.mbarrier);
        }
    }
}

/// Waits for the phase of a parity.
///
/// # Safety
/// As [`callbacks::with`].
pub(super) unsafe fn wait(w: *mut Warp, bar: u32, parity: u32) {
    // SAFETY: passed on; no borrow is held while others run.
    unsafe {
        let parks = callbacks::with(w, |timed, cta, w| {
            let Some(mbarrier) = cta.mbarrier(bar) else {
                timed
                    .trouble
                    .get_or_insert_with(|| format!("no mbarrier was initialised at {bar:#x} of shared memory"));
                return true;
            };
            match mbarrier.over(parity) {
                Some(end) if end > w.c.now => {
                    w.c.now = end + timed.rates.mbarrier;
                    false
                }
                Some(_) => false,
                None => {
                    w.wait = Wait::Mbarrier { bar, parity };
                    mbarrier.waiting.push((w.waiter(), parity));
                    true
                }
            }
        });
        if parks {
            callbacks::park(w);
        }
    }
}
