//! A small case on a small group, for tests of what happens around operations.

use std::sync::Arc;
use std::time::Duration;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, GroupConfig, Node, Op, Plan, Rank};

use super::{Case, Data, Loaded};

/// On three ranks, ragged, two-shot.
pub fn small_case(op: Op) -> Case {
    Case::new(op, 3, 70, 140, 24, DType::Bf16)
}

/// Waits are short: simulated time costs nothing.
pub fn small_config(c: &Case) -> GroupConfig {
    let config = GroupConfig::default()
        .one_shot_bytes(0)
        .deadline(Duration::from_millis(20));
    config.sized_for(&c.all_specs(), c.world).unwrap()
}

pub fn three_devices(seed: u64) -> (Arc<SimNode>, Node) {
    let sim = Arc::new(SimNode::new(SimConfig::new(3, seed)).unwrap());
    (sim.clone(), Node::new(sim))
}

/// Every rank's plan and operands.
pub fn ready(ranks: &[Rank], c: &Case) -> Vec<(Plan, Loaded)> {
    let data = Data::new(c);
    let of = |rank: &Rank| {
        let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
        (plan, Loaded::new(rank, c, &data).unwrap())
    };
    ranks.iter().map(of).collect()
}
