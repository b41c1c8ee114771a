//! Operations: what they are, which kernels carry them out, and their launch.

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
pub use layout::Layout;
pub use operands::{Operands, Out, Residual};
pub use plan::Plan;
pub use spec::{Axis, Mainloop, Op, OpSpec};
pub use split::chunk;
pub use tail::Tail;
