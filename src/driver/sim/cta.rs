//! A CTA on its SM: its threads, shared memory, barrier and warps.

use std::collections::VecDeque;
use std::rc::Rc;

use super::clock::{View, raise};
use super::fiber::{Co, Fiber, MmaOp, Wait, WarpOp};
use super::machine::Machine;
use super::registers::Account;
use super::shadow::{CLOCK_ONE, UNWRITTEN};
use super::stmatrix::Rows;
use super::units::Units;
use super::warpgroup::Warpgroup;

/// Shared memory and its shadow, recycled from CTA to CTA.
pub(super) struct Window {
    /// 16-byte units, so that a granule is aligned.
    pub bytes: Vec<u128>,
    pub shadow: Vec<u64>,
}

impl Window {
    pub fn new(bytes: u32) -> Window {
        let granules = bytes.div_ceil(16) as usize;
        Window {
            bytes: vec![0; granules],
            shadow: vec![UNWRITTEN; granules],
        }
    }
}

/// The CTA's one barrier.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Barrier {
    pub arrived: u32,
    pub site: u32,
    /// 0 plain, 1 or, 2 and.
    pub vote: u32,
    pub any: bool,
    pub all: bool,
}

#[derive(Debug)]
pub(super) struct Warp {
    /// Lanes that have arrived at `op`.
    pub arrived: u32,
    pub op: WarpOp,
    pub values: [u32; 32],
    pub from: [u8; 32],
    /// Lane 0's record of the tensor-core queue.
    pub ops: Vec<MmaOp>,
    /// What the lanes brought to stmatrix.
    pub rows: Rows,
    /// Lanes that have left the kernel.
    pub exited: u32,
}

pub(super) struct Cta {
    pub machine: *mut Machine,
    pub slot: u16,
    /// First clock of this occupant of the slot.
    pub start: u32,
    /// Number of its kernel, a key of `Machine::kernels`.
    pub kernel: u64,
    pub device: u16,
    pub sm: u32,
    pub block: u32,
    pub threads: u32,
    pub fibers: *mut Fiber,
    /// Beside the fibers, not in them: while one runs, its entry is in use by the executor.
    pub coroutines: *mut Option<Co>,
    pub view: Rc<View>,
    /// The view before the last barrier, kept while an early signal is planted.
    pub previous: Option<Rc<View>>,
    pub barrier: Barrier,
    pub warps: Vec<Warp>,
    pub warpgroups: Vec<Warpgroup>,
    pub account: Account,
    pub ready: VecDeque<u16>,
    /// Position in `Machine::active`, if any fiber is ready.
    pub active: Option<u32>,
    pub priority: u32,
    pub exited: u32,
    pub window: Window,
    pub units: Units,
}

impl Cta {
    /// # Safety
    /// `i` is below `threads`, and no reference to that fiber is live.
    pub unsafe fn fiber<'a>(&self, i: u32) -> &'a mut Fiber {
        debug_assert!(i < self.threads);
        // SAFETY: `fibers` points to `threads` fibers that live as long as the CTA.
        unsafe { &mut *self.fibers.add(i as usize) }
    }

    /// The full barrier in terms of knowledge: everybody knows what anybody did or knew on arrival.
    ///
    /// # Safety
    /// All threads have arrived; no reference to any fiber of the CTA is live.
    pub unsafe fn join_all(&mut self, keep_previous: bool) {
        if keep_previous {
            self.previous = Some(Rc::new((*self.view).clone()));
        }
        let mut gained = Vec::new();
        let mut others = None;
        // Entries behind the threads': what they know of asynchronous units.
        let mut units: Vec<u32> = Vec::new();
        let mut last: Option<Rc<View>> = None;
        for i in 0..self.threads {
            // SAFETY: one fiber at a time.
            if let Some(view) = unsafe { self.fiber(i) }.view.take() {
                if last.as_ref().is_some_and(|l| Rc::ptr_eq(l, &view)) {
                    continue;
                }
                let theirs = &view.own[2 * self.threads as usize..];
                units.resize(theirs.len(), 0);
                raise(&mut units, theirs);
                super::clock::join(
                    others.get_or_insert_with(|| self.view.others.clone()),
                    &view.others,
                    &mut gained,
                );
                last = Some(view);
            }
        }
        let (fibers, threads) = (self.fibers, self.threads as usize);
        // In place where no snapshot of the old view is alive, else in a copy.
        let view = Rc::make_mut(&mut self.view);
        if let Some(others) = others {
            view.others = others;
        }
        raise(&mut view.own[2 * threads..], &units);
        for i in 0..threads {
            // SAFETY: one fiber at a time, below `threads`.
            let f = unsafe { &mut *fibers.add(i) };
            // Nobody knows more of a thread than itself: its own clocks are the join.
            view.own[2 * i] = f.clock();
            view.own[2 * i + 1] = f.me.async_known;
            f.me.write_tag += CLOCK_ONE;
            f.me.row = view.own.as_ptr();
        }
    }

    /// The same for the 32 lanes of a warp.
    ///
    /// # Safety
    /// As [`Cta::join_all`], for the warp's lanes.
    pub unsafe fn join_warp(&mut self, warp: usize) {
        let mut view = (*self.view).clone();
        let mut gained = Vec::new();
        let mut last: Option<Rc<View>> = None;
        for lane in 0..32 {
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(warp as u32 * 32 + lane) };
            if let Some(own) = f.view.take()
                && !last.as_ref().is_some_and(|l| Rc::ptr_eq(l, &own))
            {
                super::clock::join(&mut view.others, &own.others, &mut gained);
                raise(&mut view.own, &own.own);
                last = Some(own);
            }
        }
        for lane in 0..32 {
            let i = warp as u32 * 32 + lane;
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(i) };
            view.own[2 * i as usize] = f.clock();
            view.own[2 * i as usize + 1] = f.me.async_known;
            f.me.write_tag += CLOCK_ONE;
        }
        let view = Rc::new(view);
        for lane in 0..32 {
            // SAFETY: one fiber at a time.
            let f = unsafe { self.fiber(warp as u32 * 32 + lane) };
            f.me.row = view.own.as_ptr();
            f.view = Some(view.clone());
        }
    }

    /// Puts a fiber that was waiting into the ready queue. The caller sees to the CTA's place among the active ones.
    pub fn wake(&mut self, f: &mut Fiber) {
        f.wait = Wait::Nothing;
        self.ready.push_back(f.me.thread as u16);
    }

    /// What its threads knew and did when they left: a last barrier.
    ///
    /// # Safety
    /// All threads have left; no reference to any fiber of the CTA is live.
    pub unsafe fn leave_nothing(&mut self) -> Rc<View> {
        // SAFETY: nobody runs any more.
        unsafe { self.join_all(false) };
        self.view.clone()
    }
}
