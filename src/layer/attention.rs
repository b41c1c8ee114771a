//! Causal self-attention, split by heads: QKV column-parallel, each rank's heads on their own, output projection row-parallel.

use super::column::ColumnParallelLinear;
use super::finish::Finish;
use super::heads::{AttentionSpec, HeadsOf};
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::check_training;
use super::parameters::{AttentionGradients, AttentionParameters, LinearGradients};
use super::row::RowParallelLinear;
use super::sends::Sends;
use crate::error::Result;
use crate::group::Rank;
use crate::memory::{Mat, MatMut};

mod passes;

pub(super) use passes::check_sequences;

/// The data of a forward pass.
#[derive(Debug)]
pub struct AttentionForward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// Rows of a sequence: the batch is `m / seq` of them, one behind the other.
    pub seq: usize,
    /// `[rows, d]`.
    pub x: Mat<'a>,
    /// This rank's parts.
    pub parameters: AttentionParameters<'a>,
    /// `[rows, d]`, added to y; there exactly if the layer has one.
    pub residual: Option<Mat<'a>>,
    /// `[rows, d]`.
    pub y: MatMut<'a>,
}

/// The data of a backward pass. Every rank asks for the same gradients. (A residual's is dy.)
#[derive(Debug)]
pub struct AttentionBackward<'a> {
    /// As in the forward pass, whose `seq` it has, too.
    pub m: usize,
    /// The forward pass's.
    pub x: Mat<'a>,
    /// The forward pass's.
    pub parameters: AttentionParameters<'a>,
    /// `[rows, d]`.
    pub dy: Mat<'a>,
    /// Takes the gradient of the input, if it is wanted.
    pub dx: Option<MatMut<'a>>,
    /// Take those of the parameters; of replicated KV heads of this rank's queries ([`ParallelAttention::finish_gradients`]).
    pub gradients: AttentionGradients<'a>,
    /// Whether the gradients of parameters are added to what is there.
    pub accumulate: bool,
}

/// What lies between the two linear layers.
pub(super) struct Kept<'a> {
    /// All rows, with sequence parallelism, before a backward pass.
    x: Option<MatMut<'a>>,
    qkv: MatMut<'a>,
    out: MatMut<'a>,
    /// Before a backward pass.
    lse: Option<MatMut<'a>>,
}

/// What a backward pass has between them.
struct Scratch<'a> {
    dout: MatMut<'a>,
    dqkv: MatMut<'a>,
    delta: MatMut<'a>,
    /// All rows of dY, with sequence parallelism.
    all: Option<MatMut<'a>>,
}

/// Multi-head attention with grouped queries: one all-reduce in each direction, or one all-gather and one reduce-scatter.
///
/// x, y and their gradients are `[m, d]` on every rank, or with sequence parallelism `[m_r, d]`.
#[derive(Debug)]
pub struct ParallelAttention {
    rank: Rank,
    spec: AttentionSpec,
    heads: HeadsOf,
    id: LayerId,
    qkv: ColumnParallelLinear,
    output: RowParallelLinear,
    finish: Finish,
}

impl ParallelAttention {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for sizes that are none and heads that cannot be dealt out evenly; else as [`Rank::plan`].
    pub fn new(rank: &Rank, spec: &AttentionSpec) -> Result<ParallelAttention> {
        let heads = spec.heads_of(rank.world(), rank.rank())?;
        spec.check()?;
        Ok(ParallelAttention {
            rank: rank.clone(),
            spec: *spec,
            heads,
            id: LayerId::new(),
            qkv: ColumnParallelLinear::new(rank, &spec.qkv(rank.world()))?,
            output: RowParallelLinear::lent(rank, &spec.output())?,
            finish: Finish::new(rank, &spec.options, spec.in_parts(rank.world()))?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// This rank's heads.
    pub fn heads(&self) -> &HeadsOf {
        &self.heads
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
        if !self.spec.options.training {
            return Ok(forward);
        }
        let backward = Carver::count(|carver| self.scratch(rows, carver).map(drop))?;
        let finish = Carver::count(|carver| self.finish.keep(carver).map(drop))?;
        Ok(forward.max(backward).max(finish))
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
        [self.qkv.forward_sends(m), self.output.forward_sends(m)].concat()
    }

    /// What a backward pass that gives all gradients sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        [self.output.backward_sends(m), self.qkv.backward_sends(m)].concat()
    }

    /// What [`ParallelAttention::finish_gradients`] sends from this rank.
    pub fn finish_sends(&self) -> Vec<Sends> {
        self.finish.sends()
    }

    /// Enqueues a forward pass that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, rows that are no whole sequences, and of a layer for inference; else as
    /// [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, pass: AttentionForward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.spec.options.training)?;
        self.check(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        let (m, seq) = (pass.m, pass.seq);
        saved.fill(self.id, Batch { m, seq }, |carver| {
            self.run(pass, self.keep(rows, true, carver)?)
        })
    }

    /// Enqueues a forward pass that saves nothing.
    ///
    /// # Errors
    /// As [`ParallelAttention::forward`].
    pub fn infer(&self, pass: AttentionForward<'_>, workspace: &mut Workspace) -> Result<()> {
        self.check(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        self.run(pass, self.keep(rows, false, &mut carver)?)
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, without its forward pass, and of a layer for inference; else as
    /// [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, pass: AttentionBackward<'_>, saved: &mut Saved, workspace: &mut Workspace) -> Result<()> {
        check_training(self.spec.options.training)?;
        self.check_back(&pass)?;
        let rows = self.spec.options.rows(pass.m, &self.rank);
        saved.consume(self.id, pass.m, |carver, batch| {
            let kept = self.keep(rows, true, carver)?;
            self.run_back(pass, batch.seq, kept, &mut workspace.open(self.workspace_bytes()?)?)
        })
    }

    /// Enqueues the sum of the gradients of replicated KV heads over the ranks that have them: once a step, after its last backward
    /// pass. Without replicas it does nothing. Every rank brings the same ones.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for other shapes; else as [`Plan::launch`](crate::Plan::launch).
    pub fn finish_gradients(&self, gradients: LinearGradients<'_>, workspace: &mut Workspace) -> Result<()> {
        let [qkv, _] = self.shapes();
        qkv.check_gradients(&gradients, 0, &self.rank)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let row = self.finish.keep(&mut carver)?;
        self.finish.run(self.parts(gradients, 0)?, row)
    }
}
