//! A warp, which is one fiber, and the CTA that it belongs to.

use std::collections::VecDeque;
use std::rc::Rc;

use corosensei::{Coroutine, Yielder};

use super::super::fiber::Co;
use super::super::stack::Slab;
use super::Timed;
use super::cluster::Cluster;
use super::mbarrier::Mbarrier;
use super::script::WarpName;
use super::self_c::WarpC;
use super::words::Waiter;

/// What a warp waits for, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// It runs, or its turn will come.
    Nothing,
    Barrier(u32),
    Cluster,
    Mbarrier {
        bar: u32,
        parity: u32,
    },
    /// For a change of a word that it has polled, or a time.
    Word(u64),
    Exited,
}

/// Bulk copies of one commit group: when their sources have been read, and when they are known to be written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Group {
    pub read: u64,
    pub written: u64,
}

#[repr(C)]
pub(super) struct Warp {
    /// First, so that the C++ side's pointer is the warp's.
    pub c: WarpC,
    pub cta: *mut Cta,
    pub yielder: *const Yielder<(), ()>,
    pub co: Option<Co>,
    pub stack_slot: u32,
    /// Its place among the warps, and the number of its wait: turns and watches of earlier waits are stale.
    pub index: u32,
    pub stamp: u32,
    pub wait: Wait,
    /// A barrier's vote.
    pub result: u32,
    /// Words polled since the last pause, and what they were.
    pub polled: Vec<(u64, u64)>,
    /// When the last poll began, if nothing came after it: polls in a row share a round trip.
    pub polling: Option<u64>,
    pub open: Group,
    pub groups: VecDeque<Group>,
}

impl Warp {
    pub fn name(&self) -> WarpName {
        // SAFETY: a warp's CTA outlives it, and its kernel never changes.
        (unsafe { (*self.cta).kernel }, self.c.block, self.c.thread / 32)
    }

    pub fn waiter(&self) -> Waiter {
        (self.index, self.stamp)
    }
}

/// Of some warps of a CTA.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    pub arrived: u32,
    pub last: u64,
    pub any: bool,
    pub all: bool,
    pub waiting: Vec<Waiter>,
}

/// A CTA on its SM.
pub(super) struct Cta {
    /// The clock, and itself among its kernel's.
    pub timed: *mut Timed,
    pub kernel: u64,
    pub gpu: usize,
    pub sm: usize,
    pub warps: Vec<*mut Warp>,
    pub exited: u32,
    pub ended: u64,
    pub threads: u32,
    pub barriers: [Barrier; 16],
    /// By address: neighbours, as kernels lay them out.
    pub mbarriers: Vec<(u32, Mbarrier)>,
    pub cluster: Rc<Cluster>,
    /// When its stores so far are known to be written: a release waits for that.
    pub written: u64,
    /// When the last of those that went to a peer was issued, and the last fence behind such.
    pub sent: u64,
    pub fence: std::ops::Range<u64>,
    /// Real words lie here, at the kernel's own places.
    pub shared: Vec<u128>,
    pub taken: [u32; 4],
}

/// What a CTA's warps are made from.
pub(super) struct Start {
    pub run: unsafe extern "C" fn(*const crate::abi::TwParams),
    pub params: *const crate::abi::TwParams,
    pub block: u32,
    pub threads: u32,
    pub grid: u32,
    pub rank: u32,
    pub cluster: u32,
    pub at: u64,
}

impl Timed {
    /// Makes the warps of a CTA, ready to run from `start.at` on.
    pub(super) fn start_warps(&mut self, cta: &mut Cta, of: &Start) {
        let me: *mut Cta = cta;
        for warp in 0..of.threads.div_ceil(32) {
            let Some(stack) = self.slab.take() else { return };
            let index = self.free.pop().unwrap_or_else(|| {
                self.warps.push((std::ptr::null_mut(), 0));
                self.warps.len() as u32 - 1
            });
            let stamp = self.warps[index as usize].1 + 1;
            let w = Box::into_raw(Box::new(Warp {
                c: WarpC {
                    thread: 32 * warp,
                    block: of.block,
                    threads: of.threads,
                    grid: of.grid,
                    lane: 0,
                    lanes: 32,
                    cluster_rank: of.rank,
                    cluster_size: of.cluster,
                    shared: cta.shared.as_mut_ptr().cast(),
                    sm: &raw mut self.gpus[cta.gpu].sms[cta.sm].c,
                    costs: &raw const self.rates.costs,
                    noted: self.script.is_some().into(),
                    now: of.at,
                    horizon: &raw const *self.horizon,
                    flops: 0,
                    group_flops: 0,
                    issue: 0,
                    read: 0,
                    written: 0,
                    group_traffic: 0,
                    payload: u32::MAX,
                    part: warp % 4,
                    loads: 0,
                    async_groups: 0,
                    wgmma_groups: 0,
                    async_ready: 0,
                    computed: 0,
                    pieces: 0,
                    ready: [0; super::self_c::LOADS],
                    async_done: [0; 16],
                    wgmma_done: [0; 16],
                },
                cta: me,
                yielder: std::ptr::null(),
                co: None,
                stack_slot: stack.slot,
                index,
                stamp,
                wait: Wait::Nothing,
                result: 0,
                polled: Vec::new(),
                polling: None,
                open: Group::default(),
                groups: VecDeque::new(),
            }));
            let (run, params) = (of.run, of.params);
            // SAFETY: just made, and nobody else has it. It outlives its coroutine, which it owns; the parameters outlive
            // their kernel's warps.
            unsafe {
                (*w).co = Some(Coroutine::with_stack(stack, move |yielder, ()| {
                    (*w).yielder = yielder;
                    run(params);
                }));
            }
            self.warps[index as usize] = (w, stamp);
            cta.warps.push(w);
            self.turn_at(of.at, (index, stamp));
        }
    }

    /// Gives back what `start_warps` made.
    pub(super) fn free_warps(&mut self, cta: &mut Cta) {
        for w in cta.warps.drain(..) {
            // SAFETY: made by `start_warps` from a box; its coroutine is done, or is given up here.
            let mut w = unsafe { Box::from_raw(w) };
            if let Some(mut co) = w.co.take()
                && !co.done()
            {
                // SAFETY: kernels and callbacks leave nothing on a fiber's stack that needs dropping.
                unsafe { co.force_reset() };
            }
            self.warps[w.index as usize] = (std::ptr::null_mut(), w.stamp + 1);
            self.free.push(w.index);
            self.slab.free(w.stack_slot);
        }
    }
}

/// Stacks of so many warps.
pub(super) fn slab(gpus: usize, sms: u32) -> crate::error::Result<Slab> {
    Slab::new(gpus * sms as usize * 64)
}
