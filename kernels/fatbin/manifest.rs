//! What `kernels.fatbin` is, and what it is made from. Written by `cargo run -p tileweave-release`.

/// SHA-256 of the kernels' sources: `kernels::CSRC_DIGEST` of the tileweave that they belong to.
pub const CSRC_DIGEST: &str = "3b00215f8d9351b72a592ff5261c05ff947bc3e1a97ec4d3cfbac80fc21d4589";
/// SHA-256 of the fatbin.
pub const FATBIN_DIGEST: &str = "7ee06d900bfd3be2aca266e7a8058e87cab2dc16080ba1e973bacd1aa6368bc6";
/// Its size.
pub const FATBIN_BYTES: u64 = 4099088;
/// What is in it: machine code ("sm_80") and PTX ("compute_80").
pub const ARCHS: &[&str] = &["sm_80", "compute_80", "sm_90a", "sm_100f"];
/// Version of the nvcc that made it.
pub const NVCC_VERSION: &str = "13.0.88";
