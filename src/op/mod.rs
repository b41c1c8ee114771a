//! Operations: what they are, which kernels carry them out, and their launch.

mod addresses;
mod budget;
mod bytes;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod descriptor;
mod epilogue;
pub(crate) mod exchange;
mod gemm;
pub(crate) mod heuristics;
pub(crate) mod kernel;
mod launch;
mod layout;
mod maps;
pub(crate) mod nccl;
mod operands;
mod operation;
mod plan;
mod spec;
mod split;
mod splits;
mod staging;
mod start;
mod tail;
#[cfg(test)]
mod tests;
mod tiling;

pub(crate) use budget::{heap_bytes, last_of_each_from};
pub(crate) use config::Facts;
pub use epilogue::Epilogue;
pub use exchange::offered;
pub use gemm::Gemm;
pub(crate) use launch::Step;
pub use layout::{Axis, Layout};
pub use operands::{Operands, Out, Residual};
pub use operation::Op;
pub use plan::Plan;
pub use spec::{Mainloop, OpSpec};
pub use split::chunk;
pub use tail::Tail;
