//! Models by name: what a layer multiplies, and how tensor parallelism cuts it.
//!
//! | model | layers, hidden, feed-forward, heads, vocabulary | source |
//! |---|---|---|
//! | GPT-3 175B | 96, 12288, 49152, 96 of 128, 50257 | arXiv 2005.14165, table 2.1, and d_ff = 4 d_model |
//! | Llama 3 8B, 70B, 405B | 32, 80, 126; 4096, 8192, 16384; 14336, 28672, 53248; 32, 64, 128 of 128, 8 for keys and values; 128256 | arXiv 2407.21783, table 3; parameters: model cards |
//! | Qwen3-32B | 64, 5120, 25600, 64 of 128, 8 for keys and values, 151936 | Qwen/Qwen3-32B config.json and model card; arXiv 2505.09388 |
//! | DeepSeek-V3 dense | 61, 7168, 18432, 128 with latent attention, 129280 | arXiv 2412.19437, section 4.2: its first three layers are dense, here all are |

use serde::Serialize;

use crate::failure::Failure;

/// How a weight `[n, k]` is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// n over the ranks: nothing travels.
    Column,
    /// k over the ranks: an all-reduce follows.
    Row,
    /// Every rank has all of it.
    Whole,
}

/// One weight of a layer.
#[derive(Debug, Clone, Serialize)]
pub struct Linear {
    pub name: &'static str,
    pub n: usize,
    /// Columns beside n that belong to key-value heads: more ranks than heads keep copies.
    pub kv: usize,
    pub k: usize,
    pub split: Split,
}

/// A model, as far as its layers' sizes tell it. Widths are elements per token.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    pub name: &'static str,
    pub label: &'static str,
    /// As its authors count them; of `DeepSeek-V3 dense`, which nobody made, what its layers come to.
    pub parameters: f64,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    /// Heads of keys and values; 1 where all ranks need the same.
    pub kv_heads: usize,
    pub vocabulary: usize,
    pub linears: Vec<Linear>,
    /// Multiplications of attention per pair of tokens: of queries and keys, and of weights and values, all heads.
    pub attention_width: usize,
    /// Kept keys and values of a token and layer.
    pub cache_width: usize,
    /// Kept for the backward pass and cut by tensor parallelism, without `kv_kept`; bytes per token and layer.
    pub split_bytes: usize,
    /// The same of keys and values, cut over their heads alone.
    pub kv_bytes: usize,
    /// The same of what only sequence parallelism cuts.
    pub whole_bytes: usize,
}

fn linear(name: &'static str, n: usize, k: usize, split: Split) -> Linear {
    Linear {
        name,
        n,
        kv: 0,
        k,
        split,
    }
}

/// A transformer's usual sizes.
struct Sizes {
    layers: usize,
    hidden: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    /// SwiGLU's three weights in place of GELU's two, and no dropout.
    gated: bool,
}

/// Heads of every model here.
const HEAD: usize = 128;

/// Activations by term, as Korthikanti et al. count them (arXiv 2205.05198, section 4): bf16 values 2 bytes, dropout's
/// masks 1. Attention's own, which grow with the square of the sequence, are computed again (FlashAttention).
fn plain(name: &'static str, label: &'static str, parameters: f64, s: Sizes) -> Model {
    let (queries, kv) = (s.heads * HEAD, 2 * s.kv_heads * HEAD);
    let up = if s.gated { 2 * s.ffn } else { s.ffn };
    let mut qkv = linear("qkv", queries, s.hidden, Split::Column);
    qkv.kv = kv;
    Model {
        name,
        label,
        parameters,
        layers: s.layers,
        hidden: s.hidden,
        heads: s.heads,
        kv_heads: s.kv_heads,
        vocabulary: s.vocabulary,
        linears: vec![
            qkv,
            linear("attention output", s.hidden, queries, Split::Row),
            linear("up", up, s.hidden, Split::Column),
            linear("down", s.hidden, s.ffn, Split::Row),
        ],
        attention_width: 2 * queries,
        cache_width: kv,
        // Queries and attention's result; what the activation function takes, and what it gives.
        split_bytes: 2 * (2 * queries + up + s.ffn),
        kv_bytes: 2 * kv,
        // What norms, QKV and MLP take, and two masks of dropout.
        whole_bytes: 4 * 2 * s.hidden + if s.gated { 0 } else { 2 * s.hidden },
    }
}

/// Multi-head latent attention: low-rank queries, keys and values, which every rank computes whole.
fn deepseek() -> Model {
    let (layers, hidden, ffn, heads, vocabulary) = (61, 7168, 18432, 128, 129_280);
    let (query_rank, kv_rank, rope, value) = (1536, 512, 64, HEAD);
    let key = HEAD + rope;
    let linears = vec![
        linear("latents", query_rank + kv_rank + rope, hidden, Split::Whole),
        linear("queries", heads * key, query_rank, Split::Column),
        linear("keys and values", heads * (HEAD + value), kv_rank, Split::Column),
        linear("attention output", hidden, heads * value, Split::Row),
        linear("up", 2 * ffn, hidden, Split::Column),
        linear("down", hidden, ffn, Split::Row),
    ];
    let of_a_layer: usize = linears.iter().map(|linear| linear.n * linear.k).sum();
    Model {
        name: "deepseek-v3-dense",
        label: "DeepSeek-V3 dense",
        parameters: (layers * of_a_layer + 2 * vocabulary * hidden) as f64,
        layers,
        hidden,
        heads,
        kv_heads: 1,
        vocabulary,
        linears,
        attention_width: heads * (key + value),
        cache_width: kv_rank + rope,
        split_bytes: 2 * (2 * heads * key + 2 * heads * value + 3 * ffn),
        kv_bytes: 0,
        // The latents before and after their norms, beside what every layer has.
        whole_bytes: 4 * 2 * hidden + 2 * 2 * (query_rank + kv_rank) + 2 * rope,
    }
}

/// All models, the smallest first.
pub fn all() -> Vec<Model> {
    let llama = |layers, hidden, ffn, heads| Sizes {
        layers,
        hidden,
        ffn,
        heads,
        kv_heads: 8,
        vocabulary: 128_256,
        gated: true,
    };
    let qwen = Sizes {
        vocabulary: 151_936,
        ..llama(64, 5120, 25600, 64)
    };
    let gpt = Sizes {
        layers: 96,
        hidden: 12288,
        ffn: 49152,
        heads: 96,
        kv_heads: 96,
        vocabulary: 50257,
        gated: false,
    };
    let mut all = vec![
        plain("llama3-8b", "Llama 3 8B", 8.03e9, llama(32, 4096, 14336, 32)),
        plain("qwen3-32b", "Qwen3-32B", 32.8e9, qwen),
        plain("llama3-70b", "Llama 3 70B", 70.6e9, llama(80, 8192, 28672, 64)),
        plain("gpt3-175b", "GPT-3 175B", 175.0e9, gpt),
        plain("llama3-405b", "Llama 3 405B", 405.9e9, llama(126, 16384, 53248, 128)),
        deepseek(),
    ];
    all.sort_by(|a, b| a.parameters.total_cmp(&b.parameters));
    all
}

/// A model by its name; case, spaces and punctuation do not count.
pub fn named(name: &str) -> Result<Model, Failure> {
    let plain = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_lowercase()
    };
    let all = all();
    let known: Vec<&str> = all.iter().map(|model| model.name).collect();
    let expected = format!("one of {}", known.join(", "));
    let found = all.into_iter().find(|model| plain(model.name) == plain(name));
    found.ok_or_else(|| Failure::bad_value("--model", name, &expected))
}

impl Linear {
    /// n and k of one rank of `tp`; where the ranks do not divide them, of one that has most.
    pub fn of_rank(&self, tp: usize, kv_heads: usize) -> (usize, usize) {
        match self.split {
            Split::Column => (self.n.div_ceil(tp) + self.kv.div_ceil(tp.min(kv_heads)), self.k),
            Split::Row => (self.n, self.k.div_ceil(tp)),
            Split::Whole => (self.n, self.k),
        }
    }
}

impl Model {
    /// Degrees up to `most`: powers of two that divide the heads.
    pub fn degrees(&self, most: usize) -> Vec<usize> {
        let powers = std::iter::successors(Some(1usize), |tp| tp.checked_mul(2));
        powers
            .take_while(|tp| *tp <= most)
            .filter(|tp| self.heads.is_multiple_of(*tp))
            .collect()
    }
}

#[cfg(test)]
#[path = "models_tests.rs"]
mod tests;
