//! The operands of wgmmas that run together: read from shared memory, checked granule by granule, widened for the
//! [`Product`].
//!
//! A granule may be read if every thread of the warpgroup knew its writer when it issued, and, of ordinary stores, a fence
//! behind them. Neighbours mostly have one writer, and threads one view: both are looked at where they change.

use std::rc::Rc;

use super::clock::View;
use super::cta::Cta;
use super::descriptor::Operand;
use super::fiber::Fiber;
use super::machine::Machine;
use super::math::{Block, Math};
use super::product::{COLUMNS, PAIRED, Product, Slice, THREADS, first_column, first_row};
use super::report::Trouble;
use super::shadow::{self, GRANULE, HOST, UNWRITTEN};
use super::units::Content;
use super::wgmma::Issued;

/// What a thread knew from its record `from` on.
#[derive(Debug)]
pub(super) struct Known {
    pub from: u64,
    pub view: Rc<View>,
}

/// The operands' readable memory, and who must know its writers.
pub(super) struct Source<'a> {
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
    pub fn new(cta: &'a Cta) -> Source<'a> {
        Source {
            cta,
            bytes: cta.window.bytes.as_ptr().cast(),
            knowers: Vec::new(),
            changes: 0,
            fine: 0,
            trouble: None,
        }
    }

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

    /// Runs wgmmas that add into the same accumulators one after another.
    ///
    /// # Safety
    /// `threads` are the 128 of the warpgroup, suspended; the accumulators lie in their frames.
    pub unsafe fn run<'a>(
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
