//! Kernels that compute, behind those on the clock (`docs/clock.md`, "Both"): lane 0 of a warp may ask the machine for what its
//! twin on the clock asked for and nothing else, comes to counters in its twin's order, and is told its twin's time.

use super::callbacks::{callbacks, checked};
use super::cta::Cta;
use super::fiber::{Fiber, SelfC, Wait, suspend};
use super::machine::Machine;
use super::report::Trouble;
use super::timed::{Next, Script, Timed, WarpName};

impl Machine {
    fn script(&mut self) -> Option<&mut Script> {
        self.timed.as_mut()?.script.as_mut()
    }

    fn name(cta: &Cta, f: &Fiber) -> WarpName {
        (cta.kernel, cta.block, f.me.thread / 32)
    }

    fn wait_for_clock(&mut self, cta: &Cta, f: &mut Fiber) {
        f.wait = Wait::Clock;
        self.following.push(Self::id_of_parts(cta, f));
    }

    /// A call of lane 0. False: not asked for on the clock so far.
    fn follow(&mut self, cta: &Cta, f: &mut Fiber, what: u64) -> Result<bool, Trouble> {
        let Some(script) = self.script() else { return Ok(true) };
        let led = match script.next(Self::name(cta, f)) {
            Next::Call(led) if led == what => return Ok(true),
            Next::Call(led) => Some(led),
            Next::Over => None,
            Next::Later => {
                self.wait_for_clock(cta, f);
                return Ok(false);
            }
        };
        let asked = Some(what);
        Err(Trouble::Strays { led, asked })
    }

    /// Whether a thread may come to the counter at `addr` now. If not, it waits.
    pub fn comes_to_counter(&mut self, cta: &Cta, f: &mut Fiber, addr: u64) -> bool {
        let Some(script) = self.script() else { return true };
        let comes = script.turn(addr, Self::name(cta, f));
        if !comes {
            self.wait_for_clock(cta, f);
        }
        comes
    }

    /// Simulated nanoseconds, as a thread is told. None: its twin has not come so far, and it waits.
    pub fn tell_time(&mut self, cta: &Cta, f: &mut Fiber) -> Option<u64> {
        let Some(timed) = &mut self.timed else {
            self.pass_time();
            return Some(self.now);
        };
        let now = timed.now_ns();
        let Some(script) = timed.script.as_mut().filter(|_| f.me.noted != 0) else {
            return Some(now);
        };
        let time = script.time(Self::name(cta, f));
        if time.is_none() {
            self.wait_for_clock(cta, f);
        }
        time
    }

    /// Lets those look again who wait for the clock. Called between turns.
    pub fn wake_followers(&mut self) {
        if !self.script().is_some_and(|script| std::mem::take(&mut script.moved)) {
            return;
        }
        for id in std::mem::take(&mut self.following) {
            let Some(f) = self.find(id) else { continue };
            // SAFETY: live; between turns nobody holds a reference to a fiber.
            let f = unsafe { &mut *f };
            if f.wait == Wait::Clock {
                self.wake(f);
            }
        }
    }

    /// A thread has returned from its kernel: its twin must have asked for no more.
    pub fn followed(&mut self, cta: &Cta, f: &Fiber) -> Result<(), Trouble> {
        if f.me.noted == 0 {
            return Ok(());
        }
        let name = Self::name(cta, f);
        match self.script().and_then(|script| script.left(name)) {
            None => Ok(()),
            led => Err(Trouble::Strays { led, asked: None }),
        }
    }

    /// Kernels run on the clock first. It stands still while one that has ended there is still being computed, so that whatever
    /// comes behind begins when it would have begun without that.
    pub fn clock_runs(&self) -> bool {
        let ended = |timed: &Timed| self.kernels.keys().any(|number| !timed.kernels.contains_key(number));
        self.timed.as_ref().is_some_and(|timed| !ended(timed))
    }
}

callbacks! {
    fn tw_sim_noted(me, what: u64) {
        while !checked(me, |m, cta, f| m.follow(cta, f, what)) {
            suspend(me.cast());
        }
    }
}
