//! Borders of the tensor-parallel region.

use super::{Border, Held, MappingSpec};
use crate::error::Result;
use crate::group::Rank;
use crate::layer::Sends;
use crate::memory::{Mat, MatMut};
use crate::op::Op;

/// `copy_to_tensor_model_parallel_region`: every rank goes on with all of x, and the gradients of what they make of it are
/// added up.
#[derive(Debug)]
pub struct CopyToTensor(Border);

impl CopyToTensor {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<CopyToTensor> {
        Border::new(rank, spec, &spec.plain(Op::AllReduce)).map(CopyToTensor)
    }

    /// x `[m, d]` itself.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn forward<'a>(&self, m: usize, x: Mat<'a>) -> Result<Mat<'a>> {
        self.0.view(m, "x", x, Held::Whole)
    }

    /// dx `[m, d]`: the sum of the ranks' dy `[m, d]`.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, m: usize, dy: Mat<'_>, dx: MatMut<'_>) -> Result<()> {
        self.0.travel(m, ("dy", Held::Whole, dy), ("dx", Held::Whole, dx))
    }

    /// The same, over dy.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward_in_place(&self, m: usize, dy: MatMut<'_>) -> Result<()> {
        self.0.sum_in_place(m, "dy", dy)
    }

    /// Nothing.
    pub fn forward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }

    /// What an all-reduce of matrices without gaps sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.0.sends(m)
    }
}

/// `reduce_from_tensor_model_parallel_region`: the ranks' x are added up, and every rank has the gradient of the sum.
#[derive(Debug)]
pub struct ReduceFromTensor(Border);

impl ReduceFromTensor {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<ReduceFromTensor> {
        Border::new(rank, spec, &spec.plain(Op::AllReduce)).map(ReduceFromTensor)
    }

    /// y `[m, d]`: the sum of the ranks' x `[m, d]`.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, m: usize, x: Mat<'_>, y: MatMut<'_>) -> Result<()> {
        self.0.travel(m, ("x", Held::Whole, x), ("y", Held::Whole, y))
    }

    /// The same, over x.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn forward_in_place(&self, m: usize, x: MatMut<'_>) -> Result<()> {
        self.0.sum_in_place(m, "x", x)
    }

    /// dy `[m, d]` itself.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn backward<'a>(&self, m: usize, dy: Mat<'a>) -> Result<Mat<'a>> {
        self.0.view(m, "dy", dy, Held::Whole)
    }

    /// What an all-reduce of matrices without gaps sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        self.0.sends(m)
    }

    /// Nothing.
    pub fn backward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }
}

/// `scatter_to_tensor_model_parallel_region`: every rank goes on with its columns of x.
#[derive(Debug)]
pub struct ScatterToTensor(Border);

impl ScatterToTensor {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<ScatterToTensor> {
        Border::new(rank, spec, &spec.columns()).map(ScatterToTensor)
    }

    /// A view of this rank's columns of x `[m, d]`: `[m, d_r]`.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn forward<'a>(&self, m: usize, x: Mat<'a>) -> Result<Mat<'a>> {
        self.0.view(m, "x", x, Held::Columns)
    }

    /// dx `[m, d]`: the ranks' dy `[m, d_r]`, side by side.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, m: usize, dy: Mat<'_>, dx: MatMut<'_>) -> Result<()> {
        self.0.travel(m, ("dy", Held::Columns, dy), ("dx", Held::Whole, dx))
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

/// `gather_from_tensor_model_parallel_region`: the ranks' columns side by side, on every rank.
#[derive(Debug)]
pub struct GatherFromTensor(Border);

impl GatherFromTensor {
    /// Planned on a rank.
    ///
    /// # Errors
    /// As [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MappingSpec) -> Result<GatherFromTensor> {
        Border::new(rank, spec, &spec.columns()).map(GatherFromTensor)
    }

    /// y `[m, d]`: the ranks' x `[m, d_r]`, side by side.
    ///
    /// # Errors
    /// As [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, m: usize, x: Mat<'_>, y: MatMut<'_>) -> Result<()> {
        self.0.travel(m, ("x", Held::Columns, x), ("y", Held::Whole, y))
    }

    /// A view of this rank's columns of dy `[m, d]`: `[m, d_r]`.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for another shape.
    pub fn backward<'a>(&self, m: usize, dy: Mat<'a>) -> Result<Mat<'a>> {
        self.0.view(m, "dy", dy, Held::Columns)
    }

    /// What the gather sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        self.0.sends(m)
    }

    /// Nothing.
    pub fn backward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }
}
