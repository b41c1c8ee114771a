//! A linear layer whose weight is split along the input.

use super::operands::{
    Backward, Forward, Gradients, check_m, check_none, check_optional, check_training, needed, shape, shape_of,
};
use super::sends::Sends;
use super::spec::{LinearSpec, Split};
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Buffer, Mat, MatMut};
use crate::op::{Gemm, Layout, Operands, Plan};

/// `y = sum over ranks of x_r W_r^T, + b`: rank r holds columns `chunk(in, P, r)` of W and gets those of x; all ranks hold b.
///
/// x and dx are `[m, in_r]`, or with `split_input` `[m, in]` on every rank; y and dy `[m, out]` on every rank, or with sequence
/// parallelism `[m_r, out]`.
#[derive(Debug)]
pub struct RowParallelLinear {
    rank: Rank,
    spec: LinearSpec,
    /// Columns of this rank's x.
    part: usize,
    forward: Plan,
    gather: Option<Plan>,
    fused_gather: Option<Plan>,
    dx_gather: Option<Plan>,
    memory: Memory,
    gradients: Gradients,
}

/// What lies between two operations of a backward pass.
#[derive(Debug, Default)]
struct Memory {
    /// With sequence parallelism, all rows of dY.
    dy: Option<Buffer>,
    /// With `split_input`, this rank's columns of dX.
    dx: Option<Buffer>,
}

impl RowParallelLinear {
    /// Plans the layer on a rank. For training it holds `[max_m, out]` with sequence parallelism, and `[max_m, in_r]` with
    /// `split_input`, in the rank's memory.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for features that are none and options that such a layer has not; else as
    /// [`Rank::plan`], and the driver's where there is no memory.
    pub fn new(rank: &Rank, spec: &LinearSpec) -> Result<RowParallelLinear> {
        let mut layer = RowParallelLinear::lent(rank, spec)?;
        let matrix = |needed: bool, cols: usize| {
            let bytes = spec.max_m * cols * spec.dtype.size();
            needed.then(|| rank.alloc(bytes)).transpose()
        };
        layer.memory = Memory {
            dy: matrix(layer.gather.is_some(), spec.out_features)?,
            dx: matrix(layer.dx_gather.is_some(), layer.part)?,
        };
        Ok(layer)
    }

    /// One whose memory is lent to each backward pass ([`RowParallelLinear::backward_in`]).
    pub(super) fn lent(rank: &Rank, spec: &LinearSpec) -> Result<RowParallelLinear> {
        spec.check(Split::Row)?;
        let part = spec.part(Split::Row, rank.world(), rank.rank()).len();
        let plan = |op: Option<_>| op.map(|op| rank.plan(&op)).transpose();
        Ok(RowParallelLinear {
            rank: rank.clone(),
            spec: spec.clone(),
            part,
            forward: rank.plan(&spec.row_forward(part))?,
            gather: plan(spec.row_gather())?,
            fused_gather: plan(spec.row_dx(part))?,
            dx_gather: plan(spec.dx_gather())?,
            memory: Memory::default(),
            gradients: Gradients::new(rank, spec)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &LinearSpec {
        &self.spec
    }

    /// What a forward pass sends from this rank.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        vec![Sends::of(&self.forward, m)]
    }

    /// What a backward pass that gives all gradients sends. One that gives dx alone gathers in `AllGatherGemm` instead, and sends
    /// as much; with `split_input` one without dx sends nothing.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        let gathers = self.gather.iter().chain(&self.dx_gather);
        gathers.map(|plan| Sends::of(plan, m)).collect()
    }

    /// Enqueues the forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes; else as [`Plan::launch`].
    pub fn forward(&self, pass: Forward<'_>) -> Result<()> {
        let m = pass.m;
        check_m(self.spec.max_m, m)?;
        check_optional("bias", pass.bias.is_some(), self.spec.bias)?;
        check_optional("residual", pass.residual.is_some(), self.spec.residual)?;
        check_none(
            "gathered",
            pass.gathered.is_some(),
            "the input of a row-parallel layer is not gathered",
        )?;
        check_none("saved", pass.saved.is_some(), "a row-parallel layer has no epilogue")?;
        let operands = Operands {
            bias: pass.bias,
            ..Operands::gemm(m, self.own_columns("x", pass.x, m)?, pass.weight, pass.y)
        };
        self.forward.launch(&match pass.residual {
            Some(residual) => operands.residual(residual),
            None => operands,
        })
    }

    /// This rank's part of an input of the pass.
    fn own_columns<'a>(&self, name: &str, x: Mat<'a>, m: usize) -> Result<Mat<'a>> {
        let (rank, spec) = (&self.rank, &self.spec);
        if !spec.split_input {
            shape_of(name, &x, [m, self.part], m, rank)?;
            return Ok(x);
        }
        shape_of(name, &x, [m, spec.in_features], m, rank)?;
        x.part(0..m, spec.part(Split::Row, rank.world(), rank.rank()))
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes or missing, and of a layer for inference; else
    /// as [`Plan::launch`].
    pub fn backward(&mut self, pass: Backward<'_>) -> Result<()> {
        let mut memory = std::mem::take(&mut self.memory);
        let done = self.backward_with(pass, &mut memory);
        self.memory = memory;
        done
    }

    fn backward_with(&self, pass: Backward<'_>, memory: &mut Memory) -> Result<()> {
        let (m, spec) = (pass.m, &self.spec);
        check_m(spec.max_m, m)?;
        let all = memory.dy.as_mut();
        let all = all.map(|dy| dy.mat_mut(m, spec.out_features, spec.dtype)).transpose()?;
        match (pass.dx, &self.dx_gather, &mut memory.dx) {
            (Some(dx), Some(gather), Some(memory)) => {
                let whole = [m, spec.in_features];
                shape("dx", (dx.rows(), dx.cols()), whole, m, &self.rank)?;
                let mut own = memory.mat_mut(m, self.part, spec.dtype)?;
                let pass = Backward {
                    dx: Some(own.reborrow()),
                    ..pass
                };
                self.backward_in(pass, all)?;
                gather.launch(&Operands::plain(m, own.as_mat(), dx))
            }
            (dx, ..) => self.backward_in(Backward { dx, ..pass }, all),
        }
    }

    /// The backward pass for this rank's columns of dX. `all`: `[m, out]` with sequence parallelism, takes all rows of dY.
    pub(super) fn backward_in(&self, pass: Backward<'_>, all: Option<MatMut<'_>>) -> Result<()> {
        let (rank, spec, m) = (&self.rank, &self.spec, pass.m);
        let outputs = spec.out_features;
        check_training(spec.training)?;
        check_m(spec.max_m, m)?;
        let rows = spec.rows(m, rank.world(), rank.rank());
        shape_of("dy", &pass.dy, [rows, outputs], m, rank)?;
        pass.check([m, self.part], [outputs, self.part], rank)?;
        if pass.dx.is_some() {
            let weight = needed("weight", pass.weight, "dx")?;
            shape_of("weight", &weight, [outputs, self.part], m, rank)?;
        }
        let x = pass
            .dweight
            .is_some()
            .then(|| needed("x", pass.x, "dweight"))
            .transpose()?;
        let x = x.map(|x| self.own_columns("x", x, m)).transpose()?;
        let pass = Backward { x, ..pass };
        let parameters = pass.dweight.is_some() || pass.dbias.is_some();
        match (&self.gather, &self.fused_gather, all) {
            (Some(gather), _, Some(mut all)) if parameters => {
                gather.launch(&Operands::plain(m, pass.dy, all.reborrow()))?;
                self.own(all.as_mat(), pass)
            }
            (_, Some(plan), _) => match (pass.dx, pass.weight) {
                (Some(dx), Some(weight)) => plan.launch(&Operands::gemm(m, pass.dy, weight, dx)),
                _ => Ok(()),
            },
            _ => self.own(pass.dy, pass),
        }
    }

    /// What a pass asks for, from all rows of dY.
    fn own(&self, dy: Mat<'_>, pass: Backward<'_>) -> Result<()> {
        let rank = &self.rank;
        if let (Some(dx), Some(weight)) = (pass.dx, pass.weight) {
            rank.gemm(&Gemm::new(Layout::Nn, dy, weight, dx))?;
        }
        if let (Some(dweight), Some(x)) = (pass.dweight, pass.x) {
            self.gradients.weight(rank, dy, x, dweight, pass.accumulate)?;
        }
        let bias = |dbias| self.gradients.bias(rank, dy, dbias, pass.accumulate);
        pass.dbias.map_or(Ok(()), bias)
    }
}
