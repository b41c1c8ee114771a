//! Other crates' types where this one has addresses and handles. Each adapter is a feature of its own, off by default, and moves
//! with the crate that it is for: `docs/adapters.md`.

#[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
pub mod cudarc_0_19;
#[cfg(feature = "cust")]
pub mod cust;
