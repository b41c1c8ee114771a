//! What the C++ side calls (`csrc/machine/timed/calls.h`). Each runs on the calling warp's stack; each first gives way to
//! whoever is earlier, so that units are asked in the order of time.
//!
//! A callback borrows the clock, the CTA and the warp, which are three separate allocations, does its work, drops the
//! borrows, and only then gives way.

use std::ffi::{CStr, c_char};

use super::gpu::{self, Line};
use super::rates::NAP;
use super::self_c::{FIRST_LOAD, LOADS, WarpC};
use super::warp::{Cta, Wait, Warp};
use super::{Timed, bulk, cluster, mbarrier};
use crate::abi::TwTensorMap;

const NO_PAYLOAD: u32 = u32::MAX;
/// The part of a packet's half that kernels decide by.
const TAG: u64 = 0xffff_ffff_0000_0000;

/// Runs `body` with the three borrows.
///
/// # Safety
/// `w` is the running warp; nobody else holds a reference to the clock, the CTA or the warp.
pub(super) unsafe fn with<T>(w: *mut Warp, body: impl FnOnce(&mut Timed, &mut Cta, &mut Warp) -> T) -> T {
    // SAFETY: warp, CTA and clock are live and distinct. The run loop's own borrows ended before it resumed this fiber.
    unsafe {
        let cta = (*w).cta;
        body(&mut *(*cta).timed, &mut *cta, &mut *w)
    }
}

/// Gives way until somebody resumes this warp.
///
/// # Safety
/// `w` is the running warp, and no borrow is held.
pub(super) unsafe fn park(w: *mut Warp) {
    // SAFETY: the yielder lives at the root of the fiber's stack, which is live while code runs on it.
    unsafe { (*(*w).yielder).suspend(()) }
}

/// Lets earlier warps go first.
///
/// # Safety
/// As [`park`].
unsafe fn turn(w: *mut Warp) {
    // SAFETY: passed on. The horizon is the clock's own word, and outlives every warp.
    unsafe {
        if (*w).c.now > *(*w).c.horizon {
            with(w, |timed, _, w| timed.turn_at(w.c.now, w.waiter()));
            park(w);
        }
    }
}

/// The running warp, whose turn it is now.
///
/// # Safety
/// `c` is the running warp's.
unsafe fn enter(c: *mut WarpC) -> *mut Warp {
    let w = c.cast::<Warp>();
    // SAFETY: `WarpC` is the first field of its warp.
    unsafe {
        turn(w);
        (*w).polling = None;
    }
    w
}

impl Timed {
    /// The device whose memory an address is; of the host's, and of none, the asking one.
    pub fn owner(&self, addr: u64, own: usize) -> usize {
        self.arena.layout.device_of(addr).unwrap_or(own)
    }

    /// Where a contiguous access begins, whatever addresses the system gave.
    pub(super) fn place(&self, addr: u64) -> Line {
        Line::of(addr.wrapping_sub(self.arena.layout.base))
    }

    /// The same of rows of 128 bytes.
    pub(super) fn place_of_rows(&self, addr: u64) -> Line {
        Line::of_rows(addr.wrapping_sub(self.arena.layout.base))
    }

    /// What of an access to a peer is payload.
    fn sent(&mut self, w: &mut Warp, device: usize, bytes: u32) {
        let payload = std::mem::replace(&mut w.c.payload, NO_PAYLOAD).min(bytes);
        self.traffic[device].0 += u64::from(payload) * u64::from(w.c.lanes);
    }

    /// Room for a load: one so far back has been waited for.
    fn room_to_load(w: &mut Warp) {
        w.c.now = w.c.now.max(w.c.ready[w.c.loads.wrapping_add(1) as usize % LOADS]);
    }

    /// A number for a load whose data is there at `at`.
    fn loaded(w: &mut Warp, at: u64) -> u32 {
        w.c.loads = w.c.loads.wrapping_add(1);
        w.c.ready[w.c.loads as usize % LOADS] = at;
        w.c.loads.wrapping_add(FIRST_LOAD)
    }

    fn load(&mut self, cta: &Cta, w: &mut Warp, addr: u64, line: Line, bytes: u32) -> u64 {
        let owner = self.owner(addr, cta.gpu);
        let all = u64::from(bytes) * u64::from(w.c.lanes);
        if owner == cta.gpu {
            w.c.payload = NO_PAYLOAD;
            return self.gpus[owner].load(&self.rates, cta.sm, w.c.now, line, all);
        }
        self.sent(w, owner, bytes);
        gpu::load_from(
            &mut self.gpus,
            &self.rates,
            (cta.gpu, cta.sm, owner),
            (w.c.now, line, all),
        )
    }

    /// A store; when it is there.
    fn store(&mut self, cta: &mut Cta, w: &mut Warp, addr: u64, bytes: u32) -> u64 {
        let (owner, line) = (self.owner(addr, cta.gpu), self.place(addr));
        let all = u64::from(bytes) * u64::from(w.c.lanes);
        if owner == cta.gpu {
            w.c.payload = NO_PAYLOAD;
            let (read, written) = self.gpus[owner].store(&self.rates, cta.sm, w.c.now, line, all);
            w.c.now = w.c.now.max(read.saturating_sub(self.rates.l2_latency));
            cta.written = cta.written.max(written);
            return written;
        }
        self.sent(w, cta.gpu, bytes);
        let way = (cta.gpu, cta.sm, owner);
        let (left, there, known) = gpu::store_to(&mut self.gpus, &self.rates, way, (w.c.now, line, all));
        // Stores are posted, as far as there is room for them.
        w.c.now = w.c.now.max(left.saturating_sub(self.rates.posted));
        cta.written = cta.written.max(known);
        there
    }

    /// One word to a rank's memory, which can be seen there after a latency.
    fn word(&mut self, cta: &mut Cta, w: &mut Warp, addr: u64, value: u64, release: bool) {
        if release {
            w.c.now = w.c.now.max(cta.written) + self.rates.fence;
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
unsafe extern "C" fn tw_timed_turn(c: *mut WarpC) {
    // SAFETY: passed on.
    unsafe { turn(c.cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_load(c: *mut WarpC, addr: u64, bytes: u32) -> u32 {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            Timed::room_to_load(w);
            let line = timed.place(addr);
            let at = timed.load(cta, w, addr, line, bytes);
            Timed::loaded(w, at)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_store(c: *mut WarpC, addr: u64, bytes: u32) {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.store(cta, w, addr, bytes);
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_put(c: *mut WarpC, addr: u64, value: u64, bytes: u32) {
    // SAFETY: passed on; a kernel stores to what it may store to, `bytes` at a multiple of them.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.store(cta, w, addr, bytes);
            std::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), addr as *mut u8, bytes as usize);
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_copy_async(c: *mut WarpC, from: u64, bytes: u32) {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            let line = timed.place_of_rows(from);
            let at = timed.load(cta, w, from, line, bytes);
            w.c.async_ready = w.c.async_ready.max(at);
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_barrier(c: *mut WarpC, id: u32, threads: u32, vote: u32, mine: u32) -> u32 {
    // SAFETY: passed on.
    unsafe { cluster::barrier(enter(c), id, threads, vote, mine != 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_cluster_sync(c: *mut WarpC) {
    // SAFETY: passed on.
    unsafe { cluster::cluster_sync(enter(c)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_mbar_init(c: *mut WarpC, bar: u32, count: u32) {
    // SAFETY: passed on.
    unsafe { with(enter(c), |_, cta, _| cta.mbarrier_init(bar, count)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_mbar_arrive(c: *mut WarpC, bar: u32, rank: u32, bytes: u32) {
    // SAFETY: passed on. Another CTA of the cluster is another allocation, and lives until the cluster's last barrier.
    unsafe {
        with(enter(c), |timed, cta, w| {
            let (at, lanes) = (w.c.now, w.c.lanes);
            if rank == u32::MAX || rank == w.c.cluster_rank {
                timed.mbarrier(cta, bar, lanes, i64::from(bytes), at);
                return;
            }
            let other = cta.cluster.members.borrow().get(rank as usize).copied();
            if let Some(other) = other {
                let at = at + timed.rates.cluster;
                timed.mbarrier(&mut *other, bar, lanes, 0, at);
            }
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_mbar_wait(c: *mut WarpC, bar: u32, parity: u32) {
    // SAFETY: passed on.
    unsafe { mbarrier::wait(enter(c), bar, parity) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_tma_load(
    c: *mut WarpC,
    map: *const TwTensorMap,
    at: *const u32,
    rank: u32,
    bar: u32,
    ctas: u32,
) {
    // SAFETY: passed on; the kernel's own map and four coordinates.
    unsafe {
        let at = &*at.cast::<[u32; 4]>();
        bulk::tma_load(enter(c), &*map, at, rank, bar, ctas)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_tma_store(c: *mut WarpC, map: *const TwTensorMap, at: *const u32) {
    // SAFETY: passed on; as above.
    unsafe { bulk::tma_store(enter(c), &*map, &*at.cast::<[u32; 4]>()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_bulk_store(c: *mut WarpC, to: u64, bytes: u32) {
    // SAFETY: passed on.
    unsafe { bulk::store(enter(c), to, bytes) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_bulk_commit(c: *mut WarpC) {
    // SAFETY: passed on.
    unsafe { with(c.cast(), |_, _, w| w.groups.push_back(std::mem::take(&mut w.open))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_bulk_wait(c: *mut WarpC, open: u32, read: u32) {
    // SAFETY: passed on.
    unsafe { with(enter(c), |_, _, w| bulk::wait(w, open as usize, read != 0)) }
}

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
    // SAFETY: passed on; a kernel's own counter, which nobody else touches while this fiber runs.
    unsafe {
        with(enter(c), |timed, cta, w| {
            // Of release and acquire: what the CTA stored is there before.
            w.c.now = w.c.now.max(cta.written);
            timed.atomic(cta, w, addr, true);
            let at = addr as *mut u32;
            let old = *at;
            *at = old.wrapping_add(value);
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_atomic_cas(c: *mut WarpC, addr: u64, want: u32, put: u32) -> u32 {
    // SAFETY: as above.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.atomic(cta, w, addr, true);
            let at = addr as *mut u32;
            let old = *at;
            if old == want {
                *at = put;
            }
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_add(c: *mut WarpC, addr: u64, value: u64, fetch: u32) -> u64 {
    // SAFETY: as above.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.atomic(cta, w, addr, fetch != 0);
            let at = addr as *mut u64;
            let old = *at;
            *at = old.wrapping_add(value * u64::from(w.c.lanes));
            old
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_max(c: *mut WarpC, addr: u64, value: u64) {
    // SAFETY: as above.
    unsafe {
        with(enter(c), |_, _, _| {
            *(addr as *mut u64) = (*(addr as *const u64)).max(value)
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

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_multicast_load(c: *mut WarpC, addr: u64) -> u32 {
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            Timed::room_to_load(w);
            bulk::multicast_load(timed, cta, w, addr).map_or(0, |at| Timed::loaded(w, at))
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_multicast_store(c: *mut WarpC, addr: u64) {
    // SAFETY: passed on.
    unsafe { with(enter(c), |timed, cta, w| bulk::multicast_store(timed, cta, w, addr)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_not_elected(c: *mut WarpC, what: *const c_char) {
    let w = c.cast::<Warp>();
    // SAFETY: passed on; a literal of the C++ side's.
    unsafe {
        let what = CStr::from_ptr(what).to_string_lossy();
        with(w, |timed, _, w| {
            timed.trouble = Some(format!(
                "{what} by all lanes of a warp (block {}, thread {}): on the clocked node lane 0 stands for them all, so what \
                 each lane does for itself must be said by elect or each_lane",
                w.c.block, w.c.thread
            ));
        });
        drop(what);
        loop {
            park(w);
        }
    }
}
