//! wgmma: recorded by the threads, run when all 128 have come to a wait, in batches of what adds into the same accumulators.
//!
//! Operands are read as late as that, so whoever overwrites them too early is found out: by wrong numbers, or by the check
//! of every granule that is read against what the warpgroup's threads knew when they issued. A later write is none
//! of what they knew. With groups left pending by the wait, these too may run at once, by the seed, or stay.

use std::rc::Rc;

use super::clock::View;
use super::cta::Cta;
use super::descriptor::{Operand, decode};
use super::fiber::{Fiber, WarpOp, WgmmaOp};
use super::machine::Machine;
use super::math::{Block, Element, Math};
use super::product::{COLUMNS, PAIRED, Product, Slice, THREADS, first_column, first_row};
use super::report::Trouble;
use super::shadow::{self, GRANULE, HOST, UNWRITTEN};
use super::units::Content;

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
    index: u64,
    /// Of the commit that closes it.
    group: u64,
    a: Operand,
    b: Operand,
    /// Distance below the stack base.
    d: u32,
    n: u32,
    element: Element,
    add: bool,
    /// Before it was waited for.
    ran: bool,
}

/// What a thread knew from its record `from` on.
#[derive(Debug)]
pub(super) struct Known {
    from: u64,
    view: Rc<View>,
}

/// A batch's operands, kept for their memory.
pub(super) struct Tensor {
    math: Math,
    a: Vec<Slice>,
    b: Vec<Block>,
}

impl Tensor {
    pub fn new() -> Tensor {
        Tensor {
            math: Math::new(),
            a: Vec::new(),
            b: Vec::new(),
        }
    }
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

/// The operands' readable memory, and who must know its writers.
struct Source<'a> {
    cta: &'a Cta,
    bytes: *const u8,
    /// Every thread of the warpgroup, those of one view once: what it knew when it issued.
    knowers: Vec<(u32, &'a View)>,
    /// Where one of them knows more.
    changes: u64,
    /// The last writer that was found known to all.
    fine: u64,
    /// The first granule that may not be read.
    trouble: Option<Trouble>,
}

impl<'a> Source<'a> {
    /// Turns to what the threads knew at record `index`.
    fn turn_to(&mut self, threads: &[&'a Fiber], index: u64) {
        if index < self.changes && !self.knowers.is_empty() {
            return;
        }
        self.knowers.clear();
        (self.changes, self.fine) = (u64::MAX, 0);
        for f in threads {
            let next = f.issued.partition_point(|known| known.from <= index);
            if let Some(known) = f.issued.get(next) {
                self.changes = self.changes.min(known.from);
            }
            let Some(known) = next.checked_sub(1).map(|i| &f.issued[i]) else {
                continue;
            };
            if !self
                .knowers
                .last()
                .is_some_and(|(_, view)| std::ptr::eq(*view, &*known.view))
            {
                self.knowers.push((f.me.thread, &known.view));
            }
        }
    }

    /// Eight rows of an operand, the two halves of their k apart, as [`Math::widen`] takes them, after the check of their
    /// writers: `trouble` says whether they may be used.
    #[inline(always)]
    fn rows(&mut self, of: Operand, first: usize, order: &[usize; 8], operand: char, raw: &mut [[u32; 32]; 2]) {
        for (i, row) in order.iter().enumerate() {
            let chunk = of.chunk((first + row) as u32);
            for (half, raw) in raw.iter_mut().enumerate() {
                let addr = chunk ^ (16 * half) as u32;
                let tag = self.cta.window.shadow[addr as usize / GRANULE as usize];
                // SAFETY: `decode` has found the operand's rows inside the window; 16-byte aligned.
                let mut values = unsafe { *(self.bytes.add(addr as usize).cast::<[u32; 4]>()) };
                if ((tag ^ self.fine) >> shadow::CLOCK_SHIFT != 0 || tag <= HOST) && self.check(addr, operand, tag) {
                    // NaN of either type, which makes NaN of the whole row of the product.
                    values = [0x7fff_7fff; 4];
                }
                raw[4 * i..4 * i + 4].copy_from_slice(&values);
            }
        }
    }

    /// A granule whose shadow is not that of the last one: true where TMA has loaded what nobody had written.
    #[cold]
    fn check(&mut self, addr: u32, operand: char, tag: u64) -> bool {
        let content = Machine::content(self.cta, addr, tag);
        let trouble = match content.tag() {
            None => Some(Trouble::WgmmaReads {
                operand,
                addr,
                tag: UNWRITTEN,
                thread: 0,
            }),
            Some(writer) => self.stranger(content, writer, operand, addr),
        };
        let undefined = matches!(content, Content::Undefined(_));
        match trouble {
            Some(trouble) => self.trouble = self.trouble.or(Some(trouble)),
            None if undefined && operand == 'B' => {
                self.trouble = self.trouble.or(Some(Trouble::UndefinedOperand { addr }));
            }
            // What bulk copies read stands for several writers.
            None if undefined || Machine::source_of(self.cta, tag).is_some() => {}
            None => self.fine = tag,
        }
        undefined
    }

    /// What is wrong for the first thread that did not know of the granule's writer, or of a fence behind an ordinary store.
    fn stranger(&self, content: Content, tag: u64, operand: char, addr: u32) -> Option<Trouble> {
        let w = shadow::writer(tag);
        let own = w.slot == self.cta.slot && w.clock >= self.cta.start;
        let stored = matches!(content, Content::Stored(_));
        self.knowers.iter().find_map(|(thread, view)| {
            let clock = |who: usize| view.own.get(who).copied().unwrap_or(0);
            let known = match own {
                true => clock(usize::from(w.who)) >= w.clock,
                false => view.others.knows(w.slot, w.who, w.clock),
            };
            let fenced = || Machine::fenced_by(self.cta, tag, clock(usize::from(w.who) & !1));
            match (known, stored) {
                (false, _) => Some(Trouble::WgmmaReads {
                    operand,
                    addr,
                    tag,
                    thread: *thread,
                }),
                (true, true) if !fenced() => Some(Trouble::NoSharedFence { addr, tag }),
                _ => None,
            }
        })
    }
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
            let mut source = Source {
                cta,
                bytes: cta.window.bytes.as_ptr().cast(),
                knowers: Vec::new(),
                changes: 0,
                fine: 0,
                trouble: None,
            };
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

impl Tensor {
    /// Runs wgmmas that add into the same accumulators one after another.
    ///
    /// # Safety
    /// `threads` are the 128 of the warpgroup, suspended; the accumulators lie in their frames.
    unsafe fn run<'a>(
        &mut self,
        batch: &[Issued],
        threads: &[&'a Fiber],
        source: &mut Source<'a>,
    ) -> Result<(), Trouble> {
        let first = batch[0];
        let k_blocks = 2 * batch.len();
        let vectors = first.n as usize / 8;
        let quads = vectors / 4;
        self.a.resize(k_blocks, [[0.0; 64]; 8]);
        self.b.resize(vectors * k_blocks, [[0.0; 8]; 8]);
        let (mut raw, mut block) = ([[0; 32]; 2], [[0.0; 8]; 8]);
        for (step, op) in batch.iter().enumerate() {
            source.turn_to(threads, op.index);
            for eight in 0..8 {
                source.rows(op.a, first_row(eight), &PAIRED, 'A', &mut raw);
                for (half, raw) in raw.iter().enumerate() {
                    self.math.widen(raw, op.element, true, &mut block);
                    for (to, row) in self.a[2 * step + half].iter_mut().zip(&block) {
                        to[8 * eight..8 * eight + 8].copy_from_slice(row);
                    }
                }
            }
            for vector in 0..vectors {
                let first = first_column(vector / quads, vector % quads);
                source.rows(op.b, first, &COLUMNS, 'B', &mut raw);
                for (half, raw) in raw.iter().enumerate() {
                    let k = 2 * step + half;
                    self.math
                        .widen(raw, op.element, true, &mut self.b[vector * k_blocks + k]);
                }
            }
        }
        if let Some(trouble) = source.trouble {
            return Err(trouble);
        }
        let d: [*mut f32; THREADS] =
            std::array::from_fn(|i| (threads[i].me.stack_base - u64::from(first.d)) as *mut f32);
        let product = Product {
            a: &self.a,
            b: &self.b,
            n: first.n as usize,
            k_blocks,
            add: first.add,
            d: &d,
        };
        // SAFETY: the caller's promise: N / 2 floats of each thread's frame, and nobody runs meanwhile.
        unsafe { product.run(self.math.fused()) };
        Ok(())
    }
}
