//! What the C++ side calls (`csrc/machine/timed/calls.h`). Each runs on the calling warp's stack; each first gives way to
//! whoever is earlier, so that units are asked in the order of time.
//!
//! A callback borrows the clock, the CTA and the warp, which are three separate allocations, does its work, drops the
//! borrows, and only then gives way.

use std::ffi::{CStr, c_char};

use super::self_c::WarpC;
use super::warp::{Cta, Warp};
use super::{Timed, bulk, cluster, mbarrier};
use crate::abi::TwTensorMap;

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
pub(super) unsafe fn turn(w: *mut Warp) {
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
pub(super) unsafe fn enter(c: *mut WarpC) -> *mut Warp {
    let w = c.cast::<Warp>();
    // SAFETY: `WarpC` is the first field of its warp.
    unsafe {
        turn(w);
        (*w).polling = None;
    }
    w
}

/// # Safety
/// Of this and all that follow: called by kernels of the timed machine, on the running warp's stack.
#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_turn(c: *mut WarpC) {
    // SAFETY: passed on.
    unsafe { turn(c.cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_noted(c: *mut WarpC, what: u64) {
    // SAFETY: passed on.
    unsafe {
        with(c.cast(), |timed, _, w| {
            if let Some(script) = &mut timed.script {
                script.asked(w.name(), what);
            }
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn tw_timed_looked(c: *mut WarpC, ns: u64) {
    // SAFETY: passed on.
    unsafe {
        with(c.cast(), |timed, _, w| {
            if let Some(script) = &mut timed.script {
                script.looked(w.name(), ns);
            }
        })
    }
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
    // SAFETY: passed on.
    unsafe {
        with(enter(c), |timed, cta, w| {
            timed.store(cta, w, addr, bytes);
            timed.words.write(addr, value, bytes as usize);
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
