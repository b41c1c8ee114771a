//! What `kernels.fatbin` is, and what it is made from. Written by `cargo run -p tileweave-release`.

/// SHA-256 of the kernels' sources: `kernels::CSRC_DIGEST` of the tileweave that they belong to.
pub const CSRC_DIGEST: &str = "9690504aa943c042adaaa42a0abed90cdd31fc7a80f43366695b277fd2ca2ed6";
/// SHA-256 of the fatbin.
pub const FATBIN_DIGEST: &str = "80ad7dd9459d3a35d21ac07bb29945e117f03b1c192679e0feb2487cc6188684";
/// Its size.
pub const FATBIN_BYTES: u64 = 3302872;
/// What is in it: machine code ("sm_80") and PTX ("compute_80").
pub const ARCHS: &[&str] = &["sm_80", "compute_80", "sm_90a", "sm_100f"];
/// Version of the nvcc that made it.
pub const NVCC_VERSION: &str = "13.0.88";
