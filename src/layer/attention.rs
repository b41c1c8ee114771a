//! Causal self-attention, split by heads: QKV column-parallel, each rank's heads on their own, output projection row-parallel.

use super::column::ColumnParallelLinear;
use super::finish::{Finish, Part};
use super::heads::{AttentionSpec, HeadsOf};
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::operands::{Backward, Forward, check_m, check_mat, check_optional, check_training};
use super::options::Rows;
use super::parameters::{AttentionGradients, AttentionParameters, LinearGradients, LinearShape};
use super::row::RowParallelLinear;
use super::sends::Sends;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;
use crate::local;
use crate::memory::{Mat, MatMut};

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
    /// [`Error::BadArgument`] for sizes that are none and heads that cannot be dealt out evenly; else as [`Rank::plan`].
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
    /// [`Error::BadArgument`] of a layer for inference; the driver's, where there is not that much.
    pub fn saved(&self) -> Result<Saved> {
        check_training(self.spec.options.training)?;
        let rows = self.spec.options.most_rows(self.rank.world());
        let bytes = Carver::count(|carver| self.keep(rows, true, carver).map(drop))?;
        Saved::new(&self.rank, self.id, bytes)
    }

    /// Bytes of a workspace that all passes fit in.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for sizes beyond 64 bits.
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
    /// [`Error::BadArgument`] for operands of other shapes, rows that are no whole sequences, and of a layer for inference; else as
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
    /// [`Error::BadArgument`] for operands of other shapes, without its forward pass, and of a layer for inference; else as
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
    /// [`Error::BadArgument`] for other shapes; else as [`Plan::launch`](crate::Plan::launch).
    pub fn finish_gradients(&self, gradients: LinearGradients<'_>, workspace: &mut Workspace) -> Result<()> {
        let [qkv, _] = self.shapes();
        qkv.check_gradients(&gradients, 0, &self.rank)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let row = self.finish.keep(&mut carver)?;
        self.finish.run(self.parts(gradients, 0)?, row)
    }

    /// Where the gradients of its KV heads lie in a row, from `at` on.
    pub(super) fn parts<'a>(&self, gradients: LinearGradients<'a>, at: usize) -> Result<Vec<Part<'a>>> {
        let mut parts = Vec::new();
        if self.spec.in_parts(self.rank.world()) == 0 {
            return Ok(parts);
        }
        let AttentionSpec {
            hidden,
            kv_heads,
            head_size,
            ..
        } = self.spec;
        let (q, each) = (self.heads.q.len() * head_size, 2 * head_size);
        if let Some(weight) = gradients.weight {
            parts.push(Part {
                gradient: weight.part(q..q + each, 0..hidden)?,
                at: at + self.heads.kv.start * each * hidden,
            });
        }
        if let Some(bias) = gradients.bias {
            parts.push(Part {
                gradient: bias.part(0..1, q..q + each)?,
                at: at + kv_heads * each * hidden + self.heads.kv.start * each,
            });
        }
        Ok(parts)
    }

    /// Columns of this rank's queries, and of its keys.
    fn columns(&self) -> [usize; 2] {
        [self.heads.q.len(), self.heads.kv.len()].map(|heads| heads * self.spec.head_size)
    }

    /// What lies between the linear layers, `saved` for a backward pass or not.
    pub(super) fn keep<'a>(&self, rows: Rows, saved: bool, carver: &mut Carver<'a>) -> Result<Kept<'a>> {
        let (options, m, [q, kv]) = (&self.spec.options, rows.all, self.columns());
        let x = || carver.take(m, self.spec.hidden, options.dtype);
        let x = (saved && options.sequence_parallel).then(x).transpose()?;
        let qkv = carver.take(m, q + 2 * kv, options.dtype)?;
        let out = carver.take(m, q, options.dtype)?;
        let lse = || carver.take(m, self.heads.q.len(), DType::F32);
        let lse = saved.then(lse).transpose()?;
        Ok(Kept { x, qkv, out, lse })
    }

    fn scratch<'a>(&self, rows: Rows, carver: &mut Carver<'a>) -> Result<Scratch<'a>> {
        let (options, m, [q, kv]) = (&self.spec.options, rows.all, self.columns());
        Ok(Scratch {
            dout: carver.take(m, q, options.dtype)?,
            dqkv: carver.take(m, q + 2 * kv, options.dtype)?,
            delta: carver.take(m, self.heads.q.len(), DType::F32)?,
            all: match options.sequence_parallel {
                true => Some(carver.take(m, self.spec.hidden, options.dtype)?),
                false => None,
            },
        })
    }

    /// Q, K and V of a matrix that holds them side by side.
    fn split<'a>(&self, qkv: Mat<'a>) -> Result<[Mat<'a>; 3]> {
        let [q, kv] = self.columns();
        let part = |columns| qkv.part(0..qkv.rows(), columns);
        Ok([part(0..q)?, part(q..q + kv)?, part(q + kv..q + 2 * kv)?])
    }

    /// A forward pass of operands that are right.
    pub(super) fn run(&self, pass: AttentionForward<'_>, mut kept: Kept<'_>) -> Result<()> {
        let AttentionParameters { qkv, output } = pass.parameters;
        self.qkv.product(Forward {
            bias: qkv.bias,
            gathered: kept.x,
            ..Forward::new(pass.m, pass.x, qkv.weight, kept.qkv.reborrow())
        })?;
        let [q, k, v] = self.split(kept.qkv.as_mat())?;
        let attention = local::Attention {
            heads: self.heads.q.len(),
            kv_heads: self.heads.kv.len(),
            head_size: self.spec.head_size,
            seq: pass.seq,
            scale: self.spec.scale,
            q,
            k,
            v,
            o: kept.out.reborrow(),
            lse: kept.lse,
        };
        attention.launch(&self.rank)?;
        self.output.forward(Forward {
            bias: output.bias,
            residual: pass.residual,
            ..Forward::new(pass.m, kept.out.as_mat(), output.weight, pass.y)
        })
    }

    /// A backward pass of operands that are right.
    pub(super) fn run_back(
        &self,
        pass: AttentionBackward<'_>,
        seq: usize,
        kept: Kept<'_>,
        carver: &mut Carver<'_>,
    ) -> Result<()> {
        let (m, accumulate) = (pass.m, pass.accumulate);
        let mut scratch = self.scratch(self.spec.options.rows(m, &self.rank), carver)?;
        let AttentionGradients { qkv, output } = pass.gradients;
        let projection = Backward {
            x: Some(kept.out.as_mat()),
            weight: Some(pass.parameters.output.weight),
            dx: Some(scratch.dout.reborrow()),
            dweight: output.weight,
            dbias: output.bias,
            accumulate,
            ..Backward::new(m, pass.dy)
        };
        self.output.backward_in(projection, scratch.all)?;
        if let Some(lse) = &kept.lse {
            let [q, k, v] = self.split(kept.qkv.as_mat())?;
            let [dq_columns, dk_columns] = self.columns();
            let (dq, dkv) = scratch.dqkv.reborrow().split_columns(dq_columns)?;
            let (dk, dv) = dkv.split_columns(dk_columns)?;
            let attention = local::AttentionBackward {
                heads: self.heads.q.len(),
                kv_heads: self.heads.kv.len(),
                head_size: self.spec.head_size,
                seq,
                scale: self.spec.scale,
                q,
                k,
                v,
                o: kept.out.as_mat(),
                lse: lse.as_mat(),
                do_: scratch.dout.as_mat(),
                delta: scratch.delta,
                dq,
                dk,
                dv,
            };
            attention.launch(&self.rank)?;
        }
        self.qkv.backward(Backward {
            x: Some(kept.x.as_ref().map_or(pass.x, MatMut::as_mat)),
            weight: Some(pass.parameters.qkv.weight),
            dx: pass.dx,
            dweight: qkv.weight,
            dbias: qkv.bias,
            accumulate,
            ..Backward::new(m, scratch.dqkv.as_mat())
        })
    }

    fn shapes(&self) -> [LinearShape<'static>; 2] {
        let (
            [q, kv],
            AttentionSpec {
                hidden, bias, options, ..
            },
        ) = (self.columns(), self.spec);
        let shape = |name, weight| LinearShape {
            name,
            weight,
            bias,
            dtype: options.dtype,
        };
        [shape("qkv", [q + 2 * kv, hidden]), shape("output", [hidden, q])]
    }

    pub(super) fn check_parameters(&self, given: &AttentionParameters<'_>, m: usize) -> Result<()> {
        let [qkv, output] = self.shapes();
        qkv.check(&given.qkv, m, &self.rank)?;
        output.check(&given.output, m, &self.rank)
    }

    pub(super) fn check_gradients(&self, given: &AttentionGradients<'_>, m: usize) -> Result<()> {
        let [qkv, output] = self.shapes();
        qkv.check_gradients(&given.qkv, m, &self.rank)?;
        output.check_gradients(&given.output, m, &self.rank)
    }

    fn check(&self, pass: &AttentionForward<'_>) -> Result<()> {
        let (m, options) = (pass.m, &self.spec.options);
        check_m(options.max_m, m)?;
        check_sequences(m, pass.seq)?;
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

    fn check_back(&self, pass: &AttentionBackward<'_>) -> Result<()> {
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

/// Whole sequences.
pub(super) fn check_sequences(m: usize, seq: usize) -> Result<()> {
    match seq > 0 && m.is_multiple_of(seq) {
        true => Ok(()),
        false => {
            let expected = format!("a sequence's length, at least 1, of which M = {m} is a multiple");
            Err(Error::bad_argument("seq", seq, expected))
        }
    }
}
