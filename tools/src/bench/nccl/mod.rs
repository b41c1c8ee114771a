//! NCCL, for context: our GEMM and then NCCL's collective, over the same virtual ranks.
//!
//! Since 2.30 NCCL takes several ranks on one GPU where `NCCL_MULTI_RANK_GPU_ENABLE` is 1 (github.com/NVIDIA/nccl/issues/1716).
//! It reads its environment when it is first used, so the variable has to be there when the program starts: `tools/gpu/run`
//! sets it, and the program looks whether it is set. The library is opened at run time (`library`); P communicators are made
//! by one thread (`communicators`), and measured as a contest of their own, last, so that what goes wrong in them takes no
//! other figure along (`contests`).

mod communicators;
mod contests;
mod library;
#[cfg(all(test, target_os = "linux"))]
mod tests;

pub use contests::{Repeated, WithNccl};
pub use library::Library;
