//! The MLP of a transformer: column-parallel with the activation at its end, then row-parallel.

use super::column::ColumnParallelLinear;
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::{Backward, Forward, check_m, check_mat, check_optional, check_training};
use super::options::{Options, Rows, at_least_one};
use super::parameters::{LinearShape, MlpGradients, MlpParameters};
use super::row::RowParallelLinear;
use super::sends::Sends;
use super::spec::{LinearSpec, Split};
use crate::error::Result;
use crate::group::Rank;
use crate::local::{ActivateBackward, Activation};
use crate::memory::{Mat, MatMut};
use crate::op::{Epilogue, OpSpec};

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

    /// What lies between the layers, `saved` for a backward pass or not.
    pub(super) fn keep<'a>(&self, rows: Rows, saved: bool, carver: &mut Carver<'a>) -> Result<Kept<'a>> {
        let (options, m) = (&self.spec.options, rows.all);
        let mut take = |needed: bool, cols: usize| needed.then(|| carver.take(m, cols, options.dtype)).transpose();
        Ok(Kept {
            x: take(saved && options.sequence_parallel, self.spec.hidden)?,
            product: take(saved, self.products * self.part)?,
            activation: carver.take(m, self.part, options.dtype)?,
        })
    }

    /// Gradients of the activation and of the product, and with sequence parallelism all rows of dY.
    fn scratch<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<(MatMut<'a>, MatMut<'a>, Option<MatMut<'a>>)> {
        let (options, m) = (&self.spec.options, rows.all);
        let activation = carver.take(m, self.part, options.dtype)?;
        let product = carver.take(m, self.products * self.part, options.dtype)?;
        let all = || carver.take(m, self.spec.hidden, options.dtype);
        Ok((activation, product, options.sequence_parallel.then(all).transpose()?))
    }

    /// A forward pass of operands that are right.
    pub(super) fn run(&self, pass: MlpForward<'_>, mut kept: Kept<'_>) -> Result<()> {
        let MlpParameters { fc1, fc2 } = pass.parameters;
        self.fc1.product(Forward {
            bias: fc1.bias,
            gathered: kept.x,
            saved: kept.product,
            ..Forward::new(pass.m, pass.x, fc1.weight, kept.activation.reborrow())
        })?;
        self.fc2.forward(Forward {
            bias: fc2.bias,
            residual: pass.residual,
            ..Forward::new(pass.m, kept.activation.as_mat(), fc2.weight, pass.y)
        })
    }

    /// A backward pass of operands that are right.
    pub(super) fn run_back(&self, pass: MlpBackward<'_>, kept: Kept<'_>, carver: &mut Carver<'_>) -> Result<()> {
        let (m, accumulate) = (pass.m, pass.accumulate);
        let rows = self.spec.options.rows(m, &self.rank);
        let (mut dactivation, mut dproduct, all) = self.scratch(rows, carver)?;
        let MlpGradients { fc1, fc2 } = pass.gradients;
        let second = Backward {
            x: Some(kept.activation.as_mat()),
            weight: Some(pass.parameters.fc2.weight),
            dx: Some(dactivation.reborrow()),
            dweight: fc2.weight,
            dbias: fc2.bias,
            accumulate,
            ..Backward::new(m, pass.dy)
        };
        self.fc2.backward_in(second, all)?;
        if let Some(product) = &kept.product {
            let activate = ActivateBackward {
                activation: self.spec.activation,
                x: product.as_mat(),
                dy: dactivation.as_mat(),
                dx: dproduct.reborrow(),
            };
            activate.launch(&self.rank)?;
        }
        self.fc1.backward(Backward {
            x: Some(kept.x.as_ref().map_or(pass.x, MatMut::as_mat)),
            weight: Some(pass.parameters.fc1.weight),
            dx: pass.dx,
            dweight: fc1.weight,
            dbias: fc1.bias,
            accumulate,
            ..Backward::new(m, dproduct.as_mat())
        })
    }

    fn shapes(&self) -> [LinearShape<'static>; 2] {
        let MlpSpec {
            hidden, bias, options, ..
        } = self.spec;
        let shape = |name, weight| LinearShape {
            name,
            weight,
            bias,
            dtype: options.dtype,
        };
        [
            shape("fc1", [self.products * self.part, hidden]),
            shape("fc2", [hidden, self.part]),
        ]
    }

    pub(super) fn check_parameters(&self, given: &MlpParameters<'_>, m: usize) -> Result<()> {
        let [fc1, fc2] = self.shapes();
        fc1.check(&given.fc1, m, &self.rank)?;
        fc2.check(&given.fc2, m, &self.rank)
    }

    pub(super) fn check_gradients(&self, given: &MlpGradients<'_>, m: usize) -> Result<()> {
        let [fc1, fc2] = self.shapes();
        fc1.check_gradients(&given.fc1, m, &self.rank)?;
        fc2.check_gradients(&given.fc2, m, &self.rank)
    }

    fn check(&self, pass: &MlpForward<'_>) -> Result<()> {
        let (m, options) = (pass.m, &self.spec.options);
        check_m(options.max_m, m)?;
        let wanted = [options.rows(m, &self.rank).own, self.spec.hidden];
        let residual = pass.residual.as_ref();
        check_optional("residual", residual.is_some(), self.spec.residual)?;
        let mats = [
            ("x", Some(&pass.x.raw)),
            ("residual", residual.map(|mat| &mat.raw)),
            ("y", Some(&pass.y.raw)),
        ];
        for (name, mat) in mats {
            mat.map_or(Ok(()), |mat| check_mat(name, mat, wanted, options.dtype, m, &self.rank))?;
        }
        self.check_parameters(&pass.parameters, m)
    }

    fn check_back(&self, pass: &MlpBackward<'_>) -> Result<()> {
        let (m, options) = (pass.m, &self.spec.options);
        check_m(options.max_m, m)?;
        let wanted = [options.rows(m, &self.rank).own, self.spec.hidden];
        let dx = pass.dx.as_ref().map(|dx| &dx.raw);
        for (name, mat) in [("x", Some(&pass.x.raw)), ("dy", Some(&pass.dy.raw)), ("dx", dx)] {
            mat.map_or(Ok(()), |mat| check_mat(name, mat, wanted, options.dtype, m, &self.rank))?;
        }
        self.check_parameters(&pass.parameters, m)?;
        self.check_gradients(&pass.gradients, m)
    }
}
