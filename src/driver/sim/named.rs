//! Barriers 1 to 15 of a CTA, at which some of its warps meet.

use std::rc::Rc;

use super::clock::{View, join, raise};
use super::cta::{Barrier, Cta};
use super::fiber::Wait;
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::CLOCK_ONE;

#[derive(Debug, Default)]
pub(super) struct Named {
    state: Barrier,
    /// Threads that are awaited in all.
    awaited: u32,
    here: Vec<u16>,
}

/// What a thread brings to a barrier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub id: u32,
    pub threads: u32,
    /// 0 plain, 1 or, 2 and.
    pub vote: u32,
    pub mine: bool,
    pub site: u32,
}

impl Cta {
    /// Some threads meet: each knows what any of them did or knew on arrival.
    ///
    /// # Safety
    /// `here` are threads of the CTA, all of them arrived; no reference to any of its fibers is live.
    pub unsafe fn join_some(&mut self, here: &[u16]) {
        let mut view: Option<View> = None;
        let mut last: Option<Rc<View>> = None;
        for &thread in here {
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(u32::from(thread)) };
            let known = f.view.take().unwrap_or_else(|| self.view.clone());
            if last.as_ref().is_some_and(|l| Rc::ptr_eq(l, &known)) {
                continue;
            }
            match &mut view {
                None => view = Some((*known).clone()),
                Some(view) => {
                    raise(&mut view.own, &known.own);
                    join(&mut view.others, &known.others, &mut Vec::new());
                }
            }
            last = Some(known);
        }
        let Some(mut view) = view else { return };
        for &thread in here {
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(u32::from(thread)) };
            view.own[2 * usize::from(thread)] = f.clock();
            view.own[2 * usize::from(thread) + 1] = f.me.async_known;
            f.me.write_tag += CLOCK_ONE;
        }
        let view = Rc::new(view);
        for &thread in here {
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(u32::from(thread)) };
            f.me.row = view.own.as_ptr();
            f.view = Some(view.clone());
        }
    }
}

impl Machine {
    /// Arrival at a named barrier; true if the fiber must wait.
    pub fn named_barrier(&mut self, cta: &mut Cta, thread: u32, call: Call) -> Result<bool, Trouble> {
        let Call { id, site, .. } = call;
        // SAFETY: the running fiber; every other one is suspended, and one is borrowed at a time.
        let f = unsafe { cta.fiber(thread) };
        if self.faults.ignores(site) {
            f.result = u32::from(call.mine);
            return Ok(false);
        }
        if !(1..16).contains(&id) || call.threads == 0 || !call.threads.is_multiple_of(32) || call.threads > cta.threads
        {
            return Err(Trouble::BadBarrier {
                id,
                threads: call.threads,
            });
        }
        f.tick_room()?;
        let warp = &cta.warps[f.warp()];
        if warp.arrived != 0 {
            return Err(Trouble::WarpSplit { op: warp.op, site });
        }
        let b = &mut cta.units.named[id as usize];
        if b.here.is_empty() {
            b.awaited = call.threads;
            b.state = Barrier {
                arrived: 0,
                site,
                vote: call.vote,
                any: false,
                all: true,
            };
        } else if b.awaited != call.threads {
            return Err(Trouble::BarrierThreads {
                id,
                first: b.awaited,
                second: call.threads,
            });
        } else if (b.state.site, b.state.vote) != (site, call.vote) {
            return Err(Trouble::BarrierSites {
                first: b.state.site,
                second: site,
            });
        }
        b.here.push(thread as u16);
        b.state.any |= call.mine;
        b.state.all &= call.mine;
        if (b.here.len() as u32) < b.awaited {
            f.wait = Wait::Named { id, site };
            return Ok(true);
        }
        let result = u32::from(if call.vote == 2 { b.state.all } else { b.state.any });
        let mut here = std::mem::take(&mut b.here);
        here.sort_unstable();
        if let Some(part) = here.chunks(32).find(|w| w[0] % 32 != 0 || w[31] != w[0] + 31) {
            return Err(Trouble::BarrierPartWarp {
                id,
                site,
                warp: u32::from(part[0]) / 32,
            });
        }
        self.fruitless = 0;
        // SAFETY: the threads have arrived, and one is borrowed at a time.
        unsafe {
            cta.join_some(&here);
            for &i in &here {
                let other = cta.fiber(u32::from(i));
                other.result = result;
                if u32::from(i) != thread {
                    cta.wake(other);
                }
            }
        }
        // The last to arrive goes on at once, or queues up behind the others.
        let queue = self.rng.next() & 1 == 0;
        if queue {
            cta.ready.push_back(thread as u16);
        }
        self.activate(cta);
        Ok(queue)
    }
}
