//! A rank that never launches: its peers give up at the deadline, the error names it, and the group refuses further work.
//!
//!     cargo run --release --example 02_missing_rank

use std::sync::Arc;
use std::time::Duration;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, Error, GroupConfig, Node, Op, OpSpec, Operands, Result};

/// The example.
pub fn main() -> Result<()> {
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(3, 0))?));
    let config = GroupConfig::default().deadline(Duration::from_millis(50)); // simulated time: nobody waits for it
    let ranks = node.group(3, &config)?;
    let spec = OpSpec::new(Op::AllReduce, 1024, 0, 4, DType::F32);
    let mut buffers = Vec::new();
    for rank in &ranks {
        let mut data = rank.alloc(4 * 1024 * 4)?;
        data.upload(&[1.0f32; 4 * 1024])?;
        if rank.rank() != 1 {
            rank.plan(&spec)?
                .launch(&Operands::in_place(4, data.mat_mut(4, 1024, DType::F32)?))?;
        }
        buffers.push(data);
    }
    match ranks[0].synchronize() {
        Err(Error::Wait { root, verdict, chain }) => {
            assert_eq!(root.peer, 1);
            println!("{root}\n{verdict}");
            for wait in chain {
                println!("  {wait}");
            }
        }
        other => panic!("rank 1 never came, and nobody noticed: {other:?}"),
    }
    let refused = ranks[2]
        .plan(&spec)?
        .launch(&Operands::in_place(4, buffers[2].mat_mut(4, 1024, DType::F32)?));
    println!("and then: {}", refused.expect_err("the group is poisoned"));
    Ok(())
}
