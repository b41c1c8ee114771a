//! What the tests share.

use std::sync::Arc;

use tileweave::driver::Place;
use tileweave::driver::cuda::CudaDriver;
use tileweave::{GroupConfig, Node, Op, Path, Probing, Rank};

use crate::common::{Case, Data, Loaded, judge, run};

pub static CODE: [u8; 8] = *b"stand-in";

pub const WHOLE: Place = Place {
    device: 0,
    share: 0,
    shares: 1,
};

/// Declares tests that run in a process of their own.
macro_rules! inside {
    ($(fn $name:ident() $body:block)*) => {$(
        #[test]
        #[ignore = "started by main.rs with the stand-in on the loader's path"]
        fn $name() $body
    )*};
}
pub(crate) use inside;

pub fn driver() -> CudaDriver {
    CudaDriver::new(Some(&CODE), &["sm_90a"], "").unwrap()
}

pub fn cuda_node() -> Node {
    Node::new(Arc::new(driver()))
}

/// Cases of every operation, small enough for a simulated node, ragged and not.
pub fn cases(world: usize) -> Vec<Case> {
    use tileweave::DType::{Bf16, F16, F32};
    vec![
        Case::new(Op::GemmAllReduce, world, 5, 24, 64, Bf16).bias(),
        Case::new(Op::GemmAllReduce, world, 70, 72, 96, F16),
        Case::new(Op::GemmAllReduce, world, 7, 64, 64, Bf16).tail(1e-5),
        Case::new(Op::GemmReduceScatter, world, 33, 40, 64, F32),
        Case::new(Op::AllGatherGemm, world, 21, 80, 40, Bf16),
        Case::new(Op::AllReduce, world, 9, 56, 0, F16),
        Case::new(Op::AllGather, world, 13, 32, 0, Bf16),
        Case::new(Op::ReduceScatter, world, 12, 32, 0, F32),
    ]
}

/// As tests of groups have it: links are tried by the one that is about them.
pub fn config() -> GroupConfig {
    GroupConfig::default().probing(Probing::Never)
}

/// A group sized for the case.
pub fn group_for(node: &Node, case: &Case) -> Vec<Rank> {
    let config = config()
        .one_shot_bytes(8 << 10)
        .sized_for(&case.all_specs(), case.world)
        .unwrap();
    node.group(case.world, &config).unwrap()
}

/// Runs a case on a group made for it, and judges.
pub fn run_case(node: &Node, case: &Case, path: Path) -> Vec<Vec<u8>> {
    let ranks = group_for(node, case);
    let data = Data::new(case);
    let results = crate::common::run_on(&ranks, case, &data, path).unwrap_or_else(|e| panic!("{case:?} {path:?}: {e}"));
    judge(case, &data, &results, "on the stand-in");
    results
}

/// The same on the simulated node itself.
pub fn on_the_node(case: &Case, path: Path) -> Vec<Vec<u8>> {
    run(case, path, 3).unwrap()
}

/// Loads a case's operands on every rank.
pub fn load(ranks: &[Rank], case: &Case, data: &Data) -> Vec<Loaded> {
    ranks
        .iter()
        .map(|rank| Loaded::new(rank, case, data).unwrap())
        .collect()
}
