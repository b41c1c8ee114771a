//! A linear layer whose weight is split along the output.

use super::operands::{
    Backward, Forward, Gradients, check_m, check_none, check_optional, check_training, needed, shape, shape_of,
};
use super::sends::Sends;
use super::spec::{LinearSpec, Split};
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::memory::{Buffer, Mat, MatMut};
use crate::op::{Epilogue, Gemm, Layout, Operands, Plan};

/// `y_r = x W_r^T + b_r`: rank r holds rows `chunk(out, P, r)` of W and b, and of y those columns.
///
/// x and dx are `[m, in]` on every rank, or with sequence parallelism `[m_r, in]`; y and dy `[m, out_r]`, or with
/// `gather_output` `[m, out]` on every rank. With an epilogue y is the activation of that product, with SwiGLU
/// `[m, out_r / 2]`, and dy the gradient of the product.
#[derive(Debug)]
pub struct ColumnParallelLinear {
    rank: Rank,
    spec: LinearSpec,
    /// Columns of this rank's product.
    part: usize,
    gather: Option<Plan>,
    fused_gather: Option<Plan>,
    dx: Option<Plan>,
    /// What gathers the output, and where this rank's columns of it lie until then.
    output: Option<(Plan, Buffer)>,
    gradients: Gradients,
}

impl ColumnParallelLinear {
    /// Plans the layer on a rank. With `gather_output` it holds `[max_m, out_r]` in the rank's memory.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for features that are none and options that such a layer has not; else as [`Rank::plan`], and the
    /// driver's where there is no memory.
    pub fn new(rank: &Rank, spec: &LinearSpec) -> Result<ColumnParallelLinear> {
        spec.check(Split::Column)?;
        let part = spec.part(Split::Column, rank.world(), rank.rank()).len();
        let plan = |op: Option<_>| op.map(|op| rank.plan(&op)).transpose();
        let bytes = spec.max_m * part * spec.dtype.size();
        let output = plan(spec.output_gather())?.map(|plan| Ok((plan, rank.alloc(bytes)?)));
        Ok(ColumnParallelLinear {
            rank: rank.clone(),
            spec: spec.clone(),
            part,
            gather: plan(spec.column_gather())?,
            fused_gather: plan(spec.fused_gather(part))?,
            dx: plan(spec.column_dx(part))?,
            output: output.transpose()?,
            gradients: Gradients::new(rank, spec)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    /// What a forward pass sends from this rank; of a layer for training one that saves. One that does not gathers in
    /// `AllGatherGemm` instead, and sends as much.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        let input = self.gather.as_ref().or(self.fused_gather.as_ref());
        let output = self.output.as_ref().map(|(plan, _)| plan);
        input.into_iter().chain(output).map(|plan| Sends::of(plan, m)).collect()
    }

    /// What a backward pass that gives dx sends. Without dx nothing travels.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        self.dx.iter().map(|plan| Sends::of(plan, m)).collect()
    }

    /// Enqueues the forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes; else as [`Plan::launch`].
    pub fn forward(&mut self, pass: Forward<'_>) -> Result<()> {
        let Some((gather, mut memory)) = self.output.take() else {
            return self.product(pass);
        };
        let done = self.gathered(&gather, &mut memory, pass);
        self.output = Some((gather, memory));
        done
    }

    /// The product into `memory`, and from there to all ranks.
    fn gathered(&self, gather: &Plan, memory: &mut Buffer, pass: Forward<'_>) -> Result<()> {
        let Forward { m, y, .. } = pass;
        check_m(self.spec.max_m, m)?;
        let whole = [m, self.spec.out_features];
        shape("y", (y.rows(), y.cols()), whole, m, &self.rank)?;
        let mut own = memory.mat_mut(m, self.part, self.spec.dtype)?;
        self.product(Forward {
            y: own.reborrow(),
            ..pass
        })?;
        gather.launch(&Operands::plain(m, own.as_mat(), y))
    }

    /// The forward pass into this rank's columns.
    pub(super) fn product(&self, pass: Forward<'_>) -> Result<()> {
        let (rank, spec, m) = (&self.rank, &self.spec, pass.m);
        check_m(spec.max_m, m)?;
        check_optional("bias", pass.bias.is_some(), spec.bias)?;
        check_none(
            "residual",
            pass.residual.is_some(),
            "a column-parallel layer sums nothing over ranks",
        )?;
        if spec.epilogue == Epilogue::None {
            check_none("saved", pass.saved.is_some(), "without an epilogue y is the product")?;
        }
        let (rows, inputs) = (spec.rows(m, rank.world(), rank.rank()), spec.in_features);
        shape_of("x", &pass.x, [rows, inputs], m, rank)?;
        shape_of("weight", &pass.weight, [self.part, inputs], m, rank)?;
        let outputs = self.part / spec.products_each();
        shape("y", (pass.y.rows(), pass.y.cols()), [m, outputs], m, rank)?;
        let Forward {
            x,
            weight,
            bias,
            gathered,
            saved,
            y,
            ..
        } = pass;
        match (gathered, &self.gather, &self.fused_gather) {
            (None, _, None) => self.own(x, weight, bias, saved, y),
            (None, _, Some(plan)) => plan.launch(&Operands {
                bias,
                saved,
                ..Operands::gemm(m, x, weight, y)
            }),
            (Some(mut gathered), Some(gather), _) => {
                shape("gathered", (gathered.rows(), gathered.cols()), [m, inputs], m, rank)?;
                gather.launch(&Operands::plain(m, x, gathered.reborrow()))?;
                self.own(gathered.as_mat(), weight, bias, saved, y)
            }
            (Some(_), None, _) => {
                let expected =
                    "none: only a layer for training with sequence parallelism gathers what a backward pass needs";
                Err(Error::bad_argument("gathered", "given", expected))
            }
        }
    }

    /// The product of all rows of x, on this rank alone.
    fn own<'a>(
        &self,
        x: Mat<'a>,
        weight: Mat<'a>,
        bias: Option<Mat<'a>>,
        saved: Option<MatMut<'a>>,
        y: MatMut<'a>,
    ) -> Result<()> {
        let gemm = Gemm::new(Layout::Nt, x, weight, y).bias(bias);
        self.rank.gemm(&gemm.epilogue(self.spec.epilogue).saved(saved))
    }

    /// Enqueues the backward pass. x is the forward pass's, with sequence parallelism what that left in `gathered`.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes or missing, and of a layer for inference; else as [`Plan::launch`].
    pub fn backward(&self, pass: Backward<'_>) -> Result<()> {
        let (rank, spec, m) = (&self.rank, &self.spec, pass.m);
        let inputs = spec.in_features;
        check_training(spec.training)?;
        check_m(spec.max_m, m)?;
        let columns = spec.part(Split::Column, rank.world(), rank.rank());
        let dy = if spec.gather_output {
            shape_of("dy", &pass.dy, [m, spec.out_features], m, rank)?;
            pass.dy.part(0..m, columns)?
        } else {
            shape_of("dy", &pass.dy, [m, self.part], m, rank)?;
            pass.dy
        };
        let rows = spec.rows(m, rank.world(), rank.rank());
        pass.check([rows, inputs], [self.part, inputs], rank)?;
        let x = pass
            .dweight
            .is_some()
            .then(|| needed("x", pass.x, "dweight"))
            .transpose()?;
        x.map_or(Ok(()), |x| shape_of("x", &x, [m, inputs], m, rank))?;
        if let Some(dx) = pass.dx {
            let weight = needed("weight", pass.weight, "dx")?;
            // Of a layer for training it is there.
            let plan = self.dx.as_ref();
            plan.map_or(Ok(()), |plan| plan.launch(&Operands::gemm(m, dy, weight, dx)))?;
        }
        if let (Some(dweight), Some(x)) = (pass.dweight, x) {
            self.gradients.weight(rank, dy, x, dweight, pass.accumulate)?;
        }
        let bias = |dbias| self.gradients.bias(rank, dy, dbias, pass.accumulate);
        pass.dbias.map_or(Ok(()), bias)
    }
}
