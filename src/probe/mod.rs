//! The machine as it was found: every link that a driver claims, tried before a route trusts it.
//!
//! A [`Probe`] is a plain value, kept by the GPUs' UUIDs, the driver's version and this crate's. `docs/probe.md`.

use serde::{Deserialize, Serialize};

/// What was found. Equal inputs to a route give equal routes: all ranks of a group share one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Version of this crate that probed.
    pub crate_version: String,
    /// [`Topology::driver`](crate::topology::Topology::driver) at the time.
    pub driver: String,
    /// UUIDs of the GPUs, in the topology's order.
    pub gpus: Vec<String>,
    /// One entry for every ordered pair of different GPUs, by `from`, then `to`; none for pairs that cannot be mapped.
    pub links: Vec<LinkProbe>,
    /// Whether the GPUs together could form a multicast object and use it; `Skipped` where nothing claims that they can.
    pub multicast: Outcome,
}

/// What GPU `from` could do with GPU `to`'s memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProbe {
    /// Index of the GPU that moves.
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
}
