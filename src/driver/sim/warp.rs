//! A warp's tensor-core queue, run in one batch when its 32 lanes have arrived at the wait.
//!
//! Lane 0 has recorded the instructions; every lane its ldmatrix rows and a hash of its register numbers, which must be
//! equal. A register is its distance below the fiber's stack base, so the batch finds it in every lane's stack. It keeps
//! each register as the 8x8 matrix that the warp holds in it, and each accumulator as a 16x8 block: operands are widened
//! once, accumulators gathered at their first use and scattered at the end.

use super::cta::Cta;
use super::fiber::{MmaOp, SelfC};
use super::machine::Machine;
use super::math::{Acc, Block, Element, Math};
use super::report::Trouble;
use super::shadow::{self, GRANULE, HOST};

const LDMATRIX: u32 = 0;
const MMA_BF16: u32 = 1;
const LDMATRIX_TRANS: u32 = 3;

/// Distances below a stack base, in words, that a table covers.
const WORDS: usize = (66 << 10) / 4;

/// One register of the warp.
struct Register {
    raw: [u32; 32],
    /// Distance below the stack base.
    at: u32,
    /// Set by ldmatrix in this batch: goes back to the lanes.
    loaded: bool,
    /// As an operand, where valid: A by rows, B by k.
    a: Block,
    b: Block,
    a_valid: bool,
    b_valid: bool,
}

/// The batch's tables, kept from batch to batch for their memory.
pub(super) struct Batch {
    math: Math,
    /// Index + 1 into `registers` and `accs`, by word.
    register_at: Vec<u16>,
    acc_at: Vec<u16>,
    registers: Vec<Register>,
    registers_used: usize,
    accs: Vec<(u32, Acc)>,
    accs_used: usize,
    element: Element,
}

impl Batch {
    pub fn new() -> Batch {
        Batch {
            math: Math::new(),
            register_at: vec![0; WORDS],
            acc_at: vec![0; WORDS],
            registers: Vec::new(),
            registers_used: 0,
            accs: Vec::new(),
            accs_used: 0,
            element: Element::Bf16,
        }
    }

    fn reset(&mut self) {
        for r in &self.registers[..self.registers_used] {
            self.register_at[r.at as usize / 4] = 0;
        }
        for (at, _) in &self.accs[..self.accs_used] {
            self.acc_at[*at as usize / 4] = 0;
        }
        self.registers_used = 0;
        self.accs_used = 0;
    }

    /// The register at `at`, new (and then to be filled) or known.
    fn register(&mut self, at: u32) -> (usize, bool) {
        let known = self.register_at[at as usize / 4];
        if known != 0 {
            return (usize::from(known) - 1, false);
        }
        let index = self.registers_used;
        self.registers_used += 1;
        if index == self.registers.len() {
            self.registers.push(Register {
                raw: [0; 32],
                at,
                loaded: false,
                a: [[0.0; 8]; 8],
                b: [[0.0; 8]; 8],
                a_valid: false,
                b_valid: false,
            });
        }
        let r = &mut self.registers[index];
        (r.at, r.loaded, r.a_valid, r.b_valid) = (at, false, false, false);
        self.register_at[at as usize / 4] = index as u16 + 1;
        (index, true)
    }

    /// An operand's register: loaded in this batch, or gathered from the lanes.
    fn operand(&mut self, at: u32, lanes: &Lanes) -> usize {
        let (index, new) = self.register(at);
        if new {
            for (lane, word) in self.registers[index].raw.iter_mut().enumerate() {
                // SAFETY: `in_frame` has checked that the distance lies in the lane's stack.
                *word = unsafe { *((lanes.base[lane] - u64::from(at)) as *const u32) };
            }
        }
        index
    }

    fn as_a(&mut self, at: u32, lanes: &Lanes) -> usize {
        let index = self.operand(at, lanes);
        let r = &mut self.registers[index];
        if !r.a_valid {
            self.math.widen(&r.raw, self.element, false, &mut r.a);
            r.a_valid = true;
        }
        index
    }

    fn as_b(&mut self, at: u32, lanes: &Lanes) -> usize {
        let index = self.operand(at, lanes);
        let r = &mut self.registers[index];
        if !r.b_valid {
            self.math.widen(&r.raw, self.element, true, &mut r.b);
            r.b_valid = true;
        }
        index
    }

    fn acc(&mut self, at: u32, lanes: &Lanes) -> usize {
        let known = self.acc_at[at as usize / 4];
        if known != 0 {
            return usize::from(known) - 1;
        }
        if self.accs_used == self.accs.len() {
            self.accs.push((0, [[0.0; 8]; 16]));
        }
        let (place, acc) = &mut self.accs[self.accs_used];
        *place = at;
        for (lane, base) in lanes.base.iter().enumerate() {
            // SAFETY: `in_frame` has checked that the distance lies in the lane's stack, four f32 of it.
            let d = unsafe { *((base - u64::from(at)) as *const [f32; 4]) };
            let (row, col) = (lane / 4, lane % 4 * 2);
            (
                acc[row][col],
                acc[row][col + 1],
                acc[row + 8][col],
                acc[row + 8][col + 1],
            ) = (d[0], d[1], d[2], d[3]);
        }
        self.accs_used += 1;
        self.acc_at[at as usize / 4] = self.accs_used as u16;
        self.accs_used - 1
    }

    fn mma(&mut self, op: MmaOp, lanes: &Lanes) {
        let element = if op.kind == MMA_BF16 {
            Element::Bf16
        } else {
            Element::F16
        };
        if element != self.element {
            self.element = element;
            for r in &mut self.registers {
                (r.a_valid, r.b_valid) = (false, false);
            }
        }
        let d = self.acc(op.d, lanes);
        let a: [usize; 4] = std::array::from_fn(|i| self.as_a(op.a - 4 * i as u32, lanes));
        let b: [usize; 2] = std::array::from_fn(|i| self.as_b(op.b - 4 * i as u32, lanes));
        let r = &self.registers;
        let (a, b) = (a.map(|i| &r[i].a), b.map(|i| &r[i].b));
        self.math.mma(&mut self.accs[d].1, a, b);
    }

    /// Puts accumulators and loaded registers back into the lanes.
    fn scatter(&self, lanes: &Lanes) {
        for (at, acc) in &self.accs[..self.accs_used] {
            for (lane, base) in lanes.base.iter().enumerate() {
                let (row, col) = (lane / 4, lane % 4 * 2);
                let d = [
                    acc[row][col],
                    acc[row][col + 1],
                    acc[row + 8][col],
                    acc[row + 8][col + 1],
                ];
                // SAFETY: as in `acc`.
                unsafe { *((base - u64::from(*at)) as *mut [f32; 4]) = d };
            }
        }
        for r in self.registers[..self.registers_used].iter().filter(|r| r.loaded) {
            for (word, base) in r.raw.iter().zip(&lanes.base) {
                // SAFETY: as in `operand`.
                unsafe { *((base - u64::from(r.at)) as *mut u32) = *word };
            }
        }
    }
}

struct Lanes {
    base: [u64; 32],
}

/// Whether `bytes` at this distance below the base lie in a stack at all.
fn in_frame(at: u32, bytes: u32) -> bool {
    at >= bytes && (at as usize) < WORDS * 4 && at.is_multiple_of(4)
}

impl Machine {
    /// Runs the queue of a warp whose lanes are all here, and empties it.
    ///
    /// # Safety
    /// No fiber of the warp runs but the caller's, and no reference to one is live.
    pub unsafe fn run_warp(&mut self, cta: &mut Cta, warp: usize) -> Result<(), Trouble> {
        // SAFETY: the warp's fibers live as long as the CTA; they are read through this pointer alone below.
        let fibers = unsafe { cta.fibers.add(warp * 32) };
        let mut lanes = Lanes { base: [0; 32] };
        // SAFETY: one of the warp's 32 fibers; shared references only, and they end before the reset below.
        let lane = |i: usize| -> &SelfC { unsafe { &(*fibers.add(i)).me } };
        let first = lane(0);
        for i in 0..32 {
            let me = lane(i);
            lanes.base[i] = me.stack_base;
            if (me.mma_hash, me.row_count) != (first.mma_hash, first.row_count) {
                return Err(Trouble::LanesDisagree {
                    warp: warp as u32,
                    lane: i as u32,
                });
            }
        }
        let ops = &cta.warps[warp].ops[..first.mma_count as usize];
        let batch = &mut self.batch;
        let mut rows = 0;
        for op in ops {
            let fits = match op.kind {
                LDMATRIX | LDMATRIX_TRANS => in_frame(op.d, 16),
                _ => in_frame(op.d, 16) && in_frame(op.a, 16) && in_frame(op.b, 8),
            };
            if !fits {
                return Err(Trouble::RegisterGone);
            }
            if !matches!(op.kind, LDMATRIX | LDMATRIX_TRANS) {
                batch.mma(*op, &lanes);
                continue;
            }
            for j in 0..4 {
                let (index, _) = batch.register(op.d - 4 * j as u32);
                let register = &mut batch.registers[index];
                (register.loaded, register.a_valid, register.b_valid) = (true, false, false);
                for r in 0..8 {
                    let me = lane(8 * j + r);
                    // SAFETY: every lane has recorded as many rows as lane 0 has ldmatrix instructions.
                    let addr = unsafe { *me.mma_rows.add(rows) };
                    if addr % 16 != 0 || u64::from(addr) + 16 > u64::from(me.shared_bytes) || !known(me, addr) {
                        // SAFETY: the provider of the row, only read.
                        let provider = unsafe { &*fibers.add(8 * j + r) };
                        Machine::check_shared(cta, provider, addr, 16, false).map_err(|t| t.by(provider.me.thread))?;
                    }
                    // SAFETY: the row lies in the window.
                    let row = unsafe { *(me.shared.add(addr as usize) as *const [u32; 4]) };
                    register.raw[4 * r..4 * r + 4].copy_from_slice(&row);
                }
                if op.kind == LDMATRIX_TRANS {
                    register.raw = turned(&register.raw);
                }
            }
            rows += 1;
        }
        batch.scatter(&lanes);
        batch.reset();
        for i in 0..32 {
            // SAFETY: one of the warp's fibers; no other reference is live any more.
            let me = unsafe { &mut (*fibers.add(i)).me };
            (me.mma_hash, me.mma_lowest, me.mma_count, me.row_count) = (0, u64::MAX, 0, 0);
        }
        Ok(())
    }
}

/// An 8x8 matrix of 16-bit values, a row in four words, turned round.
fn turned(raw: &[u32; 32]) -> [u32; 32] {
    let at = |row: usize, col: usize| raw[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
    std::array::from_fn(|i| at(i % 4 * 2, i / 4) | at(i % 4 * 2 + 1, i / 4) << 16)
}

/// The fast check of a row of shared memory: its writer is known by the CTA's row.
fn known(me: &SelfC, addr: u32) -> bool {
    // SAFETY: the caller has checked that `addr` lies in the window; a tag's thread is one of the CTA's, whose row holds
    // two entries for each.
    unsafe {
        let tag = *me.shared_shadow.add(addr as usize / GRANULE as usize);
        tag > HOST && *me.row.add((tag >> shadow::WHO_SHIFT & 0x7ff) as usize) >= shadow::clock(tag)
    }
}
