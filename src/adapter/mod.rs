//! Other crates' types where this one has addresses and handles. Each adapter is a feature of its own, off by default, named
//! after the version that it is for: what is public here moves with that crate. `docs/adapters.md` shows them.

#[cfg(all(feature = "cudarc-0-19", any(target_os = "linux", target_os = "windows")))]
pub mod cudarc_0_19;
