//! tileweave: fused GEMM + collective kernels for tensor parallelism.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod driver;
mod dtype;
mod error;
pub mod kernels;
pub mod reference;
pub mod route;

pub use dtype::{DType, Wire};
pub use error::{Error, Result, WaitCause, WaitKind, WaitRecord};
