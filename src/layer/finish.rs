//! Gradients of parameters that ranks hold alike, but of which a backward pass leaves each rank only a part: those of a layer
//! are brought together in one row, which one all-reduce adds up.

use super::memory::Carver;
use super::options::Options;
use super::sends::Sends;
use crate::error::Result;
use crate::group::Rank;
use crate::local::{Copy, Fill};
use crate::memory::{MatMut, RawMat};
use crate::op::{Operands, Plan};

/// A gradient, and where it lies in the row.
pub(super) struct Part<'a> {
    pub gradient: MatMut<'a>,
    pub at: usize,
}

/// The row, planned.
#[derive(Debug)]
pub(super) struct Finish {
    rank: Rank,
    options: Options,
    elements: usize,
    /// None where no rank has only a part.
    plan: Option<Plan>,
}

impl Finish {
    /// Of `elements`, 0 where there is nothing to add up.
    pub fn new(rank: &Rank, options: &Options, elements: usize) -> Result<Finish> {
        let op = options.training.then(|| options.sum_of(elements)).flatten();
        Ok(Finish {
            rank: rank.clone(),
            options: *options,
            elements,
            plan: op.map(|op| rank.plan(&op)).transpose()?,
        })
    }

    pub fn sends(&self) -> Vec<Sends> {
        self.plan.iter().map(|plan| Sends::of(plan, 1)).collect()
    }

    /// The row's memory.
    pub fn keep<'a>(&self, carver: &mut Carver<'a>) -> Result<MatMut<'a>> {
        let elements = if self.plan.is_some() { self.elements } else { 0 };
        carver.take_flat(1, elements, self.options.dtype)
    }

    /// Adds up; ranks may bring different parts, and all get back the sums of what they brought.
    pub fn run(&self, parts: Vec<Part<'_>>, mut row: MatMut<'_>) -> Result<()> {
        let (rank, Some(plan)) = (&self.rank, &self.plan) else {
            return Ok(());
        };
        if parts.is_empty() {
            return Ok(());
        }
        Fill {
            value: 0.0,
            out: row.reborrow(),
        }
        .launch(rank)?;
        for part in &parts {
            let to = part.within(row.reborrow())?;
            let from = part.gradient.as_mat();
            Copy { from, to }.launch(rank)?;
        }
        plan.launch(&Operands::in_place(1, row.reborrow()))?;
        for part in parts {
            let from = part.within(row.reborrow())?;
            let (from, to) = (from.as_mat(), part.gradient);
            Copy { from, to }.launch(rank)?;
        }
        Ok(())
    }
}

impl Part<'_> {
    /// Its place in the row, in the gradient's shape.
    fn within<'a>(&self, row: MatMut<'a>) -> Result<MatMut<'a>> {
        let (rows, cols) = (self.gradient.rows(), self.gradient.cols());
        let flat = row.part(0..1, self.at..self.at + rows * cols)?;
        // The same bytes, row after row.
        let raw = RawMat {
            rows,
            cols,
            ld: cols,
            ..flat.raw
        };
        Ok(MatMut { raw, ..flat })
    }
}
