//! Tensor-parallel layers over the operations: forward and backward as plain functions, no autograd engine.
//! `docs/layers.md` tells which operation does what, who holds what, what is saved, and what goes over the links.
//!
//! A layer is made on every rank from one spec. Its parameters, activations and gradients are the caller's; every rank runs the
//! same passes in the same order, as it launches operations.

mod attention;
#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod column;
mod cross_entropy;
mod embedding;
mod finish;
mod heads;
mod mapping;
mod memory;
mod mlp;
mod norm;
mod operands;
mod options;
mod parameters;
mod plans;
mod row;
mod sends;
mod spec;
mod transformer;

pub use attention::{AttentionBackward, AttentionForward, ParallelAttention};
pub use column::ColumnParallelLinear;
pub use cross_entropy::{CrossEntropyBackward, CrossEntropyForward, CrossEntropySpec, VocabParallelCrossEntropy};
pub use embedding::{EmbeddingBackward, EmbeddingForward, EmbeddingSpec, VocabParallelEmbedding};
pub use heads::{AttentionSpec, HeadsOf};
pub use mapping::{
    CopyToTensor, GatherFromSequence, GatherFromTensor, MappingSpec, ReduceFromTensor, ReduceScatterToSequence,
    ScatterToSequence, ScatterToTensor,
};
pub use memory::{Saved, Workspace};
pub use mlp::{MlpBackward, MlpForward, MlpSpec, ParallelMlp};
pub use norm::{NormBackward, NormForward, NormSpec, ParallelNorm};
pub use operands::{Backward, Forward};
pub use options::Options;
pub use parameters::{
    AttentionGradients, AttentionParameters, LinearGradients, LinearParameters, MlpGradients, MlpParameters,
    NormGradients, NormParameters, TransformerGradients, TransformerParameters,
};
pub use row::RowParallelLinear;
pub use sends::Sends;
pub use spec::{LinearSpec, Split};
pub use transformer::{TransformerBackward, TransformerForward, TransformerLayer, TransformerSpec};
