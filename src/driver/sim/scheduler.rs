//! The seeded dice: which CTA runs and for how long, which of its threads, what arrives meanwhile.
//!
//! A CTA is drawn by a small tournament of random priorities, which are drawn anew now and then, and then runs a burst of
//! geometric length: some CTAs race ahead for long, as on a real node some ranks do. A scheduler that picks evenly keeps
//! all ranks in step and finds far fewer faults.

use super::config::{Copies, Pick};
use super::cta::Cta;
use super::machine::Machine;

/// How many CTAs compete for a turn.
const TOURNAMENT: usize = 3;
/// Between two bursts, at most so many stores arrive.
const ARRIVALS: usize = 8;

impl Machine {
    pub fn pick_cta(&mut self) -> Option<*mut Cta> {
        let n = self.active.len();
        let mut best: Option<*mut Cta> = None;
        for _ in 0..TOURNAMENT.min(n) {
            let cta = self.active[self.rng.below(n)];
            // SAFETY: active CTAs are live.
            let (priority, device) = unsafe { ((*cta).priority, usize::from((*cta).device)) };
            if self.devices[device].slowness > 1 && !self.rng.one_in(self.devices[device].slowness) {
                continue;
            }
            // SAFETY: as above.
            if best.is_none_or(|b| unsafe { (*b).priority } < priority) {
                best = Some(cta);
            }
        }
        // A slow device's CTAs get their turn in the end: here, if they alone are ready.
        if best.is_none() && n > 0 {
            best = Some(self.active[self.rng.below(n)]);
        }
        best
    }

    pub fn burst_of(&mut self, cta: &Cta) -> u32 {
        self.bursts += 1;
        if self.bursts.is_multiple_of(u64::from(self.character.redraw)) {
            for i in 0..self.active.len() {
                let priority = self.rng.next() as u32;
                // SAFETY: active CTAs are live; `cta` is only read.
                unsafe { (*self.active[i]).priority = priority };
            }
        }
        let mean = self.character.burst;
        let slow = self.devices[usize::from(cta.device)].slowness;
        self.rng.burst((mean / slow).max(1))
    }

    /// The thread that runs next; none where none is ready, or a queued copy ran into trouble.
    pub fn next_thread(&mut self, cta: &mut Cta) -> Option<u32> {
        let thread = match self.character.pick {
            Pick::Fifo => cta.ready.pop_front(),
            Pick::Lifo => cta.ready.pop_back(),
            Pick::Random if cta.ready.is_empty() => None,
            Pick::Random => {
                let i = self.rng.below(cta.ready.len());
                cta.ready.swap_remove_back(i)
            }
        }?;
        self.now += 1;
        self.digest = (self.digest ^ u64::from(thread) ^ u64::from(cta.slot) << 16).wrapping_mul(0x0000_0100_0000_01b3);
        // SAFETY: the queue holds threads of this CTA.
        let f = unsafe { cta.fiber(u32::from(thread)) };
        f.polls = 0;
        if self.character.copies == Copies::Mixed {
            f.me.async_now = u32::from(self.rng.next() & 1 == 0);
            if f.me.async_queued != 0
                && self.rng.one_in(4)
                && let Err(trouble) = self.run_some_copies(f)
            {
                // SAFETY: a thread of this CTA.
                self.trouble = Some((trouble, unsafe { cta.fibers.add(usize::from(thread)) }));
                return None;
            }
            if !f.bulk.is_empty()
                && self.rng.one_in(4)
                && let Err(trouble) = self.run_some_bulk(cta, f)
            {
                // SAFETY: a thread of this CTA.
                self.trouble = Some((trouble, unsafe { cta.fibers.add(usize::from(thread)) }));
                return None;
            }
        }
        Some(u32::from(thread))
    }

    /// Between two bursts: stores arrive, deadlines pass.
    pub fn by_itself(&mut self) {
        if !self.pending.is_empty() {
            for (signal, one_in) in [
                (true, self.character.signal_one_in),
                (false, self.character.data_one_in),
            ] {
                for _ in 0..ARRIVALS {
                    if !self.rng.one_in(one_in) {
                        break;
                    }
                    let Some(id) = self.pending.any(signal, &mut self.rng) else {
                        break;
                    };
                    self.deliver(id);
                }
            }
        }
        self.progress_loads(false);
        self.glance_outside();
        self.wake_stirred();
        self.wake_followers();
        self.wake_due();
    }

    /// Nothing is ready: a TMA load completes, a signal arrives, or time jumps, which is the node's own. False where none
    /// is left.
    pub fn idle(&mut self) -> bool {
        // Which of the two is later is the dice's business too.
        if !self.loads.is_empty() && (!self.pending.has_signals() || self.rng.next() & 1 == 0) {
            return self.progress_loads(true);
        }
        if self.pending.has_signals()
            && let Some(id) = self.pending.any(true, &mut self.rng)
        {
            self.deliver(id);
            self.wake_stirred();
            return true;
        }
        !self.linked() && self.jump_to_next()
    }
}
