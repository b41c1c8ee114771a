//! The layer on this machine's GPUs, one rank each, against candle's own products summed on the host.
//!
//!     cargo run --release -- 2        # ranks
//!
//! One process drives all ranks here. Where each rank is a process or a thread of its own, `Rank::join` makes them instead
//! (README.md).

use std::sync::Arc;

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use tileweave::driver::Place;
use tileweave::{GroupConfig, Node, Op, OpSpec, RankPlace};
use tileweave_candle::{RowParallelLinear, cuda_stream, stream};

/// Of a 7B Llama's down projection, and decode's and prefill's rows.
const N: usize = 4096;
const K: usize = 11008;
const MAX_M: usize = 512;
const ROWS: [usize; 3] = [1, 8, 512];

fn main() -> Result<()> {
    let world: usize = match std::env::args().nth(1).map(|word| word.parse()) {
        None => 2,
        Some(Ok(world)) if world > 0 && K.is_multiple_of(world) => world,
        Some(_) => bail!("the number of ranks: expected one that divides {K}"),
    };
    let node = Node::this_machine().map_err(Error::wrap)?;
    // Streams of their own: candle's default one is the null stream, which belongs to no device in particular.
    let devices: Vec<Device> = (0..world).map(Device::new_cuda_with_stream).collect::<Result<_>>()?;
    let places: Vec<RankPlace> = devices
        .iter()
        .enumerate()
        .map(|(device, on)| {
            Ok(RankPlace {
                place: Place {
                    device,
                    share: 0,
                    shares: 1,
                },
                stream: Some(stream(&*cuda_stream(on)?)),
            })
        })
        .collect::<Result<_>>()?;
    let spec = OpSpec::new(Op::GemmAllReduce, N, K / world, MAX_M, tileweave::DType::Bf16);
    let config = GroupConfig::default().sized_for(std::slice::from_ref(&spec), world);
    // SAFETY: each stream is alive and on the device of its place (candle numbers devices as CUDA does); `devices`, which
    // holds them, is dropped after `ranks` and the layers. Nothing is captured.
    let ranks = unsafe { node.group_on(&places, &config.map_err(Error::wrap)?) }.map_err(Error::wrap)?;

    let weight = Tensor::randn(0f32, 0.02, (N, K), &Device::Cpu)?.to_dtype(DType::BF16)?;
    let part = |of: &Tensor, rank: usize| of.narrow(1, rank * (K / world), K / world)?.contiguous();
    let declined: tileweave_candle::AllReduce =
        Arc::new(|_| bail!("the route declines: here a runtime runs its own all-reduce"));
    let layers: Vec<RowParallelLinear> = ranks
        .iter()
        .zip(&devices)
        .map(|(rank, device)| {
            let mine = part(&weight, rank.rank())?.to_device(device)?;
            RowParallelLinear::new(rank, mine, MAX_M, declined.clone())
        })
        .collect::<Result<_>>()?;

    for m in ROWS {
        let x = Tensor::randn(0f32, 1.0, (m, K), &Device::Cpu)?.to_dtype(DType::BF16)?;
        let inputs = devices.iter().enumerate();
        let inputs: Vec<Tensor> = inputs
            .map(|(rank, device)| part(&x, rank)?.to_device(device))
            .collect::<Result<_>>()?;
        // What may need a device idle comes before the first kernel that waits for another rank.
        devices.iter().try_for_each(Device::synchronize)?;
        let outputs: Vec<Tensor> = layers
            .iter()
            .zip(&inputs)
            .map(|(layer, x)| layer.forward(x))
            .collect::<Result<_>>()?;
        for rank in &ranks {
            rank.synchronize().map_err(Error::wrap)?;
        }
        let right = x.to_dtype(DType::F32)?.matmul(&weight.to_dtype(DType::F32)?.t()?)?;
        for (rank, y) in outputs.iter().enumerate() {
            let y = y.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let apart = (&y - &right)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let most = right.abs()?.max_all()?.to_scalar::<f32>()?;
            println!("m = {m}, rank {rank}: at most {apart:.4} from the f32 product, whose largest value is {most:.2}");
            // A partial of each rank and the sum are rounded to 8 bits.
            if apart > most * (world + 1) as f32 / 256.0 {
                bail!("m = {m}, rank {rank}: more than rounding to bf16 explains");
            }
        }
    }
    Ok(())
}
