//! NCCL: the library found and checked at run time, and communicators that a group's ranks call it by.
//!
//! NCCL is an operation's other way, where a group's policy lets the crate take it ([`NcclPolicy`]); its sums stand
//! outside the numerics contract. Nothing here is linked: [`Library`] is a small table of symbols, so that one binary runs
//! with and without it. [`Communicators`] are what one process holds of a clique: all ranks of it or one. They never
//! block, so that every wait has an end. `docs/nccl.md`.

mod calls;
mod communicators;
mod connect;
mod library;
mod policy;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod search;
mod settle;
mod shared;
#[cfg(all(test, feature = "cuda", target_os = "linux"))]
pub(crate) mod tests;

pub use calls::{Call, Collective, calls};
pub use communicators::{Communicators, Config, Context};
pub(crate) use connect::{Space, connect};
pub use library::{Library, OLDEST, UniqueId};
pub use policy::NcclPolicy;
