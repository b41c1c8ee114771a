//! The MLP of a transformer: column-parallel with the activation at its end, then row-parallel.

use super::column::ColumnParallelLinear;
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::check_training;
use super::options::{Options, at_least_one};
use super::parameters::{MlpGradients, MlpParameters};
use super::row::RowParallelLinear;
use super::sends::Sends;
use super::spec::{LinearSpec, Split};
use crate::error::Result;
use crate::group::Rank;
use crate::local::Activation;
use crate::memory::{Mat, MatMut};
use crate::op::{Epilogue, OpSpec};

mod passes;

/// `y = act(x W1^T + b1) W2^T + b2`, whole; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MlpSpec {
    /// Columns of x and y.
    pub hidden: usize,
    /// Columns of the activation; of SwiGLU there are so many gates and so many ups.
    pub intermediate: usize,
    /// The activation.
    pub activation: Activation,
    /// Whether both layers have a bias.
    pub bias: bool,
    /// Whether a matrix of y's shape is added to y.
    pub residual: bool,
    /// What it has in common with the model's other layers.
    pub options: Options,
}

impl MlpSpec {
    /// With biases exactly if the activation is GELU, as GPT's and Llama's are; without a residual.
    pub fn new(hidden: usize, intermediate: usize, activation: Activation, options: Options) -> MlpSpec {
        MlpSpec {
            hidden,
            intermediate,
            activation,
            bias: activation == Activation::Gelu,
            residual: false,
            options,
        }
    }

    /// With biases, or without.
    pub fn bias(self, bias: bool) -> MlpSpec {
        MlpSpec { bias, ..self }
    }

    /// With a residual, or without.
    pub fn residual(self, residual: bool) -> MlpSpec {
        MlpSpec { residual, ..self }
    }

    /// Its first layer, column-parallel.
    pub fn fc1(&self) -> LinearSpec {
        let (products, epilogue) = match self.activation {
            Activation::Gelu => (1, Epilogue::Gelu),
            Activation::SwiGlu => (2, Epilogue::SwiGlu),
        };
        let spec = self.options.linear(self.hidden, products * self.intermediate);
        spec.bias(self.bias).epilogue(epilogue)
    }

    /// Its second layer, row-parallel.
    pub fn fc2(&self) -> LinearSpec {
        let spec = self.options.linear(self.intermediate, self.hidden);
        spec.bias(self.bias).residual(self.residual)
    }

    /// The operations of such a layer on all ranks ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, world: usize) -> Vec<OpSpec> {
        let mut all = self.fc1().operations(Split::Column, world);
        all.extend(self.fc2().operations(Split::Row, world));
        all
    }
}

/// The data of a forward pass.
#[derive(Debug)]
pub struct MlpForward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// `[rows, d]`.
    pub x: Mat<'a>,
    /// This rank's parts.
    pub parameters: MlpParameters<'a>,
    /// `[rows, d]`, added to y; there exactly if the layer has one.
    pub residual: Option<Mat<'a>>,
    /// `[rows, d]`.
    pub y: MatMut<'a>,
}

/// The data of a backward pass. Every rank asks for the same gradients. (A residual's is dy.)
#[derive(Debug)]
pub struct MlpBackward<'a> {
    /// As in the forward pass.
    pub m: usize,
    /// The forward pass's.
    pub x: Mat<'a>,
    /// The forward pass's.
    pub parameters: MlpParameters<'a>,
    /// `[rows, d]`.
    pub dy: Mat<'a>,
    /// Takes the gradient of the input, if it is wanted.
    pub dx: Option<MatMut<'a>>,
    /// Take those of the parameters.
    pub gradients: MlpGradients<'a>,
    /// Whether the gradients of parameters are added to what is there.
    pub accumulate: bool,
}

/// What lies between the two layers.
pub(super) struct Kept<'a> {
    /// All rows, with sequence parallelism, before a backward pass.
    x: Option<MatMut<'a>>,
    /// Before a backward pass.
    product: Option<MatMut<'a>>,
    activation: MatMut<'a>,
}

/// GELU or SwiGLU between two linear layers: one all-reduce in each direction, or one all-gather and one reduce-scatter.
///
/// x, y and their gradients are `[m, d]` on every rank, or with sequence parallelism `[m_r, d]`.
#[derive(Debug)]
pub struct ParallelMlp {
    rank: Rank,
    spec: MlpSpec,
    id: LayerId,
    fc1: ColumnParallelLinear,
    fc2: RowParallelLinear,
    /// Columns of this rank's activation.
    part: usize,
    products: usize,
}

impl ParallelMlp {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for sizes that are none; else as [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &MlpSpec) -> Result<ParallelMlp> {
        at_least_one(&[("hidden", spec.hidden), ("intermediate", spec.intermediate)])?;
        let (fc1, fc2) = (spec.fc1(), spec.fc2());
        Ok(ParallelMlp {
            rank: rank.clone(),
            spec: *spec,
            id: LayerId::new(),
            fc1: ColumnParallelLinear::new(rank, &fc1)?,
            part: fc2.part(Split::Row, rank.world(), rank.rank()).len(),
            fc2: RowParallelLinear::lent(rank, &fc2)?,
            products: fc1.products_each(),
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &MlpSpec {
        &self.spec
    }

    /// Memory for one forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) of a layer for inference; the driver's, where there is not that much.
    pub fn saved(&self) -> Result<Saved> {
        check_training(self.spec.options.training)?;
        let rows = self.spec.options.most_rows(self.rank.world());
        let bytes = Carver::count(|carver| self.keep(rows, true, carver).map(drop))?;
        Saved::new(&self.rank, self.id, bytes)
    }

    /// Bytes of a workspace that all passes fit in.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for sizes beyond 64 bits.
    pub fn workspace_bytes(&self) -> Result<usize> {
        let rows = self.spec.options.most_rows(self.rank.world());
        let forward = Carver::count(|carver| self.keep(rows, false, carver).map(drop))?;
        let backward = Carver::count(|carver| self.scratch(rows, carver).map(drop))?;
        Ok(if self.spec.options.training {
            forward.max(backward)
        } else {
            forward
        })
    }

    /// A workspace of that size.
    ///
    /// # Errors
    /// The driver's, where there is not that much.
    pub fn workspace(&self) -> Result<Workspace> {
        Workspace::new(&self.rank, self.workspace_bytes()?)
    }

    /// What a forward pass sends from this rank; of a layer for training one that saves.
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        [self.fc1.forward_sends(m), self.fc2.forward_sends(m)].concat()
    }

    /// What a backward pass that gives all gradients sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        [self.fc2.backward_sends(m), self.fc1.backward_sends(m)].concat()
    }

    /// Enqueues a forward pass that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, and of a layer for inference; else as
    /// [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, pass: MlpForward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.spec.options.training)?;
        self.check(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        saved.fill(self.id, Batch { m: pass.m, seq: 0 }, |carver| {
            self.run(pass, self.keep(rows, true, carver)?)
        })
    }

    /// Enqueues a forward pass that saves nothing.
    ///
    /// # Errors
    /// As [`ParallelMlp::forward`].
    pub fn infer(&self, pass: MlpForward<'_>, workspace: &mut Workspace) -> Result<()> {
        self.check(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        self.run(pass, self.keep(rows, false, &mut carver)?)
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, without its forward pass, and of a layer for
    /// inference; else as [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, pass: MlpBackward<'_>, saved: &mut Saved, workspace: &mut Workspace) -> Result<()> {
        check_training(self.spec.options.training)?;
        self.check_back(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        saved.consume(self.id, pass.m, |carver, _| {
            let kept = self.keep(rows, true, carver)?;
            self.run_back(pass, kept, &mut workspace.open(self.workspace_bytes()?)?)
        })
    }
}
