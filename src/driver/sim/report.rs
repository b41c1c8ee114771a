//! What went wrong, first as a value that a fiber can leave behind, then as a text that names everything.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::config::Site;
use super::fiber::{Fiber, Polled, Wait, WarpOp};
use super::machine::Machine;
use super::shadow;

/// A violation. Values only: it is made on a fiber's stack.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    OutOfBounds {
        shared: bool,
        addr: u64,
        bytes: u64,
        write: bool,
    },
    Misaligned {
        shared: bool,
        addr: u64,
        bytes: u64,
    },
    NotMapped {
        addr: u64,
        owner: usize,
    },
    Uninitialised {
        shared: bool,
        addr: u64,
        bytes: u64,
    },
    Unordered {
        shared: bool,
        addr: u64,
        bytes: u64,
        tag: u64,
    },
    SourceChanged {
        addr: u64,
    },
    /// A store or discard of what its last reader may still need.
    Unconsumed {
        addr: u64,
        tag: u64,
    },
    /// A read of what a store on its way will overwrite.
    Overtaken {
        addr: u64,
        tag: u64,
    },
    BadCopySize {
        bytes: u32,
    },
    BarrierLeft {
        site: u32,
    },
    BarrierSites {
        first: u32,
        second: u32,
    },
    WarpLeft {
        op: WarpOp,
    },
    WarpOps {
        first: WarpOp,
        second: WarpOp,
    },
    WarpSplit {
        op: WarpOp,
        site: u32,
    },
    LanesDisagree {
        warp: u32,
        lane: u32,
    },
    RegisterGone,
    StackOverflow,
    ClocksRanOut,
    /// The same, found for another thread of the warp than the one that ran into it.
    By {
        thread: u32,
        addr: u64,
        tag: u64,
    },
    /// Of streams, not of a thread.
    HostRange {
        addr: u64,
        bytes: u64,
    },
    CopyUnordered {
        addr: u64,
        tag: u64,
    },
    BadFree {
        ptr: u64,
    },
}

impl Trouble {
    /// Trouble with a row that `thread` gave to ldmatrix.
    pub fn by(self, thread: u32) -> Trouble {
        match self {
            Trouble::Unordered { addr, tag, .. } => Trouble::By { thread, addr, tag },
            Trouble::Uninitialised { addr, .. } => Trouble::By {
                thread,
                addr,
                tag: shadow::UNWRITTEN,
            },
            other => other,
        }
    }
}

pub(super) fn site_name(site: u32) -> String {
    Site::ALL
        .get(site as usize)
        .map_or_else(|| "no site".into(), |s| format!("Site::{s:?}"))
}

fn op_name(op: WarpOp) -> String {
    match op {
        WarpOp::Sync => "warp_sync".into(),
        WarpOp::Shuffle => "a shuffle".into(),
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

fn memory(m: &Machine, shared: bool, addr: u64) -> String {
    if shared {
        format!("shared memory at {addr:#x}")
    } else {
        format!("global memory at {}", place_of(m, addr))
    }
}

/// Who wrote, as far as is still known.
fn writer(m: &Machine, tag: u64) -> String {
    let w = shadow::writer(tag);
    let history = m.slots.get(usize::from(w.slot)).map_or(&[][..], |s| &s.history);
    let thread = w.who / 2;
    let how = if w.who & 1 == 1 { " by cp.async" } else { "" };
    match history.iter().rev().find(|(start, ..)| *start <= w.clock) {
        Some((_, kernel, device, block)) => {
            format!(
                "device {device}, {kernel}, CTA {block}, thread {thread}{how} (its clock {})",
                w.clock
            )
        }
        None => format!("thread {thread}{how} of a kernel long gone"),
    }
}

fn describe(m: &Machine, trouble: Trouble) -> String {
    match trouble {
        Trouble::OutOfBounds {
            shared,
            addr,
            bytes,
            write,
        } => {
            let verb = if write { "writes" } else { "reads" };
            format!(
                "{verb} {bytes} bytes outside any allocation: {}",
                memory(m, shared, addr)
            )
        }
        Trouble::Misaligned { shared, addr, bytes } => {
            format!(
                "accesses {} with an instruction that needs {bytes}-byte alignment",
                memory(m, shared, addr)
            )
        }
        Trouble::NotMapped { addr, owner } => {
            format!(
                "accesses memory of device {owner} that is not mapped for its own device: {}",
                place_of(m, addr)
            )
        }
        Trouble::Uninitialised { shared, addr, bytes } => {
            format!(
                "reads {bytes} bytes that nobody has written since they were allocated or discarded: {}",
                memory(m, shared, addr)
            )
        }
        Trouble::Unordered {
            shared,
            addr,
            bytes,
            tag,
        } => format!(
            "reads {bytes} bytes that another thread wrote, and nothing orders the write before the read: {}; written by {}; \
             missing is a barrier, or a release and an acquire that pair, or a wait for the copy, between the two",
            memory(m, shared, addr),
            writer(m, tag)
        ),
        Trouble::SourceChanged { addr } => {
            format!(
                "the source of a cp.async was written between its issue and its completion: {}",
                memory(m, false, addr)
            )
        }
        Trouble::Unconsumed { addr, tag } => format!(
            "overwrites or discards bytes that another thread has read or discarded, and nothing orders that before: {}; read \
             or discarded by {}; missing is a release behind that and an acquire before this, or a barrier",
            memory(m, false, addr),
            writer(m, tag)
        ),
        Trouble::Overtaken { addr, tag } => format!(
            "reads bytes that a store on its way is about to overwrite: {}; stored by {}; missing is a release behind this \
             read and an acquire before the store",
            memory(m, false, addr),
            writer(m, tag)
        ),
        Trouble::BadCopySize { bytes } => format!("cp_async_16 copies {bytes} bytes, more than 16"),
        Trouble::BarrierLeft { site } => {
            format!(
                "the CTA barrier at {} waits for threads that have left the kernel",
                site_name(site)
            )
        }
        Trouble::BarrierSites { first, second } => format!(
            "threads of one CTA meet at different barriers: the first arrived at {}, this one at {}",
            site_name(first),
            site_name(second)
        ),
        Trouble::WarpLeft { op } => format!(
            "lanes of the warp have left the kernel while others are at {}",
            op_name(op)
        ),
        Trouble::WarpOps { first, second } => {
            format!(
                "lanes of one warp have come apart: some are at {}, this one at {}",
                op_name(first),
                op_name(second)
            )
        }
        Trouble::WarpSplit { op, site } => format!(
            "a partly arrived warp: some lanes are at the CTA barrier ({}), others at {}",
            site_name(site),
            op_name(op)
        ),
        Trouble::LanesDisagree { warp, lane } => format!(
            "lanes 0 and {lane} of warp {warp} recorded different ldmatrix and mma instructions: all 32 must do the same"
        ),
        Trouble::RegisterGone => {
            "a register of the mma queue is out of scope at mma_wait: declare operands where the wait is".into()
        }
        Trouble::StackOverflow => "the thread's stack ran over".into(),
        Trouble::ClocksRanOut => "a kernel synchronised more often than the machine can count".into(),
        Trouble::By {
            thread,
            addr,
            tag: shadow::UNWRITTEN,
        } => {
            format!(
                "ldmatrix reads a row, given by thread {thread}, that nobody has written: shared memory at {addr:#x}"
            )
        }
        Trouble::By { thread, addr, tag } => format!(
            "ldmatrix reads a row, given by thread {thread}, and nothing orders its write before: shared memory at {addr:#x}; \
             written by {}; missing is a barrier, or a wait for the copy and a barrier",
            writer(m, tag)
        ),
        Trouble::HostRange { addr, bytes } => {
            format!("{bytes} bytes are not inside one allocation: {}", place_of(m, addr))
        }
        Trouble::CopyUnordered { addr, tag } => format!(
            "a copy reads what a kernel wrote that nothing orders before it in its stream: {}; written by {}",
            place_of(m, addr),
            writer(m, tag)
        ),
        Trouble::BadFree { ptr } => format!("free of {ptr:#x}, which alloc did not give"),
    }
}

/// Kernel, rank and thread of a fiber.
fn who(m: &Machine, f: &Fiber) -> String {
    // SAFETY: a fiber's CTA outlives it, and nothing runs while a report is written.
    let cta = unsafe { &*f.cta };
    let kernel = m.kernels.get(&cta.kernel).map_or("a finished kernel", |k| k.entry.name);
    format!(
        "device {}, kernel {kernel}, CTA {}, thread {}",
        cta.device, cta.block, f.me.thread
    )
}

pub(super) fn fiber_trouble(m: &Machine, trouble: Trouble, f: *mut Fiber) -> String {
    // SAFETY: the fiber that ran into trouble is suspended, and its CTA was not ended.
    let f = unsafe { &*f };
    format!("{}: {}", who(m, f), describe(m, trouble))
}

pub(super) fn stream_trouble(m: &Machine, trouble: Trouble) -> String {
    format!("a stream's command: {}", describe(m, trouble))
}

fn polled(m: &Machine, words: &[Polled]) -> String {
    let mut text = String::new();
    for p in words.iter().take(3) {
        let value = match p.site == super::fiber::NO_SITE {
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

/// Who waits for what: fibers that wait alike are told together.
pub(super) fn deadlock(m: &Machine, why: &str) -> String {
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
