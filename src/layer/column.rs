//! A linear layer whose weight is split along the output.

use super::operands::{Backward, Forward, Gradients, check_bias, check_m, check_training, needed, shape, shape_of};
use super::spec::{LinearSpec, Split};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::MatMut;
use crate::op::{Gemm, Layout, Operands, Plan};

/// `y_r = x W_r^T + b_r`: rank r holds rows `chunk(out, P, r)` of W and b, and of y those columns.
///
/// x and dx are `[m, in]` on every rank, or with sequence parallelism `[m_r, in]`; y and dy `[m, out_r]`.
#[derive(Debug)]
pub struct ColumnParallelLinear {
    rank: Rank,
    spec: LinearSpec,
    /// Columns of this rank's y.
    part: usize,
    gather: Option<Plan>,
    fused_gather: Option<Plan>,
    dx: Option<Plan>,
    gradients: Gradients,
}

impl ColumnParallelLinear {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for features that are none; else as [`Rank::plan`], and the driver's where there is no memory.
    pub fn new(rank: &Rank, spec: &LinearSpec) -> Result<ColumnParallelLinear> {
        spec.check()?;
        let part = spec.part(Split::Column, rank.world(), rank.rank()).len();
        let plan = |op: Option<_>| op.map(|op| rank.plan(&op)).transpose();
        Ok(ColumnParallelLinear {
            rank: rank.clone(),
            spec: spec.clone(),
            part,
            gather: plan(spec.column_gather())?,
            fused_gather: plan(spec.fused_gather(part))?,
            dx: plan(spec.column_dx(part))?,
            gradients: Gradients::new(rank, spec)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    /// Payload bytes that a forward pass sends from this rank, exactly; `None` where another library moves them. `saving`:
    /// with [`Forward::gathered`].
    pub fn forward_bytes(&self, m: usize, saving: bool) -> Option<u64> {
        let plan = if saving { &self.gather } else { &self.fused_gather };
        plan.as_ref().map_or(Some(0), |plan| plan.bytes_sent(m))
    }

    /// Those of a backward pass that gives dx. Without dx nothing travels.
    pub fn backward_bytes(&self, m: usize) -> Option<u64> {
        self.dx.as_ref().map_or(Some(0), |plan| plan.bytes_sent(m))
    }

    /// Enqueues the forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes; else as [`Plan::launch`].
    pub fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let Forward {
            m,
            x,
            weight,
            bias,
            gathered,
            mut y,
        } = pass;
        let (rank, inputs) = (&self.rank, self.spec.in_features);
        check_m(&self.spec, m)?;
        check_bias(&self.spec, bias.is_some())?;
        let rows = self.spec.rows(m, rank.world(), rank.rank());
        shape_of("x", &x, [rows, inputs], m, rank)?;
        shape_of("weight", &weight, [self.part, inputs], m, rank)?;
        shape("y", (y.rows(), y.cols()), [m, self.part], m, rank)?;
        let own = |x, y| rank.gemm(&Gemm::new(Layout::Nt, x, weight, y).bias(bias));
        match (gathered, &self.gather, &self.fused_gather) {
            (None, _, None) => own(x, y),
            (None, _, Some(plan)) => {
                let operands = Operands::gemm(m, x, weight, y.reborrow());
                plan.launch(&Operands { bias, ..operands })
            }
            (Some(mut gathered), Some(gather), _) => {
                shape("gathered", (gathered.rows(), gathered.cols()), [m, inputs], m, rank)?;
                gather.launch(&Operands::plain(m, x, gathered.reborrow()))?;
                own(gathered.as_mat(), y)
            }
            (Some(_), None, _) => {
                let expected =
                    "none: only a layer for training with sequence parallelism gathers what a backward pass needs";
                Err(Error::bad_argument("gathered", "given", expected))
            }
        }
    }

    /// Enqueues the backward pass. x is the forward pass's, with sequence parallelism what that left in `gathered`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or missing, and of a layer for inference; else as [`Plan::launch`].
    pub fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let Backward {
            m,
            dy,
            x,
            weight,
            dx,
            dweight,
            dbias,
            accumulate,
        } = pass;
        let (rank, inputs) = (&self.rank, self.spec.in_features);
        check_training(&self.spec)?;
        check_m(&self.spec, m)?;
        shape_of("dy", &dy, [m, self.part], m, rank)?;
        let taken = |name: &str, mat: &Option<MatMut<'_>>, wanted: [usize; 2]| {
            mat.as_ref()
                .map_or(Ok(()), |mat| shape(name, (mat.rows(), mat.cols()), wanted, m, rank))
        };
        taken("dx", &dx, [self.spec.rows(m, rank.world(), rank.rank()), inputs])?;
        taken("dweight", &dweight, [self.part, inputs])?;
        taken("dbias", &dbias, [1, self.part])?;
        let x = dweight.is_some().then(|| needed("x", x, "dweight")).transpose()?;
        x.map_or(Ok(()), |x| shape_of("x", &x, [m, inputs], m, rank))?;
        if let Some(dx) = dx {
            let weight = needed("weight", weight, "dx")?;
            // Of a layer for training it is there.
            let plan = self.dx.as_ref();
            plan.map_or(Ok(()), |plan| plan.launch(&Operands::gemm(m, dy, weight, dx)))?;
        }
        if let (Some(dweight), Some(x)) = (dweight, x) {
            self.gradients.weight(rank, dy, x, dweight, accumulate)?;
        }
        dbias.map_or(Ok(()), |dbias| self.gradients.bias(rank, dy, dbias, accumulate))
    }
}
