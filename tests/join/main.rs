//! Ranks that join by an id: threads on one node, nodes of one process, processes.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod beside;
mod hosts;
mod inside;
mod nodes;
mod processes;
mod threads;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Case, Data, Loaded};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, Place, Stream};
use tileweave::{DType, GroupConfig, Id, Node, Op, Path, Rank, Result};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// An id that no other test has, in this process or another.
fn fresh() -> Id {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Id::of(format!("{} {next}", std::process::id()))
}

fn case(op: Op, world: usize) -> Case {
    Case::new(op, world, 70, 140, 24, DType::Bf16)
}

fn config(c: &Case) -> GroupConfig {
    let config = GroupConfig::default().one_shot_bytes(0).deadline(LONG).joining(LONG);
    config.sized_for(&c.all_specs(), c.world).unwrap()
}

fn sim(world: usize, seed: u64) -> (Arc<SimNode>, Node) {
    let sim = Arc::new(SimNode::new(SimConfig::new(world, seed)).unwrap());
    (sim.clone(), Node::new(sim))
}

/// A stream on all of a device.
fn stream_on(driver: &dyn Driver, device: usize) -> Stream {
    let place = Place {
        device,
        share: 0,
        shares: 1,
    };
    driver.stream_create(place).unwrap()
}

/// Joins on a stream of its own, on `device`. The stream stays until the node goes.
fn join(node: &Node, device: usize, rank: usize, world: usize, id: &Id, config: &GroupConfig) -> Result<Rank> {
    let stream = stream_on(&**node.driver(), device);
    // SAFETY: nobody ends the stream, and the group holds its node.
    unsafe { Rank::join(node, stream, rank, world, id, config) }
}

/// A rank's part of a case: its result.
fn perform(rank: &Rank, c: &Case, data: &Data, path: Path) -> Result<Vec<u8>> {
    let plan = rank.plan(&c.spec(rank.rank(), path))?;
    let mut loaded = Loaded::new(rank, c, data)?;
    loaded.launch(&plan, c.m)?;
    rank.synchronize()?;
    loaded.result()
}
