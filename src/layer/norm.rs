//! RMSNorm and LayerNorm, of whole rows: with sequence parallelism of this rank's. Nothing travels.

use super::finish::Finish;
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::{check_m, check_training};
use super::options::{Options, at_least_one};
use super::parameters::{NormGradients, NormParameters};
use super::sends::Sends;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::local::NormKind;
use crate::memory::{Mat, MatMut};
use crate::op::OpSpec;

mod passes;

/// A norm; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Columns.
    pub hidden: usize,
    /// Added to the variance, finite and at least 0.
    pub eps: f32,
    /// Whether there is a beta: of a LayerNorm.
    pub bias: bool,
    /// What it has in common with the model's other layers.
    pub options: Options,
}

impl NormSpec {
    /// As `torch.nn.RMSNorm` and `torch.nn.LayerNorm` are: eps is 1e-5, a LayerNorm has a beta.
    pub fn new(kind: NormKind, hidden: usize, options: Options) -> NormSpec {
        NormSpec {
            kind,
            hidden,
            eps: 1e-5,
            bias: kind == NormKind::Layer,
            options,
        }
    }

    /// With this eps.
    pub fn eps(self, eps: f32) -> NormSpec {
        NormSpec { eps, ..self }
    }

    /// With a beta, or without.
    pub fn bias(self, bias: bool) -> NormSpec {
        NormSpec { bias, ..self }
    }

    /// The operations of such a layer ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self) -> Vec<OpSpec> {
        let sum = self.options.sum_of(self.in_parts());
        sum.filter(|_| self.options.training).into_iter().collect()
    }

    /// Elements of gradients that ranks have in parts.
    pub(super) fn in_parts(&self) -> usize {
        let rows = if self.bias { 2 } else { 1 };
        if self.options.sequence_parallel {
            rows * self.hidden
        } else {
            0
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        at_least_one(&[("hidden", self.hidden)])?;
        if self.bias && self.kind == NormKind::Rms {
            return Err(Error::bad_argument("bias", true, "false: an RMSNorm has no beta"));
        }
        match self.eps.is_finite() && self.eps >= 0.0 {
            true => Ok(()),
            false => Err(Error::bad_argument("eps", self.eps, "a finite number, at least 0")),
        }
    }
}

/// The data of a forward pass.
#[derive(Debug)]
pub struct NormForward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// `[rows, d]`.
    pub x: Mat<'a>,
    /// Gamma and beta.
    pub parameters: NormParameters<'a>,
    /// `[rows, d]`.
    pub y: MatMut<'a>,
}

/// The data of a backward pass.
#[derive(Debug)]
pub struct NormBackward<'a> {
    /// As in the forward pass.
    pub m: usize,
    /// The forward pass's.
    pub x: Mat<'a>,
    /// The forward pass's.
    pub parameters: NormParameters<'a>,
    /// `[rows, d]`.
    pub dy: Mat<'a>,
    /// `[rows, d]`: added to dx before its one rounding, as what a residual brings.
    pub add: Option<Mat<'a>>,
    /// Takes the gradient of the input, if it is wanted.
    pub dx: Option<MatMut<'a>>,
    /// Take those of the parameters; with sequence parallelism of this rank's rows ([`ParallelNorm::finish_gradients`]).
    pub gradients: NormGradients<'a>,
    /// Whether the gradients of parameters are added to what is there.
    pub accumulate: bool,
}

/// RMSNorm or LayerNorm on `[rows, d]`: all rows of the batch, or with sequence parallelism this rank's.
#[derive(Debug)]
pub struct ParallelNorm {
    rank: Rank,
    spec: NormSpec,
    id: LayerId,
    finish: Finish,
}

impl ParallelNorm {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes that are none, another eps, an RMSNorm with a beta; else as [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &NormSpec) -> Result<ParallelNorm> {
        spec.check()?;
        Ok(ParallelNorm {
            rank: rank.clone(),
            spec: *spec,
            id: LayerId::new(),
            finish: Finish::new(rank, &spec.options, spec.in_parts())?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &NormSpec {
        &self.spec
    }

    /// Memory for one forward pass: `[rows, 2]` of f32.
    ///
    /// # Errors
    /// [`Error::BadArgument`] of a layer for inference; the driver's, where there is not that much.
    pub fn saved(&self) -> Result<Saved> {
        check_training(self.spec.options.training)?;
        let rows = self.spec.options.most_rows(self.rank.world());
        let bytes = Carver::count(|carver| self.keep(rows, carver).map(drop))?;
        Saved::new(&self.rank, self.id, bytes)
    }

    /// Bytes of a workspace that all passes fit in.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes beyond 64 bits.
    pub fn workspace_bytes(&self) -> Result<usize> {
        Carver::count(|carver| self.finish.keep(carver).map(drop))
    }

    /// A workspace of that size.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::new(&self.rank, self.workspace_bytes()?)
    }

    /// Nothing.
    pub fn forward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }

    /// Nothing.
    pub fn backward_sends(&self, _: usize) -> Vec<Sends> {
        Vec::new()
    }

    /// What [`ParallelNorm::finish_gradients`] sends from this rank.
    pub fn finish_sends(&self) -> Vec<Sends> {
        self.finish.sends()
    }

    /// Enqueues a forward pass that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes, and of a layer for inference.
    pub fn forward(&self, pass: NormForward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.spec.options.training)?;
        check_m(self.spec.options.max_m, pass.m)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        let batch = Batch { m: pass.m, seq: 0 };
        saved.fill(self.id, batch, |carver| {
            let stats = self.keep(rows, carver)?;
            self.run(pass, Some(stats))
        })
    }

    /// Enqueues a forward pass that saves nothing.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes.
    pub fn infer(&self, pass: NormForward<'_>) -> Result<()> {
        self.run(pass, None)
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for operands of other shapes, without its forward pass, and of a layer for inference.
    pub fn backward(&self, pass: NormBackward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.spec.options.training)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        saved.consume(self.id, pass.m, |carver, _| {
            let stats = self.keep(rows, carver)?;
            self.run_back(pass, stats.as_mat())
        })
    }

    /// Enqueues, with sequence parallelism, the sum over ranks of the gradients of gamma and beta: once a step, after its last
    /// backward pass. Every rank brings the same ones.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for other shapes; else as [`Plan::launch`](crate::Plan::launch).
    pub fn finish_gradients(&self, gradients: NormGradients<'_>, workspace: &mut Workspace) -> Result<()> {
        self.check_gradients("", &gradients, 0)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let row = self.finish.keep(&mut carver)?;
        self.finish.run(self.parts(gradients, 0), row)
    }
}
