//! What the C++ side calls (`csrc/machine/sim/calls.h`). Each runs on the calling fiber's stack: shallow, no formatting.
//!
//! A callback borrows the machine, the fiber and its CTA, which are three separate allocations, does its work, drops the
//! borrows, and only then gives way. One that finds trouble leaves it with the machine and gives way for good.

use super::cta::Cta;
use super::fiber::{Fiber, MmaOp, SelfC, WarpOp, suspend};
use super::machine::Machine;
use super::report::Trouble;

/// Runs `body` with the three borrows.
///
/// # Safety
/// `me` is the running fiber's; nobody else holds a reference into the machine, the CTA or the fiber.
pub(super) unsafe fn with<T>(me: *mut SelfC, body: impl FnOnce(&mut Machine, &mut Cta, &mut Fiber) -> T) -> T {
    // SAFETY: `SelfC` is the first field of its fiber; fiber, CTA and machine are live and distinct. The executor's own
    // borrows ended before it resumed this fiber.
    unsafe {
        let f = me.cast::<Fiber>();
        let cta = (*f).cta;
        body(&mut *(*cta).machine, &mut *cta, &mut *f)
    }
}

/// As [`with`], for a body that can find trouble: then the call never returns.
///
/// # Safety
/// As [`with`].
pub(super) unsafe fn checked<T>(
    me: *mut SelfC,
    body: impl FnOnce(&mut Machine, &mut Cta, &mut Fiber) -> Result<T, Trouble>,
) -> T {
    // SAFETY: passed on. The borrows have ended when the fiber gives way.
    unsafe {
        match with(me, body) {
            Ok(value) => value,
            Err(trouble) => {
                with(me, |m, _, _| m.trouble = Some((trouble, me.cast())));
                loop {
                    suspend(me.cast());
                }
            }
        }
    }
}

/// As [`checked`], without a borrow of the fiber: for what ends up at all fibers of a warp or a CTA.
///
/// # Safety
/// As [`with`].
pub(super) unsafe fn together<T>(
    me: *mut SelfC,
    body: impl FnOnce(&mut Machine, &mut Cta, u32) -> Result<T, Trouble>,
) -> T {
    // SAFETY: as in `checked`; the fiber is only reached through its CTA.
    unsafe {
        let cta = (*me.cast::<Fiber>()).cta;
        match body(&mut *(*cta).machine, &mut *cta, (*me).thread) {
            Ok(value) => value,
            Err(trouble) => checked(me, |_, _, _| Err(trouble)),
        }
    }
}

/// As [`checked`], without a borrow of fiber or CTA: for what reaches other CTAs, perhaps by way of the own one.
///
/// # Safety
/// As [`with`].
pub(super) unsafe fn apart<T>(
    me: *mut SelfC,
    body: impl FnOnce(&mut Machine, *mut Cta, u32) -> Result<T, Trouble>,
) -> T {
    // SAFETY: as in `checked`; fiber and CTA are only reached through the pointer.
    unsafe {
        let cta = (*me.cast::<Fiber>()).cta;
        match body(&mut *(*cta).machine, cta, (*me).thread) {
            Ok(value) => value,
            Err(trouble) => checked(me, |_, _, _| Err(trouble)),
        }
    }
}

/// Puts the running fiber back into the ready queue and gives way.
///
/// # Safety
/// As [`with`].
unsafe fn give_way(me: *mut SelfC) {
    // SAFETY: passed on.
    unsafe {
        with(me, |m, cta, f| {
            cta.wake(f);
            m.activate(cta);
        });
        suspend(me.cast());
    }
}

/// Declares callbacks: the body is safe Rust given the contract of [`with`], which every caller in `csrc` keeps by
/// passing its own `tw_self`, and pointers to its own locals.
macro_rules! callbacks {
    ($($(#[$doc:meta])* fn $name:ident($me:ident $(, $arg:ident: $t:ty)*) $(-> $r:ty)? $body:block)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($me: *mut SelfC $(, $arg: $t)*) $(-> $r)? {
            // SAFETY: called by the running fiber with its own `tw_self`; pointers are to locals of its C++ frame, of the
            // size that goes with them. Nothing else touches the machine meanwhile.
            unsafe { $body }
        }
    )* };
}
pub(super) use callbacks;

callbacks! {
    fn tw_sim_load(me, addr: u64, to: *mut u8, bytes: u32) {
        checked(me, |m, cta, f| {
            m.check_load(cta, f, addr, u64::from(bytes))?;
            std::ptr::copy_nonoverlapping(addr as *const u8, to, bytes as usize);
            m.cross_from(cta.device.into(), addr, std::slice::from_raw_parts_mut(to, bytes as usize));
            Ok(())
        });
    }

    fn tw_sim_store(me, addr: u64, from: *const u8, bytes: u32) {
        let data = std::slice::from_raw_parts(from, bytes as usize);
        checked(me, |m, cta, f| m.store(cta, f, addr, data));
    }

    fn tw_sim_shared_check(me, addr: u32, bytes: u32, write: u32) {
        checked(me, |_, cta, f| {
            Machine::check_shared(cta, f, addr, bytes, write != 0)?;
            if write != 0 { Machine::store_over(cta, f, addr) } else { Ok(()) }
        });
    }

    fn tw_sim_discard(me, addr: u64, bytes: u64) {
        checked(me, |m, cta, f| m.discard(cta, f, addr, bytes));
    }

    fn tw_sim_copy_async(me, dst: u32, src: u64, bytes: u32) {
        checked(me, |m, cta, f| m.copy_async(cta, f, dst, src, bytes));
    }

    fn tw_sim_copy_wait(me, newest: u32, site: u32) {
        checked(me, |m, _, f| m.copy_wait(f, newest, site));
    }

    fn tw_sim_barrier(me, vote: u32, mine: u32, site: u32) -> u32 {
        let wait = together(me, |m, cta, thread| m.barrier(cta, thread, vote, mine != 0, site));
        if wait {
            suspend(me.cast());
        }
        with(me, |_, _, f| f.result)
    }

    fn tw_sim_warp_sync(me) {
        if together(me, |m, cta, thread| m.warp_arrive(cta, thread, WarpOp::Sync)) {
            suspend(me.cast());
        }
    }

    fn tw_sim_shuffle(me, value: u32, from_lane: u32) -> u32 {
        let wait = together(me, |m, cta, thread| {
            let (warp, lane) = (thread as usize / 32, thread as usize % 32);
            cta.warps[warp].values[lane] = value;
            cta.warps[warp].from[lane] = from_lane as u8 & 31;
            m.warp_arrive(cta, thread, WarpOp::Shuffle)
        });
        if wait {
            suspend(me.cast());
        }
        with(me, |_, _, f| f.result)
    }

    fn tw_sim_mma_grow(me) {
        with(me, |_, cta, f| {
            if f.me.row_count == f.me.row_room {
                f.rows.resize(2 * f.rows.len(), 0);
                f.me.mma_rows = f.rows.as_mut_ptr();
                f.me.row_room = f.rows.len() as u32;
            }
            if f.lane() == 0 && f.me.mma_count == f.me.mma_room {
                let ops = &mut cta.warps[f.warp()].ops;
                ops.resize(2 * ops.len(), MmaOp::default());
                f.me.mma_ops = ops.as_mut_ptr();
                f.me.mma_room = ops.len() as u32;
            }
        });
    }

    fn tw_sim_mma_wait(me, frame: u64, site: u32) {
        let wait = together(me, |m, cta, thread| m.mma_arrive(cta, thread, frame, site));
        if wait {
            suspend(me.cast());
        }
    }

    fn tw_sim_wgmma_begin(me) {
        checked(me, |_, cta, f| Machine::wgmma_begin(cta, f));
    }

    fn tw_sim_wgmma_grow(me) {
        with(me, |_, cta, f| Machine::wgmma_grow(cta, f));
    }

    fn tw_sim_wgmma_wait(me, frame: u64, keep: u32, site: u32) {
        if together(me, |m, cta, thread| m.wgmma_wait(cta, thread, frame, keep, site)) {
            suspend(me.cast());
        }
    }

    fn tw_sim_stmatrix(me, row: u32, r: *const [u32; 4]) {
        let wait = together(me, |m, cta, thread| {
            cta.warps[thread as usize / 32].rows[thread as usize % 32] = (row, *r);
            m.warp_arrive(cta, thread, WarpOp::StoreMatrix)
        });
        if wait {
            suspend(me.cast());
        }
    }

    fn tw_sim_registers(me, count: u32, increase: u32) {
        if together(me, |m, cta, thread| m.change_registers(cta, thread, count, increase != 0)) {
            suspend(me.cast());
        }
    }

    fn tw_sim_poll(me, addr: u64, want: u64, site: u32) -> u64 {
        if with(me, |m, _, f| m.polls_too_long(f)) {
            give_way(me);
        }
        checked(me, |m, cta, f| m.poll(cta, f, addr, want, site))
    }

    fn tw_sim_load_acquire(me, addr: u64, site: u32) -> u64 {
        if with(me, |m, _, f| m.polls_too_long(f)) {
            give_way(me);
        }
        checked(me, |m, cta, f| m.load_acquire(cta, f, addr, site))
    }

    fn tw_sim_store_word(me, addr: u64, value: u64, release: u32, site: u32) {
        checked(me, |m, cta, f| m.store_word(cta, f, addr, value, (release != 0).then_some(site)));
    }

    fn tw_sim_atomic_add(me, addr: u64, value: u32, site: u32) -> u32 {
        while !with(me, |m, cta, f| m.comes_to_counter(cta, f, addr)) {
            suspend(me.cast());
        }
        checked(me, |m, cta, f| m.atomic(cta, f, addr, site, |old| Some(old.wrapping_add(value))))
    }

    fn tw_sim_atomic_cas(me, addr: u64, want: u32, put: u32, site: u32) -> u32 {
        if with(me, |m, _, f| { f.polls += 1; m.polls_too_long(f) }) {
            give_way(me);
        }
        while !with(me, |m, cta, f| m.comes_to_counter(cta, f, addr)) {
            suspend(me.cast());
        }
        checked(me, |m, cta, f| m.atomic(cta, f, addr, site, |old| (old == want).then_some(put)))
    }

    fn tw_sim_add_relaxed(me, addr: u64, value: u64) -> u64 {
        checked(me, |m, cta, f| m.change_relaxed(cta, f, addr, |old| old.wrapping_add(value)))
    }

    fn tw_sim_max_relaxed(me, addr: u64, value: u64) -> u64 {
        checked(me, |m, cta, f| m.change_relaxed(cta, f, addr, |old| old.max(value)))
    }

    fn tw_sim_load_packet(me, addr: u64, to: *mut [u32; 4], tag: u32, site: u32) {
        if with(me, |m, _, f| m.polls_too_long(f)) {
            give_way(me);
        }
        *to = checked(me, |m, cta, f| m.load_packet(cta, f, addr, tag, site));
    }

    fn tw_sim_store_packet(me, addr: u64, from: *const [u32; 4]) {
        let data = *from;
        checked(me, |m, cta, f| m.store_packet(cta, f, addr, data));
    }

    fn tw_sim_multicast_load(me, addr: u64, from: *mut u64) -> u32 {
        let members = checked(me, |m, cta, f| m.multicast_load(cta, f, addr));
        for (i, (_, at)) in members.at[..members.count].iter().enumerate() {
            *from.add(i) = *at;
        }
        members.count as u32
    }

    fn tw_sim_multicast_store(me, addr: u64, from: *const [u8; 16]) {
        let data = *from;
        checked(me, |m, cta, f| m.multicast_store(cta, f, addr, &data));
    }

    fn tw_sim_fence_alias(me, site: u32) {
        checked(me, |m, cta, f| m.fence_alias(cta, f, site));
    }

    fn tw_sim_time(me) -> u64 {
        if with(me, |m, _, f| { f.polls += 1; m.polls_too_long(f) }) {
            give_way(me);
        }
        loop {
            if let Some(ns) = with(me, |m, cta, f| m.tell_time(cta, f)) {
                return ns;
            }
            suspend(me.cast());
        }
    }

    fn tw_sim_pause(me, until: u64) {
        if with(me, |m, _, f| m.park(f, until)) {
            suspend(me.cast());
            with(me, |_, _, f| f.polled.clear());
        } else {
            give_way(me);
        }
    }
}
