//! One operation on a node: operands made from a seed, launched on every rank, judged by the f64 reference.
#![allow(dead_code, unused_imports)] // every test crate uses its part

mod case;
mod data;
mod graphs;
mod judge;
mod own;
mod plant;
mod run;
mod slab;
mod small;

pub use case::*;
pub use data::*;
pub use graphs::*;
pub use judge::*;
pub use own::*;
pub use plant::*;
pub use run::*;
pub use slab::*;
pub use small::*;

use tileweave::Node;
use tileweave::driver::sim::{SimConfig, SimNode};

/// The tests' tier: `TILEWEAVE_DEEP=n` does about n times as much.
pub fn deep() -> usize {
    std::env::var("TILEWEAVE_DEEP")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1)
        .max(1)
}

/// Whether the suite runs on a GPU (`TILEWEAVE_GPU=1`) instead of the simulated node.
pub fn on_gpu() -> bool {
    std::env::var("TILEWEAVE_GPU").is_ok_and(|v| v == "1")
}

/// The node that tests run on: the GPUs of this machine, or `world` simulated ones.
pub fn node(world: usize, seed: u64) -> Node {
    if on_gpu() {
        return Node::this_machine().expect("TILEWEAVE_GPU=1 needs a GPU");
    }
    Node::new(std::sync::Arc::new(
        SimNode::new(SimConfig::new(world, seed)).expect("a simulated node"),
    ))
}
