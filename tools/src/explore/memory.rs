//! What a GPU holds and sends.

use super::models::Model;

/// Bytes of bf16 and f16.
pub const SIZE: f64 = 2.0;

/// Of one GPU, bytes.
pub struct Memory {
    /// All of the model's weights, cut evenly.
    pub weights: f64,
    /// Kept for the backward pass, all layers, a micro-batch; what norms and residuals keep is on every GPU.
    pub activations: f64,
    /// The same with sequence parallelism, which cuts that too.
    pub activations_sequence: f64,
    /// Keys and values of all layers, for decoding.
    pub cache: f64,
}

impl Memory {
    /// `tokens`: of all sequences together.
    pub fn of(model: &Model, tp: usize, tokens: f64) -> Memory {
        let tensor = tp as f64;
        let heads = tp.min(model.kv_heads) as f64;
        let cut = model.split_bytes as f64 / tensor + model.kv_bytes as f64 / heads;
        let whole = model.whole_bytes as f64;
        let of_all = tokens * model.layers as f64;
        Memory {
            weights: model.parameters * SIZE / tensor,
            activations: of_all * (whole + cut),
            activations_sequence: of_all * (whole / tensor + cut),
            cache: of_all * (model.cache_width as f64 / heads) * SIZE,
        }
    }
}

/// Bytes that a GPU sends in a layer's forward pass: an all-reduce of the activations after every row-parallel GEMM.
/// With sequence parallelism the same bytes go as a reduce-scatter and an all-gather.
pub fn sent(model: &Model, tp: usize, rows: f64) -> f64 {
    let reductions = model
        .linears
        .iter()
        .filter(|linear| linear.split == super::models::Split::Row);
    let message = rows * model.hidden as f64 * SIZE;
    let tp = tp as f64;
    reductions.count() as f64 * 2.0 * (tp - 1.0) / tp * message
}
