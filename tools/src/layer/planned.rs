//! A layer of the crate's, whichever it is: its spec, its plans on a rank, and its passes over the program's operands.

use tileweave::layer::{
    AttentionBackward, AttentionForward, AttentionSpec, Backward, ColumnParallelLinear, EmbeddingBackward,
    EmbeddingForward, EmbeddingSpec, Forward, LinearSpec, MlpBackward, MlpForward, MlpSpec, Options, ParallelAttention,
    ParallelMlp, RowParallelLinear, Saved, Sends, Split, TransformerBackward, TransformerForward, TransformerLayer,
    TransformerSpec, VocabParallelEmbedding, Workspace,
};
use tileweave::local::Activation;
use tileweave::reference::layer::{Between, Heads};
use tileweave::{Buffer, Error, OpSpec, Rank, Result, Want};

use super::kind::{EPS, Kind};
use super::lane::Operands;
use super::mats;
use super::parts::Role;
use super::problem::Problem;

/// What the spec of a layer depends on, beside the problem.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub sequence_parallel: bool,
    pub route: Want,
}

/// A layer that is not planned yet, equal on every rank.
pub enum Spec {
    Linear(Split, LinearSpec),
    Mlp(MlpSpec),
    Attention(AttentionSpec),
    Transformer(TransformerSpec),
    Embedding(EmbeddingSpec),
}

/// What composite layers need beside their operands.
pub struct Memory {
    /// For a backward pass.
    saved: Option<Saved>,
    workspace: Workspace,
}

/// The same on a rank.
pub enum Planned {
    Column {
        layer: ColumnParallelLinear,
        /// The gathered x, with sequence parallelism and a backward pass.
        gathered: Option<Buffer>,
    },
    Row(RowParallelLinear),
    Mlp(ParallelMlp, Memory),
    Attention(ParallelAttention, Memory),
    Transformer(Box<TransformerLayer>, Memory),
    Embedding(VocabParallelEmbedding, Workspace),
}

impl Spec {
    pub fn new(problem: &Problem, wanted: Wanted) -> Spec {
        let size = |letter| problem.size(letter);
        let options = Options::new(size('S'), problem.dtype)
            .sequence_parallel(wanted.sequence_parallel)
            .training(problem.backward)
            .route(wanted.route);
        let linear = || {
            LinearSpec::new(size('D'), size('N'), size('S'), problem.dtype)
                .bias(problem.has("bias"))
                .sequence_parallel(wanted.sequence_parallel)
                .training(problem.backward)
                .route(wanted.route)
        };
        let of_head = |heads: Heads| size('Q') / heads.heads.max(1);
        match problem.kind {
            Kind::Column => Spec::Linear(Split::Column, linear()),
            Kind::Row => Spec::Linear(Split::Row, linear()),
            Kind::Mlp(between) => {
                let activation = match between {
                    Between::SwiGlu => Activation::SwiGlu,
                    _ => Activation::Gelu,
                };
                let spec = MlpSpec::new(size('D'), size('F'), activation, options);
                Spec::Mlp(spec.bias(problem.has("fc1.bias")))
            }
            Kind::Attention(heads) => {
                let spec = AttentionSpec::new(size('D'), heads.heads, heads.kv_heads, options);
                Spec::Attention(spec.head_size(of_head(heads)).bias(problem.has("q_proj.bias")))
            }
            Kind::Transformer(heads) => {
                let spec = TransformerSpec::new(size('D'), heads.heads, heads.kv_heads, size('F'), options);
                Spec::Transformer(spec.head_size(of_head(heads)).eps(EPS))
            }
            Kind::Embedding => Spec::Embedding(EmbeddingSpec::new(size('V'), size('D'), options)),
        }
    }

    /// What a heap has to have room for.
    pub fn operations(&self, world: usize) -> Vec<OpSpec> {
        match self {
            Spec::Linear(split, spec) => spec.operations(*split, world),
            Spec::Mlp(spec) => spec.operations(world),
            Spec::Attention(spec) => spec.operations(world),
            Spec::Transformer(spec) => spec.operations(world),
            Spec::Embedding(spec) => spec.operations(),
        }
    }

    /// Heads that `world` ranks cannot have, before anything is made.
    pub fn check(&self, world: usize) -> Result<()> {
        match self {
            Spec::Attention(spec) => spec.heads_of(world, 0).map(drop),
            Spec::Transformer(spec) => spec.attention.heads_of(world, 0).map(drop),
            _ => Ok(()),
        }
    }

    pub fn plan(&self, rank: &Rank) -> Result<Planned> {
        Ok(match self {
            Spec::Linear(Split::Column, spec) => {
                let bytes = spec.max_m * spec.in_features * spec.dtype.size();
                let needed = spec.sequence_parallel && spec.training;
                Planned::Column {
                    layer: ColumnParallelLinear::new(rank, spec)?,
                    gathered: needed.then(|| rank.alloc(bytes)).transpose()?,
                }
            }
            Spec::Linear(Split::Row, spec) => Planned::Row(RowParallelLinear::new(rank, spec)?),
            Spec::Mlp(spec) => {
                let layer = ParallelMlp::new(rank, spec)?;
                let memory = memory(spec.options, || layer.saved(), || layer.workspace())?;
                Planned::Mlp(layer, memory)
            }
            Spec::Attention(spec) => {
                let layer = ParallelAttention::new(rank, spec)?;
                let memory = memory(spec.options, || layer.saved(), || layer.workspace())?;
                Planned::Attention(layer, memory)
            }
            Spec::Transformer(spec) => {
                let layer = TransformerLayer::new(rank, spec)?;
                let memory = memory(spec.attention.options, || layer.saved(), || layer.workspace())?;
                Planned::Transformer(Box::new(layer), memory)
            }
            Spec::Embedding(spec) => {
                let layer = VocabParallelEmbedding::new(rank, spec)?;
                let workspace = layer.workspace()?;
                Planned::Embedding(layer, workspace)
            }
        })
    }
}

fn memory(
    options: Options,
    saved: impl Fn() -> Result<Saved>,
    workspace: impl Fn() -> Result<Workspace>,
) -> Result<Memory> {
    Ok(Memory {
        saved: options.training.then(saved).transpose()?,
        workspace: workspace()?,
    })
}

/// Operands are this program's own: what is missing is a defect of it.
fn missing(what: &str) -> Error {
    Error::bad_argument(what, "missing", "what this layer's passes need")
}

impl Planned {
    /// Saves what a backward pass needs, where there is one.
    pub fn forward(&mut self, operands: &mut Operands) -> Result<()> {
        let (m, dtype) = (operands.m, operands.dtype);
        if let Planned::Embedding(layer, workspace) = self {
            let Operands { ids, y, parameters, .. } = operands;
            let ids = ids.as_ref().ok_or_else(|| missing("ids"))?.ids(m)?;
            let table = parameters.first().ok_or_else(|| missing("weight"))?.1.mat()?;
            let y = y.turned()?.0;
            return layer.forward(EmbeddingForward { ids, table, y }, workspace);
        }
        let mats = mats::forward(operands)?;
        let (values, y) = (mats.values, mats.y);
        let x = mats.x.ok_or_else(|| missing("x"))?;
        match self {
            Planned::Column { layer, gathered } => {
                let inputs = layer.spec().in_features;
                let gathered = gathered.as_mut().map(|gathered| gathered.mat_mut(m, inputs, dtype));
                layer.forward(Forward {
                    bias: values.get(Role::Bias),
                    gathered: gathered.transpose()?,
                    ..Forward::new(m, x, values.need(Role::Weight)?, y)
                })
            }
            Planned::Row(layer) => layer.forward(Forward {
                bias: values.get(Role::Bias),
                ..Forward::new(m, x, values.need(Role::Weight)?, y)
            }),
            Planned::Mlp(layer, memory) => {
                let parameters = values.mlp()?;
                let residual = None;
                let pass = MlpForward {
                    m,
                    x,
                    parameters,
                    residual,
                    y,
                };
                match &mut memory.saved {
                    Some(saved) => layer.forward(pass, saved),
                    None => layer.infer(pass, &mut memory.workspace),
                }
            }
            Planned::Attention(layer, memory) => {
                let parameters = values.attention()?;
                let (seq, residual) = (m.max(1), None);
                let pass = AttentionForward {
                    m,
                    seq,
                    x,
                    parameters,
                    residual,
                    y,
                };
                match &mut memory.saved {
                    Some(saved) => layer.forward(pass, saved),
                    None => layer.infer(pass, &mut memory.workspace),
                }
            }
            Planned::Transformer(layer, memory) => {
                let (seq, parameters) = (m.max(1), values.transformer()?);
                let pass = TransformerForward {
                    m,
                    seq,
                    x,
                    parameters,
                    y,
                };
                match &mut memory.saved {
                    Some(saved) => layer.forward(pass, saved),
                    None => layer.infer(pass, &mut memory.workspace),
                }
            }
            Planned::Embedding(..) => Ok(()), // above
        }
    }

    /// All gradients.
    pub fn backward(&mut self, operands: &mut Operands) -> Result<()> {
        let (m, dtype) = (operands.m, operands.dtype);
        if let Planned::Embedding(layer, workspace) = self {
            let Operands { ids, y, parameters, .. } = operands;
            let ids = ids.as_ref().ok_or_else(|| missing("ids"))?.ids(m)?;
            let table = parameters.first_mut().ok_or_else(|| missing("weight"))?;
            let pass = EmbeddingBackward {
                ids,
                dy: y.turned()?.1.ok_or_else(|| missing("dy"))?,
                dtable: table.1.both()?.1.ok_or_else(|| missing("dweight"))?,
                accumulate: false,
            };
            return layer.backward(pass, workspace);
        }
        let mats = mats::backward(operands)?;
        let (values, mut gradients, dx, dy, accumulate) = (mats.values, mats.gradients, mats.dx, mats.dy, false);
        let x = mats.x.ok_or_else(|| missing("x"))?;
        let mut linear = |x| -> Result<Backward<'_>> {
            Ok(Backward {
                x: Some(x),
                weight: values.get(Role::Weight),
                dweight: gradients.take(Role::Weight),
                dbias: gradients.take(Role::Bias),
                ..Backward::new(m, dy)
            })
        };
        match self {
            Planned::Column { layer, gathered } => {
                let inputs = layer.spec().in_features;
                let gathered = gathered.as_ref().map(|gathered| gathered.mat(m, inputs, dtype));
                let pass = linear(gathered.transpose()?.unwrap_or(x))?;
                layer.backward(Backward { dx, ..pass })
            }
            Planned::Row(layer) => {
                let pass = linear(x)?;
                layer.backward(Backward { dx, ..pass })
            }
            Planned::Mlp(layer, Memory { saved, workspace }) => {
                let (parameters, gradients) = (values.mlp()?, gradients.mlp());
                let pass = MlpBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved.as_mut().ok_or_else(|| missing("saved"))?, workspace)
            }
            Planned::Attention(layer, Memory { saved, workspace }) => {
                let (parameters, gradients) = (values.attention()?, gradients.attention());
                let pass = AttentionBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved.as_mut().ok_or_else(|| missing("saved"))?, workspace)
            }
            Planned::Transformer(layer, Memory { saved, workspace }) => {
                let (parameters, gradients) = (values.transformer()?, gradients.transformer());
                let pass = TransformerBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved.as_mut().ok_or_else(|| missing("saved"))?, workspace)
            }
            Planned::Embedding(..) => Ok(()), // above
        }
    }

    /// Sums up gradients that ranks have in parts.
    pub fn finish(&mut self, operands: &mut Operands) -> Result<()> {
        match self {
            Planned::Attention(layer, memory) => {
                let mut gradients = mats::backward(operands)?.gradients;
                layer.finish_gradients(gradients.linear(Role::Qkv, Role::QkvBias), &mut memory.workspace)
            }
            Planned::Transformer(layer, memory) => {
                let mut gradients = mats::backward(operands)?.gradients;
                layer.finish_gradients(gradients.transformer(), &mut memory.workspace)
            }
            _ => Ok(()),
        }
    }

    /// What passes of `m` rows send: forward, backward, and the sums of gradients.
    pub fn sends(&self, m: usize) -> [Vec<Sends>; 3] {
        match self {
            Planned::Column { layer, .. } => [layer.forward_sends(m), layer.backward_sends(m), Vec::new()],
            Planned::Row(layer) => [layer.forward_sends(m), layer.backward_sends(m), Vec::new()],
            Planned::Mlp(layer, _) => [layer.forward_sends(m), layer.backward_sends(m), Vec::new()],
            Planned::Attention(layer, _) => [layer.forward_sends(m), layer.backward_sends(m), layer.finish_sends()],
            Planned::Transformer(layer, _) => [layer.forward_sends(m), layer.backward_sends(m), layer.finish_sends()],
            Planned::Embedding(layer, _) => [layer.forward_sends(m), layer.backward_sends(m), Vec::new()],
        }
    }
}
