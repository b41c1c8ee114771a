//! A tensor-parallel MLP with SwiGLU: two linear layers, the activation in the first one's kernel, one all-reduce.
//!
//!     cargo run --release --example 04_mlp

use tileweave::driver::sim::SimConfig;
use tileweave::layer::{LinearParameters, MlpForward, MlpParameters, MlpSpec, Options, ParallelMlp};
use tileweave::local::Activation;
use tileweave::{DType, GroupConfig, Node, Result};

/// The example.
pub fn main() -> Result<()> {
    let (world, m, hidden, intermediate) = (4, 16, 128, 256);
    let spec = MlpSpec::new(
        hidden,
        intermediate,
        Activation::SwiGlu,
        Options::new(m, DType::F32).training(false),
    );
    let node = Node::sim(SimConfig::new(world, 0))?; // on GPUs: Node::this_machine()?
    let ranks = node.group(
        world,
        &GroupConfig::default().sized_for(&spec.operations(world), world)?,
    )?;
    let part = intermediate / world; // of each rank: so many rows of gate and of up, by turns, and columns of down
    let mut outputs = Vec::new();
    for rank in &ranks {
        let layer = ParallelMlp::new(rank, &spec)?;
        let mut workspace = layer.workspace()?;
        let (mut x, mut y) = (rank.alloc(4 * m * hidden)?, rank.alloc(4 * m * hidden)?);
        let (mut gate_up, mut down) = (rank.alloc(4 * 2 * part * hidden)?, rank.alloc(4 * hidden * part)?);
        x.upload(&vec![1.0f32; m * hidden])?;
        gate_up.upload(&vec![1.0 / hidden as f32; 2 * part * hidden])?; // every gate and every up: 1
        down.upload(&vec![1.0 / intermediate as f32; hidden * part])?; // the mean of all silu(1)
        let linear = |weight| LinearParameters { weight, bias: None };
        let parameters = MlpParameters {
            fc1: linear(gate_up.mat(2 * part, hidden, DType::F32)?),
            fc2: linear(down.mat(hidden, part, DType::F32)?),
        };
        let (input, output) = (x.mat(m, hidden, DType::F32)?, y.mat_mut(m, hidden, DType::F32)?);
        let pass = MlpForward {
            m,
            x: input,
            parameters,
            residual: None,
            y: output,
        };
        layer.infer(pass, &mut workspace)?; // enqueued: nothing is awaited here
        println!("rank {}: {:?}", rank.rank(), layer.forward_sends(m));
        outputs.push((y, [x, gate_up, down], workspace));
    }
    let silu = 1.0 / (1.0 + (-1.0f32).exp());
    for (rank, (y, ..)) in ranks.iter().zip(&outputs) {
        rank.synchronize()?;
        assert!(y.to_vec::<f32>(m * hidden)?.iter().all(|y| (y - silu).abs() < 1e-5));
    }
    println!("silu(1) = {silu}, everywhere");
    Ok(())
}
