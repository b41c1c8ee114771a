//! Where threads of one CTA meet: the barrier with its votes, and what the 32 lanes of a warp do together.
//!
//! The last to arrive does the work for all (votes, knowledge, the tensor-core batch) and wakes the others. On a GPU a
//! `bar.sync` counts whole warps: lanes that can never come together are reported as soon as that is sure.

use super::cta::{Barrier, Cta};
use super::fiber::{Wait, WarpOp};
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::CLOCK_MAX;

impl Machine {
    /// Arrival at the CTA barrier; true if the fiber must wait (also when it was the last, now and then).
    pub fn barrier(&mut self, cta: &mut Cta, thread: u32, vote: u32, mine: bool, site: u32) -> Result<bool, Trouble> {
        // SAFETY: the running fiber; every other one is suspended, and one is borrowed at a time.
        let f = unsafe { cta.fiber(thread) };
        if self.faults.ignores(site) {
            f.result = u32::from(mine);
            return Ok(false);
        }
        if cta.exited > 0 {
            return Err(Trouble::BarrierLeft { site });
        }
        let warp = &cta.warps[f.warp()];
        if warp.arrived != 0 {
            return Err(Trouble::WarpSplit { op: warp.op, site });
        }
        let b = &mut cta.barrier;
        if b.arrived == 0 {
            *b = Barrier {
                arrived: 0,
                site,
                vote,
                any: false,
                all: true,
            };
        } else if (b.site, b.vote) != (site, vote) {
            return Err(Trouble::BarrierSites {
                first: b.site,
                second: site,
            });
        }
        b.arrived += 1;
        b.any |= mine;
        b.all &= mine;
        if b.arrived < cta.threads {
            f.wait = Wait::Barrier { site };
            return Ok(true);
        }
        let result = u32::from(if vote == 2 { b.all } else { b.any });
        b.arrived = 0;
        if f.newest_clock() > CLOCK_MAX - 8 {
            return Err(Trouble::ClocksRanOut);
        }
        self.fruitless = 0;
        // SAFETY: all threads have arrived, and one is borrowed at a time.
        unsafe {
            cta.join_all(self.faults.any_early());
            for i in 0..cta.threads {
                let other = cta.fiber(i);
                other.result = result;
                if i != thread {
                    cta.wake(other);
                }
            }
        }
        // The last to arrive goes on at once, or queues up behind the others.
        let queue = self.rng.next() & 1 == 0;
        if queue {
            cta.ready.push_back(thread as u16);
        }
        self.activate(cta);
        Ok(queue)
    }

    /// Arrival at something that 32 lanes do together; true if the fiber must wait.
    pub fn warp_arrive(&mut self, cta: &mut Cta, thread: u32, op: WarpOp) -> Result<bool, Trouble> {
        let (index, lane) = (thread as usize / 32, thread as usize % 32);
        let warp = &mut cta.warps[index];
        if warp.exited != 0 {
            return Err(Trouble::WarpLeft { op });
        }
        if warp.arrived == 0 {
            warp.op = op;
            // A lane of this warp at the CTA's barrier cannot come here before the barrier opens, nor this one go there.
            let (at_barrier, first) = (cta.barrier.arrived > 0, 32 * index as u32);
            // SAFETY: the other lanes are suspended, and only looked at.
            let blocked = |i: u32| i != thread && matches!(unsafe { cta.fiber(i) }.wait, Wait::Barrier { .. });
            if at_barrier && (first..first + 32).any(blocked) {
                return Err(Trouble::WarpSplit {
                    op,
                    site: cta.barrier.site,
                });
            }
        } else if warp.op != op {
            return Err(Trouble::WarpOps {
                first: warp.op,
                second: op,
            });
        }
        let warp = &mut cta.warps[index];
        warp.arrived |= 1 << lane;
        if warp.arrived != u32::MAX {
            // SAFETY: the running fiber.
            unsafe { cta.fiber(thread) }.wait = Wait::Warp(op);
            return Ok(true);
        }
        warp.arrived = 0;
        self.fruitless = 0;
        // SAFETY: all lanes have arrived, and one is borrowed at a time.
        unsafe {
            match op {
                WarpOp::Sync => cta.join_warp(index),
                WarpOp::Shuffle => {
                    let (values, from) = (cta.warps[index].values, cta.warps[index].from);
                    for (i, from) in from.into_iter().enumerate() {
                        cta.fiber((32 * index + i) as u32).result = values[usize::from(from)];
                    }
                }
                WarpOp::Mma { .. } => self.run_warp(cta, index)?,
                WarpOp::StoreMatrix => Self::store_matrices(cta, index)?,
                // A warpgroup's: they do not come here.
                WarpOp::Wgmma { .. } | WarpOp::Registers { .. } => {}
            }
            for i in 0..32 {
                if i != lane {
                    let other = cta.fiber((32 * index + i) as u32);
                    cta.wake(other);
                }
            }
        }
        self.activate(cta);
        Ok(false)
    }

    /// `mma_wait`: the queue's registers must still exist.
    pub fn mma_arrive(&mut self, cta: &mut Cta, thread: u32, frame: u64, site: u32) -> Result<bool, Trouble> {
        // SAFETY: the running fiber.
        if unsafe { cta.fiber(thread) }.me.mma_lowest < frame {
            return Err(Trouble::RegisterGone);
        }
        if self.faults.ignores(site) {
            // The wait does not wait: what was recorded is left to run at a later one.
            return Ok(false);
        }
        self.warp_arrive(cta, thread, WarpOp::Mma { site })
    }
}
