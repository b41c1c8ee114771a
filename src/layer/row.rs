//! A linear layer whose weight is split along the input.

use super::operands::{Backward, Forward, Gradients, check_bias, check_m, check_training, needed, shape, shape_of};
use super::spec::{LinearSpec, Split};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Buffer, Mat, MatMut};
use crate::op::{Gemm, Layout, Operands, Plan};

/// `y = sum over ranks of x_r W_r^T, + b`: rank r holds columns `chunk(in, P, r)` of W and gets those of x; all ranks hold b.
///
/// x and dx are `[m, in_r]`; y and dy `[m, out]` on every rank, or with sequence parallelism `[m_r, out]`.
#[derive(Debug)]
pub struct RowParallelLinear {
    rank: Rank,
    spec: LinearSpec,
    /// Columns of this rank's x.
    part: usize,
    forward: Plan,
    gather: Option<Plan>,
    fused_gather: Option<Plan>,
    /// The gathered dY of a backward pass, with sequence parallelism.
    gathered: Option<Buffer>,
    gradients: Gradients,
}

impl RowParallelLinear {
    /// Plans the layer on a rank; for training with sequence parallelism it holds `[max_m, out]` in the rank's memory.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for features that are none; else as [`Rank::plan`], and the driver's where there is no memory.
    pub fn new(rank: &Rank, spec: &LinearSpec) -> Result<RowParallelLinear> {
        spec.check()?;
        let part = spec.part(Split::Row, rank.world(), rank.rank()).len();
        let plan = |op: Option<_>| op.map(|op| rank.plan(&op)).transpose();
        let gather = plan(spec.row_gather())?;
        let bytes = spec.max_m * spec.out_features * spec.dtype.size();
        Ok(RowParallelLinear {
            rank: rank.clone(),
            spec: spec.clone(),
            part,
            forward: rank.plan(&spec.row_forward(part))?,
            gathered: gather.is_some().then(|| rank.alloc(bytes)).transpose()?,
            gather,
            fused_gather: plan(spec.row_dx(part))?,
            gradients: Gradients::new(rank, spec)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    /// Payload bytes that a forward pass sends from this rank, exactly; `None` where another library moves them.
    pub fn forward_bytes(&self, m: usize) -> Option<u64> {
        self.forward.bytes_sent(m)
    }

    /// Those of a backward pass: `parameters`: one that gives dweight or dbias, else one that gives dx alone.
    pub fn backward_bytes(&self, m: usize, parameters: bool) -> Option<u64> {
        let plan = if parameters { &self.gather } else { &self.fused_gather };
        plan.as_ref().map_or(Some(0), |plan| plan.bytes_sent(m))
    }

    /// Enqueues the forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes; else as [`Plan::launch`].
    pub fn forward(&self, pass: Forward<'_>) -> Result<()> {
        check_m(&self.spec, pass.m)?;
        check_bias(&self.spec, pass.bias.is_some())?;
        if pass.gathered.is_some() {
            let expected = "none: the input of a row-parallel layer is not gathered";
            return Err(Error::bad_argument("gathered", "given", expected));
        }
        let operands = Operands::gemm(pass.m, pass.x, pass.weight, pass.y);
        self.forward.launch(&Operands {
            bias: pass.bias,
            ..operands
        })
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or missing, and of a layer for inference; else as [`Plan::launch`].
    pub fn backward(&mut self, pass: Backward<'_>) -> Result<()> {
        let m = pass.m;
        let (rank, outputs) = (&self.rank, self.spec.out_features);
        check_training(&self.spec)?;
        check_m(&self.spec, m)?;
        let rows = self.spec.rows(m, rank.world(), rank.rank());
        shape_of("dy", &pass.dy, [rows, outputs], m, rank)?;
        let taken = |name: &str, mat: &Option<MatMut<'_>>, wanted: [usize; 2]| {
            mat.as_ref()
                .map_or(Ok(()), |mat| shape(name, (mat.rows(), mat.cols()), wanted, m, rank))
        };
        taken("dx", &pass.dx, [m, self.part])?;
        taken("dweight", &pass.dweight, [outputs, self.part])?;
        taken("dbias", &pass.dbias, [1, outputs])?;
        if pass.dweight.is_some() {
            shape_of("x", &needed("x", pass.x, "dweight")?, [m, self.part], m, rank)?;
        }
        if pass.dx.is_some() {
            let weight = needed("weight", pass.weight, "dx")?;
            shape_of("weight", &weight, [outputs, self.part], m, rank)?;
        }
        let parameters = pass.dweight.is_some() || pass.dbias.is_some();
        match (&self.gather, &self.fused_gather, &mut self.gathered) {
            (Some(gather), _, Some(memory)) if parameters => {
                let mut all = memory.mat_mut(m, outputs, self.spec.dtype)?;
                gather.launch(&Operands::plain(m, pass.dy, all.reborrow()))?;
                gradients(rank, &self.gradients, all.as_mat(), pass)
            }
            (_, Some(plan), _) => match (pass.dx, pass.weight) {
                (Some(dx), Some(weight)) => plan.launch(&Operands::gemm(m, pass.dy, weight, dx)),
                _ => Ok(()),
            },
            _ => gradients(rank, &self.gradients, pass.dy, pass),
        }
    }
}

/// What a pass asks for, from all rows of dY.
fn gradients(rank: &Rank, parameters: &Gradients, dy: Mat<'_>, pass: Backward<'_>) -> Result<()> {
    if let (Some(dx), Some(weight)) = (pass.dx, pass.weight) {
        rank.gemm(&Gemm::new(Layout::Nn, dy, weight, dx))?;
    }
    if let (Some(dweight), Some(x)) = (pass.dweight, pass.x) {
        parameters.weight(rank, dy, x, dweight, pass.accumulate)?;
    }
    match pass.dbias {
        Some(dbias) => parameters.bias(rank, dy, dbias, pass.accumulate),
        None => Ok(()),
    }
}
