//! The asynchronous proxy: TMA and bulk copies; and the switch. When a copy will have read its source, and when it will be
//! written, is known when it is issued.

use super::super::tensor_map::{self, Map};
use super::Timed;
use super::callbacks::with;
use super::gpu::{self, Line};
use super::warp::{Cta, Group, Warp};
use crate::abi::TwTensorMap;

/// A map as the kernel has it; trouble where it is none.
fn decoded(timed: &mut Timed, map: &TwTensorMap, rank: u32) -> Option<Map> {
    match tensor_map::decode(std::ptr::from_ref(map) as u64, &map.opaque, rank) {
        Ok(map) => Some(map),
        Err(why) => {
            timed.trouble = Some(format!("a tensor map that cannot be used: {why:?}"));
            None
        }
    }
}

/// # Safety
/// As [`with`].
pub(super) unsafe fn tma_load(w: *mut Warp, map: &TwTensorMap, at: &[u32; 4], rank: u32, bar: u32, ctas: u32) {
    // SAFETY: passed on. Other CTAs of the cluster are other allocations, and live until the cluster's last barrier.
    unsafe {
        with(w, |timed, cta, w| {
            let Some(map) = decoded(timed, map, rank) else { return };
            let (line, bytes) = (timed.place_of_rows(map.row(at, 0).0), map.inside(at));
            let from = w.c.now + timed.rates.tma;
            let members = match ctas {
                0 => vec![std::ptr::from_mut(cta)],
                mask => {
                    let all = cta.cluster.members.borrow();
                    let chosen = all.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0);
                    chosen.map(|(_, cta)| *cta).collect()
                }
            };
            let sms: Vec<usize> = members.iter().map(|cta| (**cta).sm).collect();
            let there = timed.gpus[cta.gpu].multicast(&timed.rates, &sms, from, line, bytes);
            for member in members {
                timed.mbarrier(&mut *member, bar, 0, -i64::from(map.bytes()), there);
            }
        });
    }
}

fn copied(w: &mut Warp, read: u64, written: u64) {
    w.open = Group {
        read: w.open.read.max(read),
        written: w.open.written.max(written),
    };
}

/// # Safety
/// As [`with`].
pub(super) unsafe fn tma_store(w: *mut Warp, map: &TwTensorMap, at: &[u32; 4]) {
    // SAFETY: passed on.
    unsafe {
        with(w, |timed, cta, w| {
            let Some(map) = decoded(timed, map, 2) else { return };
            let (line, bytes) = (timed.place_of_rows(map.row(at, 0).0), map.inside(at));
            let from = w.c.now + timed.rates.tma;
            let (read, written) = timed.gpus[cta.gpu].store(&timed.rates, cta.sm, from, line, bytes);
            copied(w, read, written);
        });
    }
}

/// # Safety
/// As [`with`].
pub(super) unsafe fn store(w: *mut Warp, to: u64, bytes: u32) {
    // SAFETY: passed on.
    unsafe {
        with(w, |timed, cta, w| {
            let (owner, line) = (timed.owner(to, cta.gpu), timed.place(to));
            let from = w.c.now + timed.rates.tma;
            let payload = std::mem::replace(&mut w.c.payload, u32::MAX).min(bytes);
            let (read, written) = if owner == cta.gpu {
                timed.gpus[owner].store(&timed.rates, cta.sm, from, line, bytes.into())
            } else {
                timed.traffic[cta.gpu].0 += u64::from(payload);
                cta.sent = w.c.now;
                let way = (cta.gpu, cta.sm, owner);
                let (left, _, known) = gpu::store_to(&mut timed.gpus, &timed.rates, way, (from, line, bytes.into()));
                // Read when it has room on its way, not before.
                (from.max(left.saturating_sub(timed.rates.posted)), known)
            };
            copied(w, read, written);
        });
    }
}

/// Until all but the newest `open` groups are read, or written.
pub(super) fn wait(w: &mut Warp, open: usize, read: bool) {
    while w.groups.len() > open {
        let Some(group) = w.groups.front() else { return };
        w.c.now = w.c.now.max(if read { group.read } else { group.written });
        if read && open == 0 && w.groups.len() == 1 {
            // Its writes may still be asked for.
            return;
        }
        let done = w.groups.pop_front();
        if read && let (Some(done), Some(next)) = (done, w.groups.front_mut()) {
            next.written = next.written.max(done.written);
        }
    }
}

/// Every member's line behind a multicast address.
fn members(timed: &mut Timed, cta: &Cta, addr: u64, bytes: u64) -> Option<Vec<(usize, Line)>> {
    match timed.arena.members(addr, bytes, cta.gpu) {
        Ok(members) => {
            let found = members.at[..members.count].iter();
            Some(found.map(|(device, at)| (*device, timed.place(*at))).collect())
        }
        Err(why) => {
            timed.trouble = Some(format!("no multicast memory at {addr:#x}: {why:?}"));
            None
        }
    }
}

/// A warp's load of the sum of every member's 16 bytes a lane; when it is there.
pub(super) fn multicast_load(timed: &mut Timed, cta: &Cta, w: &mut Warp, addr: u64) -> Option<u64> {
    let members = members(timed, cta, addr, 16)?;
    let payload = std::mem::replace(&mut w.c.payload, u32::MAX).min(16);
    for (device, _) in &members {
        timed.traffic[*device].0 += u64::from(payload) * u64::from(w.c.lanes);
    }
    let bytes = 16 * u64::from(w.c.lanes);
    Some(gpu::load_sum(
        &mut timed.gpus,
        &timed.rates,
        (cta.gpu, cta.sm),
        &members,
        (w.c.now, bytes),
    ))
}

/// A warp's store of 16 bytes a lane to every member.
pub(super) fn multicast_store(timed: &mut Timed, cta: &mut Cta, w: &mut Warp, addr: u64) {
    let Some(members) = members(timed, cta, addr, 16) else {
        return;
    };
    let payload = std::mem::replace(&mut w.c.payload, u32::MAX).min(16);
    timed.traffic[cta.gpu].0 += u64::from(payload) * u64::from(w.c.lanes);
    let bytes = 16 * u64::from(w.c.lanes);
    let (left, known) = gpu::store_all(
        &mut timed.gpus,
        &timed.rates,
        (cta.gpu, cta.sm),
        &members,
        (w.c.now, bytes),
    );
    w.c.now = w.c.now.max(left.saturating_sub(timed.rates.posted));
    cta.written = cta.written.max(known);
    cta.sent = w.c.now;
}
