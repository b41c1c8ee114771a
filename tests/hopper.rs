//! The Hopper mainloop, on the simulated node or a Hopper GPU.

mod common;

use common::*;
use tileweave::{DType, Mainloop, Op, Path};

const GEMMS: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];

#[test]
fn smoke() {
    for op in GEMMS {
        for path in [Path::Unfused, Path::Fused] {
            let c = Case::new(op, 2, 300, 264, 96, DType::Bf16).mainloop(Mainloop::Hopper);
            let results = run(&c, path, 1).unwrap();
            judge(&c, &Data::new(&c), &results, &format!("{op} {path}"));
        }
    }
}
