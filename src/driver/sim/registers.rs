//! `reg_alloc` and `reg_dealloc` (setmaxnreg): a CTA's account of registers. Its warpgroups begin with equal shares and
//! nothing is left over; what one gives back another can have. Who asks for more than there is waits until there is, for
//! ever if need be: the deadlock names it.

use super::cta::Cta;
use super::fiber::WarpOp;
use super::machine::Machine;
use super::product::THREADS;
use super::report::Trouble;

/// What warpgroups have given back, in registers a thread, and who waits for how many.
#[derive(Debug, Default)]
pub(super) struct Account {
    free: u32,
    waiting: Vec<(usize, u32)>,
}

impl Machine {
    /// A thread's arrival at a change to `count` registers; true if it must wait.
    pub fn change_registers(
        &mut self,
        cta: &mut Cta,
        thread: u32,
        count: u32,
        increase: bool,
    ) -> Result<bool, Trouble> {
        if !self.warpgroup_arrive(cta, thread, WarpOp::Registers { count, increase })? {
            return Ok(true);
        }
        let index = thread as usize / THREADS;
        let group = &mut cta.warpgroups[index];
        if increase != (count > group.registers) && count != group.registers {
            return Err(Trouble::BadRegisters {
                have: group.registers,
                count,
                increase,
            });
        }
        if increase {
            cta.account.waiting.push((index, count));
        } else {
            cta.account.free += group.registers - count;
            group.registers = count;
            // SAFETY: the group's threads have all arrived here, and nobody refers to one.
            unsafe { self.warpgroup_wake(cta, index, Some(thread)) };
        }
        let mut granted = !increase;
        let mut i = 0;
        while let Some(&(waiting, count)) = cta.account.waiting.get(i) {
            let more = count - cta.warpgroups[waiting].registers;
            if more > cta.account.free {
                i += 1;
                continue;
            }
            cta.account.waiting.remove(i);
            cta.account.free -= more;
            cta.warpgroups[waiting].registers = count;
            let mine = waiting == index;
            granted |= mine;
            // SAFETY: all threads of a group that waits are suspended, but this one if the group is its own.
            unsafe { self.warpgroup_wake(cta, waiting, mine.then_some(thread)) };
        }
        if !granted {
            // SAFETY: the running fiber.
            unsafe { cta.fiber(thread) }.wait = super::fiber::Wait::Warp(WarpOp::Registers { count, increase });
        }
        Ok(!granted)
    }
}
