//! Borders of the sequence-parallel region.

use super::{Border, Held, MappingSpec};
use crate::error::Result;
use crate::group::Rank;
use crate::layer::Sends;
use crate::memory::{Mat, MatMut};
use crate::op::Op;

/// `scatter_to_sequence_parallel_region`: every rank goes on with its rows of x.
#[derive(Debug)]
pub struct ScatterToSequence(Border);

impl ScatterToSequence {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<ScatterToSequence> {
        Border::new(rank, spec, &spec.plain(Op::AllGather)).map(ScatterToSequence)
    }

    /// A view of this rank's rows of x `[m, d]`: `[m_r, d]`.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn forward<'a>(&self, m: usize, x: Mat<'a>) -> Result<Mat<'a>> {
        self.0.view(m, "x", x, Held::Rows)
    }

    /// dx `[m, d]`: the ranks' dy `[m_r, d]`, one below the other.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, m: usize, dy: Mat<'_>, dx: MatMut<'_>) -> Result<()> {
        self.0.travel(m, ("dy", Held::Rows, dy), ("dx", Held::Whole, dx))
    }

    /// Nothing.
    pub fn forward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }

    /// What the gather sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.0.sends(m)
    }
}

/// `gather_from_sequence_parallel_region`: the ranks' rows one below the other, on every rank.
#[derive(Debug)]
pub struct GatherFromSequence {
    gather: Border,
    scatter: Border,
}

impl GatherFromSequence {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<GatherFromSequence> {
        Ok(GatherFromSequence {
            gather: Border::new(rank, spec, &spec.plain(Op::AllGather))?,
            scatter: Border::new(rank, spec, &spec.plain(Op::ReduceScatter))?,
        })
    }

    /// y `[m, d]`: the ranks' x `[m_r, d]`, one below the other.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, m: usize, x: Mat<'_>, y: MatMut<'_>) -> Result<()> {
        self.gather.travel(m, ("x", Held::Rows, x), ("y", Held::Whole, y))
    }

    /// dx `[m_r, d]`: this rank's rows of the sum of the ranks' dy `[m, d]`.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, m: usize, dy: Mat<'_>, dx: MatMut<'_>) -> Result<()> {
        self.scatter.travel(m, ("dy", Held::Whole, dy), ("dx", Held::Rows, dx))
    }

    /// The way back where every rank has the same dy `[m, d]`, as Megatron's with `tensor_parallel_output_grad=False`: a view of
    /// this rank's rows. Nothing travels.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn backward_alike<'a>(&self, m: usize, dy: Mat<'a>) -> Result<Mat<'a>> {
        self.gather.view(m, "dy", dy, Held::Rows)
    }

    /// What the gather sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        self.gather.sends(m)
    }

    /// What [`GatherFromSequence::backward`] sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.scatter.sends(m)
    }
}

/// `reduce_scatter_to_sequence_parallel_region`: the ranks' x are added up, and every rank goes on with its rows of the sum.
#[derive(Debug)]
pub struct ReduceScatterToSequence {
    scatter: Border,
    gather: Border,
}

impl ReduceScatterToSequence {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<ReduceScatterToSequence> {
        Ok(ReduceScatterToSequence {
            scatter: Border::new(rank, spec, &spec.plain(Op::ReduceScatter))?,
            gather: Border::new(rank, spec, &spec.plain(Op::AllGather))?,
        })
    }

    /// y `[m_r, d]`: this rank's rows of the sum of the ranks' x `[m, d]`.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, m: usize, x: Mat<'_>, y: MatMut<'_>) -> Result<()> {
        self.scatter.travel(m, ("x", Held::Whole, x), ("y", Held::Rows, y))
    }

    /// dx `[m, d]`: the ranks' dy `[m_r, d]`, one below the other.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, m: usize, dy: Mat<'_>, dx: MatMut<'_>) -> Result<()> {
        self.gather.travel(m, ("dy", Held::Rows, dy), ("dx", Held::Whole, dx))
    }

    /// What the reduce-scatter sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        self.scatter.sends(m)
    }

    /// What the gather sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.gather.sends(m)
    }
}
