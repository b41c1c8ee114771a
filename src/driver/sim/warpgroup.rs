//! Warpgroups: 128 threads that issue wgmma together and share one budget of registers. Here: what a warpgroup is, and
//! how its threads meet.

use std::collections::VecDeque;

use super::cta::Cta;
use super::fiber::{Wait, WarpOp, WgmmaOp};
use super::machine::Machine;
use super::product::THREADS;
use super::report::Trouble;
use super::wgmma::{Issued, NOT_RECORDED};

/// Registers of an SM.
const REGISTERS: u32 = 65536;

pub(super) struct Warpgroup {
    /// Threads that have arrived at `op`.
    arrived: u32,
    op: WarpOp,
    /// The first thread's record since the last wait; what is not recorded says so.
    pub record: Vec<WgmmaOp>,
    /// Recorded before the last wait, and not waited for: some may have run.
    pub pending: VecDeque<Issued>,
    /// Records taken from the threads so far, commits among them.
    pub taken: u64,
    /// Groups committed so far, and those of them that were waited for.
    pub committed: u64,
    pub waited: u64,
    /// Registers of each of its threads.
    pub registers: u32,
}

impl Warpgroup {
    /// The warpgroups of a CTA; threads beyond the last whole one belong to none.
    pub fn of_cta(threads: u32) -> Vec<Warpgroup> {
        let unused = WgmmaOp {
            what: NOT_RECORDED,
            ..WgmmaOp::default()
        };
        let new = || Warpgroup {
            arrived: 0,
            op: WarpOp::Sync,
            record: vec![unused; 32],
            pending: VecDeque::new(),
            taken: 0,
            committed: 0,
            waited: 0,
            registers: (REGISTERS / threads / 8 * 8).min(256),
        };
        (0..threads as usize / THREADS).map(|_| new()).collect()
    }

    /// What its threads are at together, if some have arrived and others have not.
    pub fn half_arrived(&self) -> Option<WarpOp> {
        (self.arrived != 0).then_some(self.op)
    }
}

impl Machine {
    /// Arrival at something that the 128 threads of a warpgroup do together; true for the last. The others must wait.
    pub fn warpgroup_arrive(&mut self, cta: &mut Cta, thread: u32, op: WarpOp) -> Result<bool, Trouble> {
        let index = thread as usize / THREADS;
        let warp = &cta.warps[thread as usize / 32];
        if warp.arrived != 0 {
            return Err(Trouble::WarpOps {
                first: warp.op,
                second: op,
            });
        }
        let first = (index * THREADS / 32)..(index + 1) * THREADS / 32;
        let threads = cta.threads;
        let Some(group) = cta.warpgroups.get_mut(index) else {
            return Err(Trouble::NoWarpgroup { threads });
        };
        if cta.warps[first].iter().any(|warp| warp.exited != 0) {
            return Err(Trouble::WarpLeft { op });
        }
        if group.arrived == 0 {
            group.op = op;
        } else if group.op != op {
            return Err(Trouble::WarpOps {
                first: group.op,
                second: op,
            });
        }
        group.arrived += 1;
        if group.arrived < THREADS as u32 {
            // SAFETY: the running fiber.
            unsafe { cta.fiber(thread) }.wait = Wait::Warp(op);
            return Ok(false);
        }
        group.arrived = 0;
        self.fruitless = 0;
        Ok(true)
    }

    /// Lets all threads of a warpgroup go on but `except`.
    ///
    /// # Safety
    /// All are suspended but `except`, and no reference to any of them is live.
    pub unsafe fn warpgroup_wake(&mut self, cta: &mut Cta, index: usize, except: Option<u32>) {
        for thread in (index * THREADS) as u32..((index + 1) * THREADS) as u32 {
            if Some(thread) != except {
                // SAFETY: one fiber at a time.
                let f = unsafe { cta.fiber(thread) };
                cta.wake(f);
            }
        }
        self.activate(cta);
    }
}
