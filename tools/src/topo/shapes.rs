//! Typical shapes: the layers of Llama 3 over a number of ranks, from one token to a long prompt.
//!
//! Hidden, feed-forward, query and key-value heads of 128: 4096, 14336, 32, 8 (8B) and 8192, 28672, 64, 8 (70B); arXiv
//! 2407.21783, table 3. Row-parallel layers split K and end in a reduction, column-parallel ones split N and begin with
//! a gather.

use tileweave::route::model::Work;
use tileweave::{DType, Op};

/// Rows: decoding for so many sequences, and two prompts.
pub const ROWS: [usize; 6] = [1, 16, 64, 128, 2048, 8192];

/// One operation of a layer at one M.
pub struct Shape {
    pub model: &'static str,
    pub layer: &'static str,
    pub work: Work,
}

struct Model {
    name: &'static str,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    key_value_heads: usize,
}

const HEAD: usize = 128;
const MODELS: [Model; 2] = [
    Model {
        name: "Llama-3-8B",
        hidden: 4096,
        feed_forward: 14336,
        heads: 32,
        key_value_heads: 8,
    },
    Model {
        name: "Llama-3-70B",
        hidden: 8192,
        feed_forward: 28672,
        heads: 64,
        key_value_heads: 8,
    },
];

/// Every layer's operations at every M, M last.
pub fn all(world: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for model in &MODELS {
        let hidden = model.hidden;
        let share = |whole: usize| whole.div_ceil(world);
        // More ranks than key-value heads: each keeps one.
        let qkv = share(model.heads) * HEAD + 2 * share(model.key_value_heads) * HEAD;
        let layers = [
            ("o_proj", Op::GemmAllReduce, hidden, share(hidden)),
            ("o_proj", Op::GemmReduceScatter, hidden, share(hidden)),
            ("down_proj", Op::GemmAllReduce, hidden, share(model.feed_forward)),
            ("down_proj", Op::GemmReduceScatter, hidden, share(model.feed_forward)),
            ("qkv_proj", Op::AllGatherGemm, qkv, hidden),
            ("gate_up_proj", Op::AllGatherGemm, 2 * share(model.feed_forward), hidden),
            ("activations", Op::AllReduce, hidden, 0),
        ];
        for (layer, op, n, k) in layers {
            shapes.extend(ROWS.map(|m| Shape {
                model: model.name,
                layer,
                work: Work {
                    op,
                    m: m as u64,
                    n: n as u64,
                    k: k as u64,
                    dtype: DType::Bf16,
                    wire: DType::Bf16,
                },
            }));
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_over_eight_ranks() {
        let shapes = all(8);
        assert_eq!(shapes.len(), 2 * 7 * ROWS.len());
        let of = |model: &str, layer: &str| {
            let found = shapes.iter().find(|s| (s.model, s.layer) == (model, layer));
            found.map(|s| (s.work.n, s.work.k))
        };
        assert_eq!(of("Llama-3-70B", "down_proj"), Some((8192, 3584)));
        assert_eq!(of("Llama-3-70B", "gate_up_proj"), Some((7168, 8192)));
        assert_eq!(of("Llama-3-70B", "qkv_proj"), Some((1280, 8192)));
        assert_eq!(of("Llama-3-8B", "o_proj"), Some((4096, 512)));
    }
}
