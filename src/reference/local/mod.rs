//! What a rank does alone, in f64 and in the most obvious way: norms, activations, attention, embedding, cross-entropy, forward
//! and backward. Matrices are row-major slices. Slices of sizes that do not fit together give what zipping them gives: no size is
//! checked here.
//!
//! Gradients are of a scalar L: `dy` is dL/dy. Finite differences of the forward functions confirm every backward one
//! (`src/reference/tests/local.rs`).

mod activation;
mod attention;
mod norm;
mod vocabulary;

pub use activation::{gelu, gelu_backward, normal_distribution, silu, swiglu, swiglu_backward};
pub use attention::{AttentionGradients, Heads, attention, attention_backward};
pub use norm::{NormGradients, norm, norm_backward, norm_stats};
pub use vocabulary::{CrossEntropy, cross_entropy, cross_entropy_backward, embedding, embedding_backward};
