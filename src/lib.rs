//! tileweave: fused GEMM + collective kernels for tensor parallelism.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod driver;
mod dtype;
mod error;
mod group;
pub mod kernels;
mod memory;
mod op;
pub mod reference;
pub mod route;

pub use dtype::{DType, Wire};
pub use error::{Error, Result, WaitCause, WaitKind, WaitRecord};
pub use group::{GroupConfig, Node, Rank, RankPlace, Stats};
pub use memory::{Buffer, Element, Mat, MatMut};
pub use op::{Op, OpSpec, Operands, Out, Plan, chunk};
pub use route::{Path, Route, Want};

/// The README's examples, as tests.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
