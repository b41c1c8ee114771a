//! The machine as it was found: every link that a driver claims, tried before a route trusts it.
//!
//! A [`Probe`] is a plain value, kept by the GPUs' UUIDs, the driver's version and this crate's. `docs/probe.md`.

mod bench;
mod cache;
mod check;
mod pair;
mod run;
mod team;
#[cfg(all(test, feature = "sim"))]
mod tests;

pub use cache::{Cached, cache_folder};
pub use check::Excluded;
pub use run::Progress;

use serde::{Deserialize, Serialize};

/// What was found. Equal inputs to a route give equal routes: all ranks of a group share one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Version of this crate that probed.
    pub crate_version: String,
    /// [`Topology::driver`](crate::topology::Topology::driver) at the time; where that is empty,
    /// [`Driver::version`](crate::driver::Driver::version).
    pub driver: String,
    /// UUIDs of the GPUs, in the topology's order.
    pub gpus: Vec<String>,
    /// One entry for every ordered pair of different GPUs, by `from`, then `to`.
    pub links: Vec<LinkProbe>,
    /// Whether the GPUs together could form a multicast object and use it; `Skipped` where nothing claims that they can.
    pub multicast: Outcome,
}

/// What GPU `from` could do with GPU `to`'s memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProbe {
    /// Index in [`Probe::gpus`] of the GPU that moves.
    pub from: usize,
    /// Index of the GPU whose memory it is.
    pub to: usize,
    /// SM stores: the way kernels push.
    pub store: WayProbe,
    /// SM loads: the way kernels pull.
    pub load: WayProbe,
    /// The copy engine, from `from` to `to`.
    pub copy: WayProbe,
    /// Atomics of system scope.
    pub atomics: Outcome,
}

/// One way over one link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayProbe {
    /// Whether every byte of the pattern arrived, and nothing else.
    pub outcome: Outcome,
    /// Payload rate of a long transfer, GB/s (10^9 bytes); `None` where the machine has no clock or the way failed.
    pub gb_per_s: Option<f64>,
    /// One way, microseconds: half of a ping-pong (store), one dependent load (load), one small copy (copy).
    pub latency_us: Option<f64>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should.
    Works,
    /// Not; why, for a person.
    Failed(String),
    /// Not tried; why.
    Skipped(String),
}

impl Outcome {
    /// Whether it was tried and did what it should.
    pub fn works(&self) -> bool {
        *self == Outcome::Works
    }

    /// Why it did not, or was not tried.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Outcome::Works => None,
            Outcome::Failed(reason) | Outcome::Skipped(reason) => Some(reason),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Works => f.write_str("works"),
            Outcome::Failed(reason) => write!(f, "failed: {reason}"),
            Outcome::Skipped(reason) => write!(f, "not tried: {reason}"),
        }
    }
}

impl WayProbe {
    fn of(outcome: Outcome) -> WayProbe {
        WayProbe {
            outcome,
            gb_per_s: None,
            latency_us: None,
        }
    }
}

/// Who moves data from one GPU to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The GPU that has it stores.
    Push,
    /// The GPU that wants it loads.
    Pull,
}
