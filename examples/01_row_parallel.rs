//! A row-parallel linear layer: each rank multiplies its columns of x with its columns of the weight, and every rank ends with
//! the sum. One plan serves every M: a prefill of 48 rows, then decode steps of one.
//!
//!     cargo run --release --example 01_row_parallel

use std::sync::Arc;

use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Operands, Plan, Rank, Result};

const WORLD: usize = 4;
const N: usize = 256; // columns of the result
const K: usize = 512; // depth, over all ranks
const MAX_M: usize = 64;

/// What a rank keeps for the layer.
struct Layer {
    rank: Rank,
    plan: Plan,
    weight: Buffer,
    x: Buffer,
    out: Buffer,
}

impl Layer {
    fn load(rank: &Rank, spec: &OpSpec) -> Result<Layer> {
        let element = spec.dtype.size();
        let mut weight = rank.alloc(spec.n * spec.k * element)?;
        weight.upload(&vec![half::bf16::from_f32(1.0 / K as f32); spec.n * spec.k])?;
        Ok(Layer {
            rank: rank.clone(),
            plan: rank.plan(spec)?,
            weight,
            x: rank.alloc(spec.max_m * spec.k * element)?,
            out: rank.alloc(spec.max_m * spec.n * element)?,
        })
    }

    /// Enqueues the layer on `m` rows. Returns at once: nothing is allocated, no peer is asked.
    fn forward(&mut self, m: usize) -> Result<()> {
        let OpSpec { n, k, dtype, .. } = *self.plan.spec();
        let x = self.x.mat(m, k, dtype)?;
        let weight = self.weight.mat(n, k, dtype)?;
        self.plan
            .launch(&Operands::gemm(m, x, weight, self.out.mat_mut(m, n, dtype)?))
    }
}

/// The example.
pub fn main() -> Result<()> {
    // On GPUs: Node::new(Arc::new(CudaDriver::new(..)?)). Nothing else changes.
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(WORLD, 0))?));
    let spec = OpSpec::new(Op::GemmAllReduce, N, K / WORLD, MAX_M, DType::Bf16);
    let ranks = node.group(
        WORLD,
        &GroupConfig::default().sized_for(std::slice::from_ref(&spec), WORLD)?,
    )?;
    let mut layers = ranks
        .iter()
        .map(|rank| Layer::load(rank, &spec))
        .collect::<Result<Vec<_>>>()?;

    for (step, m) in [48, 1, 1, 1].into_iter().enumerate() {
        let value = half::bf16::from_f32((step + 1) as f32);
        for layer in &mut layers {
            layer.x.upload(&vec![value; m * spec.k])?;
            layer.forward(m)?;
        }
        for layer in &layers {
            layer.rank.synchronize()?;
            // The mean of K equal numbers, on every rank.
            assert!(layer.out.to_vec::<half::bf16>(m * N)?.iter().all(|y| *y == value));
        }
        println!("step {step}: M = {m}, {}", layers[0].plan.route(m));
    }
    for layer in &layers {
        let stats = layer.rank.stats();
        println!(
            "rank {}: {} bytes sent in {} operations",
            layer.rank.rank(),
            stats.bytes_sent(),
            stats.operations()
        );
    }
    Ok(())
}
