//! Tensor-parallel layers over the operations: forward and backward as plain functions, no autograd engine.
//! `docs/layers.md` tells which operation does what, who holds what, what is saved, and what goes over the links.
//!
//! A layer is made on every rank from one spec. Its parameters, activations and gradients are the caller's; every rank runs the
//! same passes in the same order, as it launches operations.

#[cfg(feature = "checkpoint")]
pub mod checkpoint;
mod column;
mod mapping;
mod operands;
mod options;
mod plans;
mod row;
mod sends;
mod spec;

pub use column::ColumnParallelLinear;
pub use mapping::{
    CopyToTensor, GatherFromSequence, GatherFromTensor, MappingSpec, ReduceFromTensor, ReduceScatterToSequence,
    ScatterToSequence, ScatterToTensor,
};
pub use operands::{Backward, Forward};
pub use options::Options;
pub use row::RowParallelLinear;
pub use sends::Sends;
pub use spec::{LinearSpec, Split};
