//! Tensor-parallel linear layers over the operations: forward and backward as plain functions, no autograd engine.
//! `docs/layers.md` tells which operation does what, who holds what, and what goes over the links.
//!
//! A layer is made on every rank from one [`LinearSpec`]. Its parameters, activations and gradients are the caller's; every
//! rank runs the same passes in the same order, as it launches operations.

#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod column;
mod operands;
mod row;
mod spec;

pub use column::ColumnParallelLinear;
pub use operands::{Backward, Forward};
pub use row::RowParallelLinear;
pub use spec::{LinearSpec, Split};
