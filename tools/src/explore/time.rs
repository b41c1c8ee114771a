//! What a layer takes. Predicted, all of it, by the routes' model (`docs/routes.md`) on a described node.
//!
//! ```text
//! compute   the library's GEMMs, and attention: launch + fill + max(flops / tensor cores, keys and values / HBM)
//! unfused   compute + NCCL after every row-parallel GEMM
//! fused     the same, with every row-parallel GEMM and its all-reduce in one kernel: the longer hides the other but for
//!           one wave of tiles (`Work::fused_us`)
//! ```
//!
//! Beyond a node the all-reduce goes by levels, one after the other: reduce-scatter in the node, an all-reduce of each
//! GPU's part between nodes through that GPU's own network card, all-gather in the node. Nothing is fused there.

use tileweave::machines::Description;
use tileweave::route::constants::{HBM_PART, OVERHEADS};
use tileweave::route::model::{Transport, Work};
use tileweave::route::{Exchange, Machine, nccl};
use tileweave::{DType, GroupConfig, Op};

use super::memory::SIZE;
use super::models::{Linear, Model, Split};

/// What a layer works on.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub sequences: usize,
    /// Tokens of each: of the prompt, or already in the cache.
    pub tokens: usize,
    /// One token of each sequence is new, not all.
    pub decode: bool,
}

/// Microseconds of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    pub compute: f64,
    pub unfused: f64,
    pub fused: f64,
}

/// GB/s are 10^3 bytes a microsecond.
fn over(bytes: f64, gb_per_s: f64) -> f64 {
    bytes / (gb_per_s * 1e3)
}

impl Batch {
    pub fn rows(&self) -> usize {
        if self.decode {
            self.sequences
        } else {
            self.sequences * self.tokens
        }
    }

    /// Attention of one rank. Of a prompt half of all pairs count, since no token sees those after it.
    fn attention(&self, model: &Model, machine: &Machine, tp: usize) -> f64 {
        let class = &machine.class;
        let (sequences, tokens) = (self.sequences as f64, self.tokens as f64);
        let pairs = if self.decode { tokens } else { tokens * tokens / 2.0 };
        let flops = 2.0 * sequences * pairs * model.attention_width as f64 / tp as f64;
        let heads = tp.min(model.kv_heads) as f64;
        let bytes = sequences * tokens * (model.cache_width as f64 / heads) * SIZE;
        let computed = flops / (class.tensor_tflops * 1e6 * class.library_gemm);
        OVERHEADS.launch_us + OVERHEADS.gemm_us + computed.max(over(bytes, class.hbm_gb_per_s * HBM_PART))
    }

    /// A layer at a degree of `tp` on nodes like `node`.
    pub fn layer(&self, model: &Model, node: &Description, tp: usize) -> Layer {
        let machine = Machine::described(node, tp.min(node.gpus as usize));
        let nodes = tp / machine.world;
        let attention = self.attention(model, &machine, tp);
        let mut layer = Layer {
            compute: attention,
            unfused: attention,
            fused: attention,
        };
        for linear in &model.linears {
            let work = self.work(linear, tp, model.kv_heads);
            let gemm = work.library_gemm_us(&machine);
            layer.compute += gemm;
            let (unfused, fused) = match linear.split {
                Split::Column | Split::Whole => (gemm, gemm),
                Split::Row if nodes > 1 => {
                    let both = gemm + between_nodes(&work, &machine, node, nodes);
                    (both, both)
                }
                // Nothing to fuse: a runtime takes the library's.
                Split::Row if tp == 1 => (gemm, gemm),
                Split::Row => {
                    let unfused = work.nccl_us(&machine).unwrap_or(gemm);
                    (unfused, fused(&work, &machine).unwrap_or(unfused))
                }
            };
            layer.unfused += unfused;
            layer.fused += fused;
        }
        layer
    }

    fn work(&self, linear: &Linear, tp: usize, kv_heads: usize) -> Work {
        let (n, k) = linear.of_rank(tp, kv_heads);
        Work {
            op: Op::GemmAllReduce,
            m: self.rows() as u64,
            n: n as u64,
            k: k as u64,
            dtype: DType::Bf16,
            wire: DType::Bf16,
        }
    }
}

/// The largest message that goes to everybody at once.
pub fn one_shot_bytes() -> usize {
    GroupConfig::default().one_shot_bytes
}

/// The better of what pushes: packets of a small message, or two shots.
fn fused(work: &Work, machine: &Machine) -> Option<f64> {
    let by = |one_shot| {
        let by = Transport {
            exchange: Exchange::Push,
            one_shot,
        };
        work.fused_us(machine, by).map(|(us, _)| us)
    };
    let small = work.packet_bytes() <= one_shot_bytes() as u64;
    let packets = if small { by(true) } else { None };
    packets.into_iter().chain(by(false)).min_by(f64::total_cmp)
}

/// NCCL's all-reduce over `nodes` nodes, by levels.
fn between_nodes(work: &Work, machine: &Machine, node: &Description, nodes: usize) -> f64 {
    let (world, nodes, message) = (machine.world as f64, nodes as f64, work.message());
    let within = nccl::without_switch_us(machine, Op::AllReduce, message);
    // A GPU's part, around all nodes and around again; every step of that waits for a message.
    let beyond = 2.0 * (nodes - 1.0) / nodes * (message / world);
    let steps = 2.0 * (nodes - 1.0) * node.network.latency_us.value;
    within + over(beyond, node.network.achieved_gb_per_s.value) + steps
}
