//! Copies, sums of two, fills.

use super::check::Operands;
use super::launch::{Entry, enqueue, walk};
use crate::abi::{self, TwLocal};
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

const MOVE: Entry = Entry {
    name: "move_matrix",
    shared: 0,
    ctas_per_sm: 2,
};

/// A matrix into another of its shape and type, bit by bit: rows may lie otherwise.
#[derive(Debug)]
pub struct Copy<'a> {
    /// `[m, n]`.
    pub from: Mat<'a>,
    /// `[m, n]`.
    pub to: MatMut<'a>,
}

/// `out = a + b`, in f32, rounded once.
#[derive(Debug)]
pub struct Add<'a> {
    /// `[m, n]`.
    pub a: Mat<'a>,
    /// `[m, n]`.
    pub b: Mat<'a>,
    /// `[m, n]`; may be `a` or `b` itself.
    pub out: MatMut<'a>,
}

/// Every element becomes `value`, rounded to their type.
#[derive(Debug)]
pub struct Fill<'a> {
    /// Any number.
    pub value: f32,
    /// `[m, n]`.
    pub out: MatMut<'a>,
}

fn local(what: u32, m: usize, n: usize) -> (TwLocal, usize) {
    let (row_threads, items) = walk(m, n);
    let local = TwLocal {
        what,
        rows: m as u32,
        cols: n as u32,
        row_threads,
        ..TwLocal::default()
    };
    (local, items)
}

impl Copy<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes or types, that overlap, or lie elsewhere.
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, n] = [self.from.rows(), self.from.cols()];
        let what = format_args!("a copy of [{m}, {n}]");
        let mut all = Operands::new(rank, &what, "the source's", &self.from.raw)?;
        let (mut local, items) = local(abi::TW_COPY, m, n);
        local.mat[abi::TW_MOVE_A as usize] = all.read("from", &self.from, [m, n])?;
        local.mat[abi::TW_MOVE_OUT as usize] = all.write("to", &self.to, [m, n], &[])?;
        local.vectors = all.in_vectors(n);
        enqueue(rank, MOVE, self.from.dtype(), items, local)
    }
}

impl Add<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// As [`Copy::launch`].
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, n] = [self.a.rows(), self.a.cols()];
        let what = format_args!("a sum of two [{m}, {n}]");
        let mut all = Operands::new(rank, &what, "a's", &self.a.raw)?;
        let (mut local, items) = local(abi::TW_ADD, m, n);
        local.mat[abi::TW_MOVE_A as usize] = all.read("a", &self.a, [m, n])?;
        local.mat[abi::TW_MOVE_B as usize] = all.read("b", &self.b, [m, n])?;
        local.mat[abi::TW_MOVE_OUT as usize] = all.write("out", &self.out, [m, n], &["a", "b"])?;
        local.vectors = all.in_vectors(n);
        enqueue(rank, MOVE, self.a.dtype(), items, local)
    }
}

impl Fill<'_> {
    /// Enqueues it on the rank's stream.
    ///
    /// # Errors
    /// As [`Copy::launch`].
    pub fn launch(&self, rank: &Rank) -> Result<()> {
        let [m, n] = [self.out.rows(), self.out.cols()];
        let what = format_args!("a fill of [{m}, {n}]");
        let mut all = Operands::new(rank, &what, "its own", &self.out.raw)?;
        let (mut local, items) = local(abi::TW_FILL, m, n);
        local.value = self.value.to_bits();
        local.mat[abi::TW_MOVE_OUT as usize] = all.write("out", &self.out, [m, n], &[])?;
        local.vectors = all.in_vectors(n);
        enqueue(rank, MOVE, self.out.dtype(), items, local)
    }
}
