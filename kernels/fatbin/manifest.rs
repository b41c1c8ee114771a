//! What `kernels.fatbin` is, and what it is made from. Written by `cargo run -p tileweave-release`.

/// SHA-256 of the kernels' sources: `kernels::CSRC_DIGEST` of the tileweave that they belong to.
pub const CSRC_DIGEST: &str = "";
/// SHA-256 of the fatbin.
pub const FATBIN_DIGEST: &str = "";
/// Its size.
pub const FATBIN_BYTES: u64 = 0;
/// What is in it: machine code ("sm_80") and PTX ("compute_80").
pub const ARCHS: &[&str] = &[];
/// Version of the nvcc that made it.
pub const NVCC_VERSION: &str = "";
