//! Work of a rank alone: norms, activations, attention, embedding, cross-entropy, copies. What a transformer does between its
//! GEMMs and collectives, forward and backward, each one kernel (of attention's backward two) in the rank's stream order.
//!
//! Each struct names its operands; `launch` checks all of them, then enqueues. Nothing is allocated, nothing waits, so a launch may
//! be captured into a graph. Matrices are row-major with any leading dimension, at any address that their type may have; all have
//! the type of the first one (bf16, f16 or f32), but for statistics, losses and log-sum-exps, which are f32. Everything is computed
//! in f32 and rounded once; sums have one order, whatever the machine, so bits are the same on every rank, run and schedule. No output
//! shares a byte with another operand, unless its documentation says that it may be that operand. Formulas, orders, costs and
//! errors: `docs/local.md`; the f64 references: [`reference::local`](crate::reference::local).
//!
//! All `launch`es fail with [`Error::BadArgument`](crate::Error::BadArgument) before anything is enqueued, naming the operand, and
//! with [`Error::Poisoned`](crate::Error::Poisoned) after a failure in the group.
//!
//! ```
//! use tileweave::driver::sim::SimConfig;
//! use tileweave::local::{Norm, NormKind};
//! use tileweave::{DType, GroupConfig, Node};
//!
//! # fn main() -> tileweave::Result<()> {
//! let rank = Node::sim(SimConfig::new(1, 0))?.group(1, &GroupConfig::default())?.remove(0);
//! let (mut x, mut gamma, mut y) = (rank.alloc(16)?, rank.alloc(16)?, rank.alloc(16)?);
//! x.upload(&[1.0f32, -1.0, 1.0, -1.0])?;
//! gamma.upload(&[0.5f32, 0.5, 2.0, 2.0])?;
//! Norm {
//!     kind: NormKind::Rms,
//!     eps: 0.0,
//!     x: x.mat(1, 4, DType::F32)?,
//!     gamma: gamma.mat(1, 4, DType::F32)?,
//!     beta: None,
//!     y: y.mat_mut(1, 4, DType::F32)?,
//!     stats: None,
//! }
//! .launch(&rank)?;
//! assert_eq!(y.to_vec::<f32>(4)?, [0.5, -0.5, 2.0, -2.0]);
//! # Ok(())
//! # }
//! ```

mod activate;
mod attention;
mod check;
mod cross_entropy;
mod embedding;
mod launch;
mod moves;
mod norm;

pub use crate::memory::Ids;
pub use activate::{Activate, ActivateBackward, Activation};
pub use attention::{Attention, AttentionBackward, MOST_HEAD_SIZE};
pub use cross_entropy::{LogitStats, LossBackward, LossFromStats};
pub use embedding::{EmbeddingBackward, EmbeddingLookup, FirstBad};
pub use moves::{Add, Copy, Fill};
pub use norm::{Norm, NormBackward, NormKind};
