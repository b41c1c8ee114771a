//! The text of a node that cannot go on: who waits for what.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::cta::Cta;
use super::super::fiber::{NO_SITE, Polled, Wait};
use super::super::machine::Machine;
use super::{op_name, place_of, site_name};

fn polled(m: &Machine, words: &[Polled]) -> String {
    let mut text = String::new();
    for p in words.iter().take(3) {
        let value = match p.site == NO_SITE {
            true => format!("{:#x}", p.seen),
            false => format!("{:#x}, wanted {:#x} at {}", p.seen, p.want, site_name(p.site)),
        };
        let _ = write!(
            text,
            "{}[{}] is {value}",
            if text.is_empty() { "" } else { "; " },
            place_of(m, p.addr)
        );
    }
    if words.len() > 3 {
        let _ = write!(text, "; and {} more", words.len() - 3);
    }
    text
}

/// What an mbarrier waits for.
fn mbarrier(cta: &Cta, addr: u32) -> String {
    let b = cta.units.mbarriers.iter().find(|b| b.addr == addr);
    b.map_or_else(String::new, |b| {
        format!(
            "phase {} lacks {} of {} arrivals and {} bytes",
            b.running(),
            b.pending,
            b.count,
            b.tx
        )
    })
}

/// Who waits for what: fibers that wait alike are told together.
pub(in crate::driver::sim) fn deadlock(m: &Machine, why: &str) -> String {
    let mut text = format!("{why} (simulated time {} ns):", m.now);
    for slot in &m.slots {
        if slot.cta.is_null() {
            continue;
        }
        // SAFETY: a slot's CTA is live, and nothing runs while a report is written.
        let cta = unsafe { &*slot.cta };
        let mut groups: BTreeMap<(Wait, String), Vec<u32>> = BTreeMap::new();
        for i in 0..cta.threads {
            // SAFETY: as above; only read.
            let f = unsafe { &*cta.fibers.add(i as usize) };
            let detail = match f.wait {
                Wait::Parked { .. } | Wait::Nothing => polled(m, &f.polled),
                Wait::Mbarrier { addr, .. } => mbarrier(cta, addr),
                _ => String::new(),
            };
            groups.entry((f.wait, detail)).or_default().push(i);
        }
        let kernel = m.kernels.get(&cta.kernel).map_or("?", |k| k.entry.name);
        for ((wait, detail), threads) in groups {
            let what = match wait {
                Wait::Exited => continue,
                Wait::Nothing if detail.is_empty() => "ready".into(),
                Wait::Nothing => format!("polling: {detail}"),
                Wait::Barrier { site } => format!("at the CTA barrier {}", site_name(site)),
                Wait::Named { id, site } => format!("at barrier {id}, {}", site_name(site)),
                Wait::Cluster { site } => format!("at the cluster's barrier {}", site_name(site)),
                Wait::Mbarrier { addr, parity, site } => format!(
                    "waiting for the phase of parity {parity} of the mbarrier at {addr:#x}, {}: {detail}",
                    site_name(site)
                ),
                Wait::Clock => "waiting for the kernel on the clock, which it follows".into(),
                Wait::Warp(op) => format!("at {}", op_name(op)),
                Wait::Parked { until: u64::MAX } => format!("waiting for a word: {detail}"),
                Wait::Parked { until } => format!("waiting until {until} ns for a word: {detail}"),
            };
            let (first, n) = (threads[0], threads.len());
            let more = if n == 1 {
                String::new()
            } else {
                format!(" and {} more", n - 1)
            };
            let _ = write!(
                text,
                "\n  device {} {kernel} CTA {}: thread {first}{more} {what}",
                cta.device, cta.block
            );
        }
    }
    for kernel in m.kernels.values().filter(|k| k.waiting_for_room() > 0) {
        let _ = write!(
            text,
            "\n  device {} {}: {} of {} CTAs wait for room on the SMs",
            kernel.stream.device,
            kernel.entry.name,
            kernel.waiting_for_room(),
            kernel.launch.grid
        );
    }
    for (key, stream) in &m.streams {
        if stream.running.is_none() && !stream.queue.is_empty() {
            let _ = write!(
                text,
                "\n  device {} stream {} (share {} of {}): {} commands wait for an event",
                key.device,
                key.ordinal,
                key.share,
                key.shares,
                stream.queue.len()
            );
        }
    }
    text
}
