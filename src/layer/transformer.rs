//! A layer of a transformer: attention and MLP, each behind a norm, each added to what came in.

use super::attention::{
    AttentionBackward, AttentionForward, Kept as AttentionKept, ParallelAttention, check_sequences,
};
use super::finish::Finish;
use super::heads::AttentionSpec;
use super::memory::{Batch, Carver, LayerId, Saved, Workspace};
use super::mlp::{Kept as MlpKept, MlpBackward, MlpForward, MlpSpec, ParallelMlp};
use super::norm::{NormBackward, NormForward, NormSpec, ParallelNorm};
use super::operands::check_training;
use super::options::{Options, Rows};
use super::parameters::{NormParameters, TransformerGradients, TransformerParameters};
use super::sends::Sends;
use crate::error::Result;
use crate::group::Rank;
use crate::local::{Activation, NormKind};
use crate::memory::{Mat, MatMut};
use crate::op::OpSpec;

mod passes;

use passes::{attend, feed, norm};

/// A pre-norm layer, whole; equal on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TransformerSpec {
    /// Its attention. That its output is added to x is the layer's business.
    pub attention: AttentionSpec,
    /// Its MLP, likewise.
    pub mlp: MlpSpec,
    /// Both norms.
    pub norm: NormSpec,
}

impl TransformerSpec {
    /// As Llama's: RMSNorm with eps 1e-5, SwiGLU, no biases, heads of `hidden / heads` columns.
    pub fn new(hidden: usize, heads: usize, kv_heads: usize, intermediate: usize, options: Options) -> TransformerSpec {
        TransformerSpec {
            attention: AttentionSpec::new(hidden, heads, kv_heads, options).residual(true),
            mlp: MlpSpec::new(hidden, intermediate, Activation::SwiGlu, options).residual(true),
            norm: NormSpec::new(NormKind::Rms, hidden, options),
        }
    }

    /// As GPT-2's: LayerNorm, GELU, biases.
    pub fn gpt(hidden: usize, heads: usize, intermediate: usize, options: Options) -> TransformerSpec {
        TransformerSpec {
            attention: AttentionSpec::new(hidden, heads, heads, options)
                .residual(true)
                .bias(true),
            mlp: MlpSpec::new(hidden, intermediate, Activation::Gelu, options).residual(true),
            norm: NormSpec::new(NormKind::Layer, hidden, options),
        }
    }

    /// With heads of so many columns, and scale `1 / sqrt(head_size)`.
    pub fn head_size(self, head_size: usize) -> TransformerSpec {
        TransformerSpec {
            attention: self.attention.head_size(head_size),
            ..self
        }
    }

    /// With this eps in both norms.
    pub fn eps(self, eps: f32) -> TransformerSpec {
        TransformerSpec {
            norm: self.norm.eps(eps),
            ..self
        }
    }

    /// The operations of such a layer on all ranks ([`GroupConfig::sized_for`](crate::GroupConfig::sized_for)).
    pub fn operations(&self, world: usize) -> Vec<OpSpec> {
        let mut all = self.attention.operations(world);
        all.extend(self.mlp.operations(world));
        let sum = self.options().sum_of(self.in_parts(world));
        all.extend(sum.filter(|_| self.options().training));
        all
    }

    fn options(&self) -> &Options {
        &self.attention.options
    }

    /// Elements of gradients that ranks have in parts: both norms', then attention's.
    fn in_parts(&self, world: usize) -> usize {
        2 * self.norm.in_parts() + self.attention.in_parts(world)
    }
}

/// The data of a forward pass.
#[derive(Debug)]
pub struct TransformerForward<'a> {
    /// Rows of the batch, those of all ranks together.
    pub m: usize,
    /// Rows of a sequence: the batch is `m / seq` of them, one behind the other.
    pub seq: usize,
    /// `[rows, d]`.
    pub x: Mat<'a>,
    /// This rank's parts.
    pub parameters: TransformerParameters<'a>,
    /// `[rows, d]`.
    pub y: MatMut<'a>,
}

/// The data of a backward pass. Every rank asks for the same gradients.
#[derive(Debug)]
pub struct TransformerBackward<'a> {
    /// As in the forward pass, whose `seq` it has, too.
    pub m: usize,
    /// The forward pass's.
    pub x: Mat<'a>,
    /// The forward pass's.
    pub parameters: TransformerParameters<'a>,
    /// `[rows, d]`.
    pub dy: Mat<'a>,
    /// Takes the gradient of the input, if it is wanted.
    pub dx: Option<MatMut<'a>>,
    /// Take those of the parameters, some in parts ([`TransformerLayer::finish_gradients`]).
    pub gradients: TransformerGradients<'a>,
    /// Whether the gradients of parameters are added to what is there.
    pub accumulate: bool,
}

/// What a forward pass leaves for its backward pass.
struct Kept<'a> {
    input_stats: MatMut<'a>,
    /// Behind the first norm.
    input: MatMut<'a>,
    attention: AttentionKept<'a>,
    /// Between attention and MLP.
    middle: MatMut<'a>,
    post_stats: MatMut<'a>,
    /// Behind the second norm.
    post: MatMut<'a>,
    mlp: MlpKept<'a>,
}

/// `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`: two all-reduces in each direction, or two all-gathers and two
/// reduce-scatters.
///
/// x, y and their gradients are `[m, d]` on every rank, or with sequence parallelism `[m_r, d]`.
#[derive(Debug)]
pub struct TransformerLayer {
    rank: Rank,
    spec: TransformerSpec,
    id: LayerId,
    input_norm: ParallelNorm,
    attention: ParallelAttention,
    post_norm: ParallelNorm,
    mlp: ParallelMlp,
    finish: Finish,
}

impl TransformerLayer {
    /// Plans the layer on a rank.
    ///
    /// # Errors
    /// As those of its parts; [`Error::BadArgument`](crate::Error::BadArgument) where these do not fit each other.
    pub fn new(rank: &Rank, spec: &TransformerSpec) -> Result<TransformerLayer> {
        spec.check()?;
        let elements = spec.in_parts(rank.world());
        Ok(TransformerLayer {
            rank: rank.clone(),
            spec: *spec,
            id: LayerId::new(),
            input_norm: ParallelNorm::new(rank, &spec.norm)?,
            attention: ParallelAttention::new(rank, &spec.attention)?,
            post_norm: ParallelNorm::new(rank, &spec.norm)?,
            mlp: ParallelMlp::new(rank, &spec.mlp)?,
            finish: Finish::new(rank, spec.options(), elements)?,
        })
    }

    /// What it was made for.
    pub fn spec(&self) -> &TransformerSpec {
        &self.spec
    }

    /// Its attention: who has which heads.
    pub fn attention(&self) -> &ParallelAttention {
        &self.attention
    }

    /// Memory for one forward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) of a layer for inference; the driver's, where there is not that much.
    pub fn saved(&self) -> Result<Saved> {
        check_training(self.options().training)?;
        let rows = self.options().most_rows(self.rank.world());
        let bytes = Carver::count(|carver| self.keep(rows, carver).map(drop))?;
        Saved::new(&self.rank, self.id, bytes)
    }

    /// Bytes of a workspace that all passes fit in.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for sizes beyond 64 bits.
    pub fn workspace_bytes(&self) -> Result<usize> {
        let rows = self.options().most_rows(self.rank.world());
        // Every pass has two matrices of the stream, and then one block's at a time.
        let blocks = self.attention.workspace_bytes()?.max(self.mlp.workspace_bytes()?);
        let stream = Carver::count(|carver| self.stream(rows, carver).map(drop))?;
        let finish = Carver::count(|carver| self.finish.keep(carver).map(drop))?;
        Ok((stream + blocks).max(finish))
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
        [self.attention.forward_sends(m), self.mlp.forward_sends(m)].concat()
    }

    /// What a backward pass that gives all gradients sends from this rank.
    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        [self.mlp.backward_sends(m), self.attention.backward_sends(m)].concat()
    }

    /// What [`TransformerLayer::finish_gradients`] sends from this rank.
    pub fn finish_sends(&self) -> Vec<Sends> {
        self.finish.sends()
    }

    /// Enqueues a forward pass that a backward pass follows.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, rows that are no whole sequences, and of a
    /// layer for inference; else as [`Plan::launch`](crate::Plan::launch).
    pub fn forward(&self, pass: TransformerForward<'_>, saved: &mut Saved) -> Result<()> {
        check_training(self.options().training)?;
        self.check(&pass)?;
        let TransformerForward {
            m,
            seq,
            x,
            parameters,
            y,
        } = pass;
        let rows = self.options().rows(m, &self.rank);
        saved.fill(self.id, Batch { m, seq }, |carver| {
            let mut kept = self.keep(rows, carver)?;
            let input = kept.input.reborrow();
            self.input_norm
                .run(norm(m, x, parameters.input_norm, input), Some(kept.input_stats))?;
            let attention = attend(m, seq, kept.input.as_mat(), x, &parameters, kept.middle.reborrow());
            self.attention.run(attention, kept.attention)?;
            let (middle, post) = (kept.middle.as_mat(), kept.post.reborrow());
            let stats = Some(kept.post_stats);
            self.post_norm
                .run(norm(m, middle, parameters.post_attention_norm, post), stats)?;
            self.mlp
                .run(feed(m, kept.post.as_mat(), middle, &parameters, y), kept.mlp)
        })
    }

    /// Enqueues a forward pass that saves nothing.
    ///
    /// # Errors
    /// As [`TransformerLayer::forward`].
    pub fn infer(&self, pass: TransformerForward<'_>, workspace: &mut Workspace) -> Result<()> {
        self.check(&pass)?;
        let TransformerForward {
            m,
            seq,
            x,
            parameters,
            y,
        } = pass;
        let rows = self.options().rows(m, &self.rank);
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let [mut normed, mut middle] = self.stream(rows, &mut carver)?;
        self.input_norm
            .run(norm(m, x, parameters.input_norm, normed.reborrow()), None)?;
        carver.scope(|carver| {
            let attention = attend(m, seq, normed.as_mat(), x, &parameters, middle.reborrow());
            self.attention.run(attention, self.attention.keep(rows, false, carver)?)
        })?;
        let middle = middle.as_mat();
        self.post_norm
            .run(norm(m, middle, parameters.post_attention_norm, normed.reborrow()), None)?;
        carver.scope(|carver| {
            let pass = feed(m, normed.as_mat(), middle, &parameters, y);
            self.mlp.run(pass, self.mlp.keep(rows, false, carver)?)
        })
    }

    /// Enqueues the backward pass.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for operands of other shapes, without its forward pass, and of a layer for
    /// inference; else as [`Plan::launch`](crate::Plan::launch).
    pub fn backward(&self, pass: TransformerBackward<'_>, saved: &mut Saved, workspace: &mut Workspace) -> Result<()> {
        check_training(self.options().training)?;
        self.check_back(&pass)?;
        let rows = self.options().rows(pass.m, &self.rank);
        saved.consume(self.id, pass.m, |carver, batch| {
            let kept = self.keep(rows, carver)?;
            self.run_back(pass, batch.seq, kept, &mut workspace.open(self.workspace_bytes()?)?)
        })
    }

    /// Enqueues, in one all-reduce, the sum of gradients that ranks have in parts: with sequence parallelism the norms', and those of
    /// replicated KV heads. Once a step, after its last backward pass; every rank brings the same ones. The others are left as they
    /// are.
    ///
    /// # Errors
    /// [`Error::BadArgument`](crate::Error::BadArgument) for other shapes; else as [`Plan::launch`](crate::Plan::launch).
    pub fn finish_gradients(&self, gradients: TransformerGradients<'_>, workspace: &mut Workspace) -> Result<()> {
        self.check_gradients(&gradients, 0)?;
        let mut carver = workspace.open(self.workspace_bytes()?)?;
        let row = self.finish.keep(&mut carver)?;
        let of_norm = self.spec.norm.in_parts();
        let mut parts = self.input_norm.parts(gradients.input_norm, 0);
        parts.extend(self.post_norm.parts(gradients.post_attention_norm, of_norm));
        parts.extend(self.attention.parts(gradients.attention.qkv, 2 * of_norm)?);
        self.finish.run(parts, row)
    }
}
