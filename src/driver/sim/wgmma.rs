//! wgmma: recorded by the threads, run when all 128 have come to a wait, in batches of what adds into the same accumulators.
//!
//! Operands are read as late as that, so whoever overwrites them too early is found out: by wrong numbers, or by the check
//! of every granule that is read against what the warpgroup's threads knew when they issued. A later write is none
//! of what they knew. With groups left pending by the wait, these too may run at once, by the seed, or stay.

use super::cta::Cta;
use super::descriptor::{Operand, decode};
use super::fiber::{Fiber, WarpOp, WgmmaOp};
use super::machine::Machine;
use super::math::Element;
use super::operands::{Known, Source};
use super::product::THREADS;
use super::report::Trouble;
use super::shadow::GRANULE;

/// `WgmmaOp::what` of what is not recorded yet.
pub(super) const NOT_RECORDED: u32 = u32::MAX;
/// Rows of A.
const ROWS: u32 = 64;
/// Steps of 16 in K that are run together.
const STEPS: usize = 8;

/// A wgmma that was recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Issued {
    /// Its number among the warpgroup's records.
    pub index: u64,
    /// Of the commit that closes it.
    group: u64,
    pub a: Operand,
    pub b: Operand,
    /// Distance below the stack base.
    pub d: u32,
    pub n: u32,
    pub element: Element,
    pub add: bool,
    /// Before it was waited for.
    ran: bool,
}

fn is_add(op: WgmmaOp) -> bool {
    op.what >> 24 & 1 != 0
}

fn n_of(op: WgmmaOp) -> u32 {
    op.what & 0xffff
}

/// The descriptors of a record.
fn operands(op: WgmmaOp, window: u32) -> Result<(Operand, Operand), Trouble> {
    let of = |bits, rows, operand| {
        decode(bits, rows, window).map_err(|(field, value)| Trouble::Descriptor {
            operand,
            bits,
            field,
            value,
        })
    };
    Ok((of(op.a, ROWS, 'A')?, of(op.b, n_of(op), 'B')?))
}

impl Machine {
    /// Before a thread's first wgmma, and where it knows more than at its last one.
    pub fn wgmma_begin(cta: &Cta, f: &mut Fiber) -> Result<(), Trouble> {
        let Some(group) = cta.warpgroups.get(f.me.thread as usize / THREADS) else {
            return Err(Trouble::NoWarpgroup { threads: cta.threads });
        };
        if f.me.wgmma_fenced == 0 {
            return Err(Trouble::WgmmaUnfenced);
        }
        f.issued.push(Known {
            from: group.taken + u64::from(f.me.wgmma_count),
            view: f.view.as_ref().unwrap_or(&cta.view).clone(),
        });
        f.me.wgmma_row = f.me.row;
        Ok(())
    }

    /// More room for the record of a warpgroup's first thread.
    pub fn wgmma_grow(cta: &mut Cta, f: &mut Fiber) {
        if let Some(group) = cta.warpgroups.get_mut(f.me.thread as usize / THREADS) {
            let unused = WgmmaOp {
                what: NOT_RECORDED,
                ..WgmmaOp::default()
            };
            group.record.resize(2 * group.record.len(), unused);
            f.me.wgmma_ops = group.record.as_mut_ptr();
            f.me.wgmma_room = group.record.len() as u32;
        }
    }

    /// A thread's arrival at `wgmma_wait`; true if it must wait for others.
    pub fn wgmma_wait(
        &mut self,
        cta: &mut Cta,
        thread: u32,
        frame: u64,
        keep: u32,
        site: u32,
    ) -> Result<bool, Trouble> {
        if self.faults.ignores(site) {
            // The wait does not wait: what was recorded is left to run at a later one.
            return Ok(false);
        }
        if !self.warpgroup_arrive(cta, thread, WarpOp::Wgmma { keep, site })? {
            return Ok(true);
        }
        let index = thread as usize / THREADS;
        // SAFETY: the running fiber, only looked at.
        let frame = unsafe { cta.fiber(thread) }.me.stack_base - frame;
        // SAFETY: all of the group's threads have arrived, and no reference to one is live.
        unsafe {
            self.run_warpgroup(cta, index, u64::from(keep), frame)?;
            self.warpgroup_wake(cta, index, Some(thread));
        }
        Ok(false)
    }

    /// Takes what was recorded and runs all committed groups but the newest `keep`, or these too.
    ///
    /// # Safety
    /// The group's threads are all at the wait, and no reference to one is live.
    unsafe fn run_warpgroup(&mut self, cta: &mut Cta, index: usize, keep: u64, frame: u64) -> Result<(), Trouble> {
        // SAFETY: the group's fibers, which live as long as the CTA.
        unsafe { Self::take_record(cta, index)? };
        let group = &mut cta.warpgroups[index];
        group.waited = group.waited.max(group.committed.saturating_sub(keep));
        let early = keep > 0 && self.rng.next() & 1 == 0;
        let until = if early { group.committed } else { group.waited };
        let run = group.pending.iter_mut().take_while(|op| op.group < until);
        let ops: Vec<Issued> = run
            .filter(|op| !op.ran)
            .map(|op| {
                op.ran = true;
                *op
            })
            .collect();
        let waited = group.waited;
        group.pending.retain(|op| op.group >= waited);
        if ops.iter().any(|op| u64::from(op.d) > frame || op.d < 2 * op.n) {
            return Err(Trouble::AccumulatorGone);
        }
        // SAFETY: as above; shared references only, and they end with this block.
        unsafe {
            let threads: Vec<&Fiber> = (0..THREADS).map(|i| &*cta.fibers.add(index * THREADS + i)).collect();
            let mut source = Source::new(cta);
            let mut rest = &ops[..];
            while let Some(first) = rest.first() {
                let same = |op: &Issued| op.add && (op.d, op.n, op.element) == (first.d, first.n, first.element);
                let more = rest[1..].iter().take(STEPS - 1).take_while(|op| same(op)).count();
                let (batch, after) = rest.split_at(1 + more);
                self.tensor.run(batch, &threads, &mut source)?;
                rest = after;
            }
        }
        let oldest = cta.warpgroups[index]
            .pending
            .iter()
            .find(|op| !op.ran)
            .map_or(u64::MAX, |op| op.index);
        for i in 0..THREADS {
            // SAFETY: as above, one fiber at a time.
            let f = unsafe { cta.fiber((index * THREADS + i) as u32) };
            let passed = f.issued.partition_point(|known| known.from <= oldest);
            f.issued.drain(..passed.saturating_sub(1));
        }
        Ok(())
    }

    /// Moves the threads' records, which must agree, to what is pending.
    ///
    /// # Safety
    /// As [`Machine::run_warpgroup`].
    unsafe fn take_record(cta: &mut Cta, index: usize) -> Result<(), Trouble> {
        let first = (index * THREADS) as u32;
        // SAFETY: the group's first fiber, only looked at.
        let lead = unsafe { &cta.fiber(first).me };
        let (hash, count, window) = (lead.wgmma_hash, lead.wgmma_count, lead.shared_bytes);
        for thread in first..first + THREADS as u32 {
            // SAFETY: one fiber at a time; the lead is not borrowed any more.
            let me = unsafe { &mut cta.fiber(thread).me };
            if (me.wgmma_hash, me.wgmma_count) != (hash, count) {
                return Err(Trouble::WarpgroupDisagrees { first, thread });
            }
            if thread != first {
                (me.wgmma_hash, me.wgmma_count) = (0, 0);
            }
        }
        // SAFETY: as above.
        let me = unsafe { &mut cta.fiber(first).me };
        (me.wgmma_hash, me.wgmma_count) = (0, 0);
        let group = &mut cta.warpgroups[index];
        for op in &mut group.record[..count as usize] {
            if op.what == 0 {
                group.committed += 1;
            } else {
                let (a, b) = operands(*op, window)?;
                group.pending.push_back(Issued {
                    index: group.taken,
                    group: group.committed,
                    a,
                    b,
                    d: op.d,
                    n: n_of(*op),
                    element: if op.what >> 16 & 3 == 1 {
                        Element::Bf16
                    } else {
                        Element::F16
                    },
                    add: is_add(*op),
                    ran: false,
                });
            }
            group.taken += 1;
            op.what = NOT_RECORDED;
        }
        Ok(())
    }

    /// Whether a wgmma that was issued and not waited for reads any of `bytes` at `addr` of the CTA's shared memory. Who
    /// writes there now changes its operands, or not, as the schedule has it.
    pub fn wgmma_in_flight(cta: &Cta, addr: u32, bytes: u32) -> bool {
        let window = cta.window.shadow.len() as u32 * GRANULE as u32;
        cta.warpgroups.iter().any(|group| {
            let recorded = group.record.iter().take_while(|op| op.what != NOT_RECORDED);
            let mut recorded = recorded
                .filter(|op| op.what != 0)
                .filter_map(|op| operands(*op, window).ok());
            group
                .pending
                .iter()
                .any(|op| op.a.reads(addr, bytes) || op.b.reads(addr, bytes))
                || recorded.any(|(a, b)| a.reads(addr, bytes) || b.reads(addr, bytes))
        })
    }

    /// A thread leaves: nothing that it issued may be without a wait.
    pub fn wgmma_left(cta: &Cta, f: &Fiber) -> Result<(), Trouble> {
        let waited = |group: &super::warpgroup::Warpgroup| group.waited == group.committed && group.pending.is_empty();
        let group = cta.warpgroups.get(f.me.thread as usize / THREADS);
        match f.me.wgmma_count == 0 && group.is_none_or(waited) {
            true => Ok(()),
            false => Err(Trouble::WgmmaUnwaited),
        }
    }
}
