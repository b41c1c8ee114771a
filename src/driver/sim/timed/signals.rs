//! What kernels decide by: polls and words between CTAs and ranks, counters, packets, pauses.

use super::Timed;
use super::access::NO_PAYLOAD;
use super::callbacks::{enter, park, turn, with};
use super::gpu;
use super::rates::NAP;
use super::self_c::WarpC;
use super::warp::{Cta, Wait, Warp};

/// The part of a packet's half that kernels decide by.
const TAG: u64 = 0xffff_ffff_0000_0000;

impl Timed {
    /// One word to a rank's memory, which can be seen there after a latency.
    fn word(&mut self, cta: &mut Cta, w: &mut Warp, addr: u64, value: u64, release: bool) {
        if release {
            let from = w.c.now.max(cta.written);
            // One fence is all lanes' that release together, and whoever's comes meanwhile.
            if cta.sent > cta.fence.start {
                cta.fence = from..from + self.rates.fence;
            }
            w.c.now = from.max(cta.fence.end);
        }
        let (owner, line) = (self.owner(addr, cta.gpu), self.place(addr));
        let there = if owner == cta.gpu {
            w.c.now + self.rates.l2_latency / 2
        } else {
            self.traffic[cta.gpu].1 += 1;
            let way = (cta.gpu, cta.sm, owner);
            gpu::store_to(&mut self.gpus, &self.rates, way, (w.c.now, line, 32)).1
        };
        for who in self.words.send(addr, value, there) {
            self.wake(who, there + NAP / 2);
        }
    }

    /// A round trip to a word: relaxed polls in a row are under way together.
    fn poll(&mut self, cta: &Cta, w: &mut Warp, began: Option<u64>, addr: u64) -> u64 {
        let from = began.unwrap_or(w.c.now);
        let far = self.owner(addr, cta.gpu) != cta.gpu;
        let trip = if far {
            2 * self.rates.link_latency
        } else {
            self.rates.l2_latency
        };
        let (seen, since) = self.words.seen(addr, from + trip / 2);
        w.c.now = w.c.now.max(from + trip);
        w.polling = Some(from);
        if since > from + trip / 2 {
            w.c.now = w.c.now.max(since + trip / 2);
            w.polling = None;
        }
        w.polled.push((addr, seen));
        seen
    }

    /// Who computes behind this comes to counters in the same order.
    fn comes_to_counter(&mut self, w: &Warp, addr: u64) {
        if let Some(script) = &mut self.script {
            script.counted(addr, w.name());
        }
    }

    /// A word of this GPU's, changed in place; the change is there at once, what it was a round trip later.
    fn atomic(&mut self, cta: &Cta, w: &mut Warp, addr: u64, fetch: bool) {
        let far = self.owner(addr, cta.gpu) != cta.gpu;
        if fetch {
            w.c.now += if far { self.rates.atomic } else { self.rates.l2_latency };
        }
    }
}

/// # Safety
/// Of this and all that follow: called by kernels of the timed machine, on the running warp's stack.
#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_poll(c: *mut WarpC, addr: u64, acquire: u32) -> u64 {
    let w = c.cast::<Warp>();
    // SAFETY: passed on; the borrow of the warp ends with its statement.
    unsafe {
        turn(w);
        with(w, |timed, cta, w| {
            // What is acquired is looked at after what was seen before.
            let began = w.polling.take().filter(|_| acquire == 0);
            timed.poll(cta, w, began, addr)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_word(c: *mut WarpC, addr: u64, value: u64, release: u32) {
    // SAFETY: passed on.
    unsafe { with(enter(c), |timed, cta, w| timed.word(cta, w, addr, value, release != 0)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_atomic_add(c: *mut WarpC, addr: u64, value: u32) -> u32 {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            // Of release and acquire: what the CTA stored is there before.
            w.c.now = w.c.now.max(cta.written);
            timed.atomic(cta, w, addr, true);
            timed.comes_to_counter(w, addr);
            let old = timed.words.read(addr, 4) as u32;
            timed.words.write(addr, old.wrapping_add(value).into(), 4);
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_atomic_cas(c: *mut WarpC, addr: u64, want: u32, put: u32) -> u32 {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.atomic(cta, w, addr, true);
            timed.comes_to_counter(w, addr);
            let old = timed.words.read(addr, 4) as u32;
            if old == want {
                timed.words.write(addr, put.into(), 4);
            }
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_add(c: *mut WarpC, addr: u64, value: u64, fetch: u32) -> u64 {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.atomic(cta, w, addr, fetch != 0);
            let old = timed.words.read(addr, 8);
            timed
                .words
                .write(addr, old.wrapping_add(value * u64::from(w.c.lanes)), 8);
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_max(c: *mut WarpC, addr: u64, value: u64) {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, _, _| {
            let old = timed.words.read(addr, 8);
            timed.words.write(addr, old.max(value), 8);
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_pause(c: *mut WarpC, until_ns: u64) {
    let w = enter_pause(c);
    // SAFETY: passed on; no borrow is held while others run.
    unsafe {
        let parks = with(w, |timed, _, w| {
            let polled = std::mem::take(&mut w.polled);
            // Others may have looked later, and found more.
            let next = polled
                .iter()
                .filter_map(|(addr, seen)| timed.words.next(*addr, *seen))
                .min();
            if let Some(next) = next {
                w.c.now = w.c.now.max(next + NAP / 2);
                return false;
            }
            let until = until_ns.saturating_mul(1000);
            if polled.is_empty() || until <= w.c.now {
                w.c.now += NAP;
                return false;
            }
            w.wait = Wait::Word(until);
            for (addr, _) in polled {
                timed.words.watch(addr, w.waiter());
            }
            timed.turn_at(until, w.waiter());
            true
        });
        if parks {
            park(w);
        }
    }
}

/// As [`enter`], but what was polled stays known.
fn enter_pause(c: *mut WarpC) -> *mut Warp {
    // SAFETY: the running warp's.
    unsafe { enter(c) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_load_packet(c: *mut WarpC, addr: u64, to: *mut u32) {
    let w = c.cast::<Warp>();
    // SAFETY: passed on; the kernel's own four words.
    unsafe {
        turn(w);
        with(w, |timed, cta, w| {
            let began = w.polling.take();
            let first = timed.poll(cta, w, began, addr);
            let began = w.polling.take();
            let second = timed.poll(cta, w, began, addr + 8);
            // Of each half the tag; its data is no load's number here.
            to.cast::<u64>().write_unaligned(first & TAG);
            to.cast::<u64>().add(1).write_unaligned(second & TAG);
            let bytes = 16 * u64::from(w.c.lanes);
            let line = timed.place(addr);
            let there = timed.gpus[cta.gpu].load(&timed.rates, cta.sm, w.c.now, line, bytes);
            w.c.now = w.c.now.max(there.saturating_sub(timed.rates.l2_latency));
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_store_packet(c: *mut WarpC, addr: u64, from: *const u32) {
    // SAFETY: passed on; the kernel's own four words.
    unsafe {
        let halves = [
            from.cast::<u64>().read_unaligned(),
            from.cast::<u64>().add(1).read_unaligned(),
        ];
        with(enter(c), |timed, cta, w| {
            let there = if timed.owner(addr, cta.gpu) == cta.gpu {
                timed.store(cta, w, addr, 16) - timed.rates.l2_latency / 2
            } else {
                if w.c.payload == NO_PAYLOAD {
                    w.c.payload = 8;
                }
                timed.store(cta, w, addr, 16)
            };
            for (i, half) in halves.into_iter().enumerate() {
                for who in timed.words.send(addr + 8 * i as u64, half, there) {
                    timed.wake(who, there + NAP / 2);
                }
            }
        });
    }
}
