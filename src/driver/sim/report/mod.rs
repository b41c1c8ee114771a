//! What went wrong, first as a value that a fiber can leave behind, then as a text that names everything.

mod asynchronous;
mod deadlock;
mod trouble;
mod violation;

use super::config::Site;
use super::fiber::WarpOp;
use super::machine::Machine;
use super::shadow;

pub(super) use deadlock::deadlock;
pub(super) use trouble::Trouble;
pub(super) use violation::{fiber_trouble, stream_trouble};

fn site_name(site: u32) -> String {
    Site::ALL
        .get(site as usize)
        .map_or_else(|| "no site".into(), |s| format!("Site::{s:?}"))
}

/// Who wrote or read, as far as is still known.
fn writer(m: &Machine, tag: u64) -> String {
    let w = shadow::writer(tag);
    let slot = m.slots.get(usize::from(w.slot));
    let history = slot.map_or(&[][..], |s| &s.history);
    let entry = history.iter().rev().find(|(start, ..)| *start <= w.clock);
    let Some((start, kernel, device, block)) = entry else {
        return format!("thread {} of a kernel long gone", w.who / 2);
    };
    // SAFETY: a slot's CTA is live, and nothing runs while a report is written.
    if let Some(cta) = slot.and_then(|s| unsafe { s.cta.as_ref() })
        && cta.start == *start
        && let Some(unit) = usize::from(w.who).checked_sub(2 * cta.threads as usize)
    {
        let bar = cta.units.mbarriers.get(unit).map_or(0, |b| b.addr);
        return format!(
            "a TMA load of device {device}, {kernel}, CTA {block}, that completes on the mbarrier at {bar:#x}"
        );
    }
    let how = if w.who & 1 == 1 { " by an asynchronous copy" } else { "" };
    format!(
        "device {device}, {kernel}, CTA {block}, thread {}{how} (its clock {})",
        w.who / 2,
        w.clock
    )
}

fn op_name(op: WarpOp) -> String {
    match op {
        WarpOp::Sync => "warp_sync".into(),
        WarpOp::Shuffle => "a shuffle".into(),
        WarpOp::StoreMatrix => "stmatrix".into(),
        WarpOp::Wgmma { keep, site } => format!("wgmma_wait<{keep}> ({})", site_name(site)),
        WarpOp::Registers { count, increase: true } => {
            format!("reg_alloc<{count}>, which waits for registers that other warpgroups give back")
        }
        WarpOp::Registers { count, .. } => format!("reg_dealloc<{count}>"),
        WarpOp::Mma { site } => format!("mma_wait ({})", site_name(site)),
    }
}

/// Where an address lies.
fn place_of(m: &Machine, addr: u64) -> String {
    let Some(device) = m.layout.device_of(addr) else {
        return format!("{addr:#x}, no device's address");
    };
    match m.arena.lock().near(addr) {
        Some((start, a)) if a.device == device && addr < start + a.bytes => {
            format!(
                "{addr:#x}, offset {} of {} bytes on device {device}",
                addr - start,
                a.bytes
            )
        }
        Some((start, a)) if a.device == device => {
            format!(
                "{addr:#x}, {} bytes behind the end of {} bytes on device {device}",
                addr - start - a.bytes,
                a.bytes
            )
        }
        _ => format!("{addr:#x}, never allocated on device {device}"),
    }
}
