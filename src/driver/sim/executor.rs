//! The run loop: bursts of one CTA's threads, and between them what happens by itself: streams, deliveries, deadlines.
//!
//! Everything here runs on the node's one thread, and no reference into the machine is held while a fiber runs: each
//! step below borrows it anew through the pointer.

use std::sync::atomic::{AtomicBool, Ordering};

use corosensei::CoroutineResult;

use super::cta::Cta;
use super::fiber::{Fiber, SelfC, Wait};
use super::foreign::Rest;
use super::machine::Machine;
use super::product::THREADS;
use super::report::{self, Trouble};
use super::timed::{self, Stepped};
use super::warpgroup::Warpgroup;

/// Why the node stopped advancing.
pub(super) enum Stop {
    /// What a blocked caller waits for has happened.
    Satisfied,
    /// Somebody has a question.
    Attention,
    /// No kernel runs on a linked node, and no stream can go on: until a caller does something.
    Quiet,
    /// The machine found a fault, or nothing can ever run again. The report.
    Fault(String),
}

/// Turns given away by polling threads, with nothing else happening, after which they are called stuck.
const FRUITLESS: u64 = 20_000_000;

/// Advances the node.
///
/// # Safety
/// `m` is live and nobody else uses it; `self_slot` is this thread's `tw_self`.
pub(super) unsafe fn advance(m: *mut Machine, self_slot: *mut *mut SelfC, attention: &AtomicBool) -> Stop {
    loop {
        let clock_runs = {
            // SAFETY: no fiber is running.
            let m = unsafe { &mut *m };
            if attention.load(Ordering::Relaxed) {
                return Stop::Attention;
            }
            if m.streams_stir {
                match m.step_streams() {
                    Ok(moved) => m.streams_stir = moved,
                    Err(trouble) => return Stop::Fault(report::stream_trouble(m, trouble)),
                }
            }
            if m.satisfied {
                return Stop::Satisfied;
            }
            if m.timed.is_some() && m.streams_stir {
                continue;
            }
            m.clock_runs()
        };
        if clock_runs {
            // SAFETY: no fiber is running.
            match unsafe { timed::step(m) } {
                Stepped::Ran => continue,
                // SAFETY: no fiber is running.
                Stepped::Waits => return Stop::Fault(timed::stuck(unsafe { &*m })),
                Stepped::Trouble(report) => return Stop::Fault(report),
            }
        }
        // SAFETY: no fiber is running; the borrow ends with the statement.
        unsafe { (*m).by_itself() };
        // SAFETY: as above; the borrow ends with the statement.
        let picked = unsafe { (*m).pick_cta() };
        match picked {
            // SAFETY: active CTAs are live.
            Some(cta) => unsafe { burst(m, cta, self_slot) },
            None => {
                // SAFETY: no fiber is running.
                let m = unsafe { &mut *m };
                if !m.streams_stir && !m.idle() {
                    if !m.linked() {
                        return Stop::Fault(report::deadlock(m, "nothing can run any more"));
                    }
                    match m.rest() {
                        Rest::Rested => {}
                        Rest::Quiet => return Stop::Quiet,
                        Rest::Stuck(why) => return Stop::Fault(report::deadlock(m, &why)),
                    }
                }
            }
        }
        // SAFETY: no fiber is running.
        let m = unsafe { &mut *m };
        if let Some((trouble, fiber)) = m.trouble.take() {
            return Stop::Fault(report::fiber_trouble(m, trouble, fiber));
        }
        if m.spins() {
            if let Rest::Stuck(why) = m.rest() {
                return Stop::Fault(report::deadlock(m, &why));
            }
        } else if m.fruitless > FRUITLESS {
            return Stop::Fault(report::deadlock(m, "threads poll and poll, and nothing else happens"));
        }
    }
}

/// Runs a few of one CTA's ready threads, one after another.
///
/// # Safety
/// As [`advance`]; `cta` is live.
unsafe fn burst(m: *mut Machine, cta: *mut Cta, self_slot: *mut *mut SelfC) {
    // SAFETY: no fiber is running; the borrow ends with the statement.
    let turns = unsafe { (*m).burst_of(&*cta) };
    for _ in 0..turns {
        // SAFETY: no fiber is running.
        let Some(thread) = (unsafe { (*m).next_thread(&mut *cta) }) else {
            break;
        };
        // SAFETY: the fiber and its coroutine live as long as their CTA, which outlives this turn. The reference to the
        // coroutine is the only one: callbacks use the fiber, never its coroutine.
        let (f, result) = unsafe {
            let f = (*cta).fibers.add(thread as usize);
            *self_slot = &raw mut (*f).me;
            (*f).me.guarded = u32::from((*m).guarded);
            let result = match &mut *(*cta).coroutines.add(thread as usize) {
                Some(co) => co.resume(()),
                None => CoroutineResult::Return(()),
            };
            (f, result)
        };
        // SAFETY: the fiber is suspended or done.
        let m = unsafe { &mut *m };
        if m.trouble.is_some() {
            return;
        }
        if !m.stirred.is_empty() {
            m.wake_stirred();
        }
        if let CoroutineResult::Return(()) = result {
            // SAFETY: the fiber is done; its CTA is live.
            let over = unsafe { m.fiber_left(&mut *cta, &mut *f) };
            match over {
                Err(trouble) => {
                    m.trouble = Some((trouble, f));
                    return;
                }
                Ok(true) => {
                    // SAFETY: all its fibers are done, and `f` is not used while the reference lives.
                    if let Err(trouble) = m.check_units_over(unsafe { &*cta }) {
                        m.trouble = Some((trouble, f));
                        return;
                    }
                    m.end_cta(cta);
                    return;
                }
                Ok(false) => {}
            }
        }
    }
    // SAFETY: no fiber is running, and the CTA was not ended above.
    let (m, cta) = unsafe { (&mut *m, &mut *cta) };
    if cta.ready.is_empty() {
        m.deactivate(cta);
    }
}

impl Machine {
    /// What a CTA whose threads have all left may not leave behind.
    fn check_units_over(&self, cta: &Cta) -> Result<(), Trouble> {
        self.check_loads_over(cta)?;
        Self::check_loads_waited(cta)
    }

    /// A thread has returned from its kernel. True if it was the CTA's last.
    fn fiber_left(&mut self, cta: &mut Cta, f: &mut Fiber) -> Result<bool, Trouble> {
        f.wait = Wait::Exited;
        cta.exited += 1;
        self.fruitless = 0;
        let warp = &mut cta.warps[f.warp()];
        warp.exited |= 1 << f.lane();
        if warp.arrived != 0 {
            return Err(Trouble::WarpLeft { op: warp.op });
        }
        if let Some(op) = cta
            .warpgroups
            .get(f.me.thread as usize / THREADS)
            .and_then(Warpgroup::half_arrived)
        {
            return Err(Trouble::WarpLeft { op });
        }
        if cta.barrier.arrived != 0 {
            return Err(Trouble::BarrierLeft { site: cta.barrier.site });
        }
        if let Some(site) = cta.units.cluster.waits_at() {
            return Err(Trouble::ClusterLeft { site });
        }
        if !self.slab.intact(f.stack_slot) {
            return Err(Trouble::StackOverflow);
        }
        Self::wgmma_left(cta, f)?;
        self.run_copies(f, 0)?;
        self.bulk_left(cta, f)?;
        self.followed(cta, f)?;
        Ok(cta.exited == cta.threads)
    }
}
