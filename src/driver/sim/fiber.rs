//! A CUDA thread: a coroutine, the struct its C++ code sees ([`SelfC`]), and what it waits for.

use std::rc::Rc;

use corosensei::{Coroutine, Yielder};

use super::bulk::Bulk;
use super::clock::View;
use super::cta::Cta;
use super::operands::Known;
use super::report::Trouble;
use super::shadow::{self, CLOCK_MAX, CLOCK_ONE};
use super::stack::FiberStack;

pub(super) type Co = Coroutine<(), (), (), FiberStack>;

/// The twin of `TwMmaOp` in `csrc/machine/sim/self.h`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MmaOp {
    pub kind: u32,
    pub d: u32,
    pub a: u32,
    pub b: u32,
}

/// The twin of `TwWgmmaOp` in `csrc/machine/sim/self.h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct WgmmaOp {
    pub a: u64,
    pub b: u64,
    pub d: u32,
    /// 0: a commit.
    pub what: u32,
}

/// The twin of `TwSelf` in `csrc/machine/sim/self.h`, which tells the fields.
#[repr(C)]
pub(super) struct SelfC {
    pub thread: u32,
    pub block: u32,
    pub threads: u32,
    pub grid: u32,
    pub shared: *mut u8,
    pub shared_shadow: *mut u64,
    pub shared_bytes: u32,
    pub careful: u32,
    pub own_base: u64,
    pub own_shadow: *mut u64,
    pub write_tag: u64,
    pub async_tag: u64,
    pub row: *const u32,
    pub async_known: u32,
    pub async_now: u32,
    pub async_queued: u32,
    pub payload: u32,
    pub stack_base: u64,
    pub mma_hash: u64,
    pub mma_lowest: u64,
    pub mma_ops: *mut MmaOp,
    pub mma_rows: *mut u32,
    pub mma_count: u32,
    pub mma_room: u32,
    pub row_count: u32,
    pub row_room: u32,
    pub wgmma_hash: u64,
    pub wgmma_ops: *mut WgmmaOp,
    pub wgmma_row: *const u32,
    pub wgmma_count: u32,
    pub wgmma_room: u32,
    pub wgmma_fenced: u32,
    pub guarded: u32,
    pub noted: u64,
}

const _: () = {
    assert!(size_of::<MmaOp>() == 16 && size_of::<WgmmaOp>() == 24 && size_of::<SelfC>() == 200);
    assert!(std::mem::offset_of!(SelfC, own_base) == 40 && std::mem::offset_of!(SelfC, row) == 72);
    assert!(std::mem::offset_of!(SelfC, mma_ops) == 120 && std::mem::offset_of!(SelfC, row_room) == 148);
};

pub(super) const NO_PAYLOAD: u32 = u32::MAX;
/// `Site::Count`: the C++ side's "no place".
pub(super) const NO_SITE: u32 = super::config::Site::ALL.len() as u32;

/// What a fiber waits for. Reports group fibers by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Running, or in its CTA's ready queue.
    Nothing,
    Barrier {
        site: u32,
    },
    Warp(WarpOp),
    /// At one of the barriers 1 to 15.
    Named {
        id: u32,
        site: u32,
    },
    /// At the cluster's barrier.
    Cluster {
        site: u32,
    },
    /// For the phase of that parity of an mbarrier.
    Mbarrier {
        addr: u32,
        parity: u32,
        site: u32,
    },
    /// For the kernel on the clock that this one follows.
    Clock,
    /// For a change of a word in `polled`, or the time.
    Parked {
        until: u64,
    },
    Exited,
}

/// What the 32 lanes of a warp, or the 128 threads of a warpgroup, do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WarpOp {
    Sync,
    Shuffle,
    Mma {
        site: u32,
    },
    StoreMatrix,
    /// Of a warpgroup: all but the newest `keep` groups.
    Wgmma {
        keep: u32,
        site: u32,
    },
    /// Of a warpgroup.
    Registers {
        count: u32,
        increase: bool,
    },
}

/// A word that was polled since the last pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Polled {
    pub addr: u64,
    pub seen: u64,
    pub want: u64,
    pub site: u32,
}

/// A cp.async that has been issued and has not run.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsyncCopy {
    pub dst: u32,
    pub bytes: u32,
    pub src: u64,
    /// Shadow of the source when it was issued: must be the same when it runs.
    pub src_tag: u64,
    /// Shadow that the destination gets.
    pub tag: u64,
}

#[repr(C)]
pub(super) struct Fiber {
    /// First, so that the C++ side's pointer is the fiber's.
    pub me: SelfC,
    pub cta: *mut Cta,
    /// Its place in the slab.
    pub stack_slot: u32,
    pub yielder: *const Yielder<(), ()>,
    /// What it knows beyond its CTA's view; none: just that.
    pub view: Option<Rc<View>>,
    pub wait: Wait,
    /// The result of a vote or a shuffle.
    pub result: u32,
    /// Polls since it last gave way.
    pub polls: u32,
    /// Tells a parking from the ones before.
    pub parking: u64,
    pub polled: Vec<Polled>,
    /// Words whose watch lists hold this fiber.
    pub watched: Vec<u64>,
    pub copies: Vec<AsyncCopy>,
    /// Its bulk copies out of shared memory.
    pub bulk: Bulk,
    /// What TMA loads of this thread see: what it knew at its last `fence_async_global`, and its own clock then.
    pub async_view: Option<(Rc<View>, u32)>,
    pub rows: Vec<u32>,
    /// What it knew when it issued the wgmmas that may not have run.
    pub issued: Vec<Known>,
}

impl Fiber {
    pub fn clock(&self) -> u32 {
        shadow::clock(self.me.write_tag)
    }

    /// A release-like action: what it writes from now on is newer than what it published.
    pub fn tick(&mut self) {
        self.me.write_tag += CLOCK_ONE;
    }

    /// Whether its clocks may still tick.
    pub fn tick_room(&self) -> Result<(), Trouble> {
        match self.newest_clock() > CLOCK_MAX - 8 {
            true => Err(Trouble::ClocksRanOut),
            false => Ok(()),
        }
    }

    /// [`Fiber::tick`], where no barrier has looked at the clock before.
    pub fn tick_checked(&mut self) -> Result<(), Trouble> {
        self.tick();
        self.tick_room()
    }

    /// No write of this thread so far bears a newer clock.
    pub fn newest_clock(&self) -> u32 {
        self.clock().max(shadow::clock(self.me.async_tag))
    }

    pub fn lane(&self) -> usize {
        self.me.thread as usize % 32
    }

    pub fn warp(&self) -> usize {
        self.me.thread as usize / 32
    }
}

/// Gives way to the executor until it resumes this fiber.
///
/// # Safety
/// Called on the fiber's own stack, by a callback that holds no reference into the machine: the executor and other
/// fibers use it in between.
pub(super) unsafe fn suspend(f: *mut Fiber) {
    // SAFETY: the yielder lives at the root of the fiber's stack, which is live while code runs on it.
    unsafe { (*(*f).yielder).suspend(()) }
}
