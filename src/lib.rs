//! tileweave: fused GEMM + collective kernels for tensor parallelism.
//!
//! A kernel computes a GEMM and, tile by tile while it runs, moves and reduces its result between GPUs over peer-to-peer
//! loads and stores. The same kernel source runs on a simulated node (feature `sim`), so that everything here works, and
//! is tested, on a machine without a GPU.
//!
//! A [`Node`] gives the [`Rank`]s of a group, a rank plans an operation once for every M up to a largest one, and a
//! [`Plan`] launches it on the rank's stream:
//!
//! ```
//! use tileweave::driver::sim::SimConfig;
//! use tileweave::{DType, GroupConfig, Node, Op, OpSpec, Operands};
//!
//! # fn main() -> tileweave::Result<()> {
//! let (m, n, k) = (8, 16, 32); // k: each rank's share
//! let spec = OpSpec::new(Op::GemmAllReduce, n, k, 64, DType::F32);
//! let node = Node::sim(SimConfig::new(2, 0))?; // on GPUs: Node::this_machine()?
//! let ranks = node.group(2, &GroupConfig::default().sized_for(std::slice::from_ref(&spec), 2)?)?;
//! let mut results = Vec::new();
//! for rank in &ranks {
//!     let plan = rank.plan(&spec)?;
//!     let (mut x, mut weight, mut y) = (rank.alloc(m * k * 4)?, rank.alloc(n * k * 4)?, rank.alloc(m * n * 4)?);
//!     x.upload(&vec![1.0f32; m * k])?;
//!     weight.upload(&vec![0.5f32; n * k])?;
//!     let (x, weight) = (x.mat(m, k, DType::F32)?, weight.mat(n, k, DType::F32)?);
//!     plan.launch(&Operands::gemm(m, x, weight, y.mat_mut(m, n, DType::F32)?))?;
//!     results.push(y);
//! }
//! for (rank, y) in ranks.iter().zip(&results) {
//!     rank.synchronize()?;
//!     assert_eq!(y.to_vec::<f32>(m * n)?, vec![32.0; m * n]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Shapes, types, routes and errors: `docs/api.md`. The heap and what it costs: `docs/memory.md`.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod adapter;
pub mod driver;
mod dtype;
mod error;
mod group;
pub mod kernels;
pub mod layer;
pub mod local;
pub mod machines;
mod memory;
pub mod nccl;
mod op;
pub mod probe;
pub mod reference;
pub mod route;
pub mod timeline;
pub mod topology;
mod trace;

pub use dtype::{DType, Wire};
pub use error::{Error, Result, WaitCause, WaitKind, WaitRecord};
#[cfg(target_os = "linux")]
pub use group::{Environment, Id};
pub use group::{GroupConfig, Node, Numerics, PathStats, Probing, Rank, RankPlace, Stats};
pub use memory::{Buffer, Element, Ids, Mat, MatMut};
pub use nccl::NcclPolicy;
pub use op::{Axis, Epilogue, Gemm, Layout, Mainloop, Op, OpSpec, Operands, Out, Plan, Residual, Tail, chunk};
pub use route::{Exchange, Path, Route, Want};

/// The README's examples, as tests.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
