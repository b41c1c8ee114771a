//! Other crates' types of device memory and streams, as this crate's. Each behind a feature of its own: `docs/adapters.md`.

#[cfg(feature = "cust")]
pub mod cust;
