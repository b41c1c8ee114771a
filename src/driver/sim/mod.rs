//! The simulated node: several devices in one process, every CUDA thread a fiber, one seeded schedule.
//!
//! `docs/simulator.md` tells the mechanism, what it checks and what each planted fault does. It runs on Linux; elsewhere
//! [`SimNode::new`] answers [`Error::Unavailable`](crate::Error::Unavailable).

mod config;

pub use config::{Copies, Fault, Lateness, LaunchHook, LaunchSeen, LinkState, Pick, SimConfig, SimLink, Site};

#[cfg(target_os = "linux")]
mod access;
#[cfg(target_os = "linux")]
mod arena;
#[cfg(target_os = "linux")]
mod arguments;
#[cfg(target_os = "linux")]
mod box_source;
#[cfg(target_os = "linux")]
mod bulk;
#[cfg(target_os = "linux")]
mod callbacks;
#[cfg(target_os = "linux")]
mod capture;
#[cfg(target_os = "linux")]
mod character;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod cluster;
#[cfg(target_os = "linux")]
mod copies;
#[cfg(target_os = "linux")]
mod cta;
#[cfg(target_os = "linux")]
mod describe;
#[cfg(target_os = "linux")]
mod descriptor;
#[cfg(target_os = "linux")]
mod driver;
#[cfg(target_os = "linux")]
mod executor;
#[cfg(target_os = "linux")]
mod fiber;
#[cfg(target_os = "linux")]
mod follow;
#[cfg(target_os = "linux")]
mod foreign;
#[cfg(target_os = "linux")]
mod free_running;
#[cfg(target_os = "linux")]
mod gathered;
#[cfg(target_os = "linux")]
mod handle;
#[cfg(target_os = "linux")]
mod hopper;
#[cfg(target_os = "linux")]
mod launch;
#[cfg(target_os = "linux")]
mod link;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod math;
#[cfg(target_os = "linux")]
mod mbarrier;
#[cfg(target_os = "linux")]
mod meeting;
#[cfg(target_os = "linux")]
mod multicast;
#[cfg(target_os = "linux")]
mod named;
#[cfg(target_os = "linux")]
mod node;
#[cfg(target_os = "linux")]
mod operands;
#[cfg(target_os = "linux")]
mod pending;
#[cfg(target_os = "linux")]
mod physical;
#[cfg(target_os = "linux")]
mod product;
#[cfg(target_os = "linux")]
mod proxy;
#[cfg(target_os = "linux")]
mod registers;
#[cfg(target_os = "linux")]
mod renew;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod residence;
#[cfg(target_os = "linux")]
mod rng;
#[cfg(target_os = "linux")]
mod scheduler;
#[cfg(target_os = "linux")]
mod shadow;
#[cfg(target_os = "linux")]
mod shared;
#[cfg(target_os = "linux")]
mod source;
#[cfg(target_os = "linux")]
mod stack;
#[cfg(target_os = "linux")]
mod stmatrix;
#[cfg(target_os = "linux")]
mod stream;
#[cfg(target_os = "linux")]
mod switch;
#[cfg(target_os = "linux")]
mod sync;
#[cfg(target_os = "linux")]
mod table;
#[cfg(target_os = "linux")]
mod tensor_map;
mod timed;
#[cfg(target_os = "linux")]
mod tma;
#[cfg(target_os = "linux")]
mod together;
#[cfg(target_os = "linux")]
mod units;
#[cfg(target_os = "linux")]
mod warp;
#[cfg(target_os = "linux")]
mod warpgroup;
#[cfg(target_os = "linux")]
mod wgmma;

#[cfg(target_os = "linux")]
pub use handle::SimNode;
pub use timed::Usage;

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub use elsewhere::SimNode;
