//! The words of `tileweave layer`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tileweave::DType;

use crate::cli::{CommonArgs, RouteArg, parse_deadline, parse_dimension, parse_dtype, parse_u64};

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum KindArg {
    Column,
    Row,
    Mlp,
    Attention,
    Embedding,
    Transformer,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationArg {
    Gelu,
    Swiglu,
}

#[derive(Args, Debug, Clone)]
pub struct LayerArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// The layer
    #[arg(long, value_enum)]
    pub kind: KindArg,
    /// What lies between layers is split by rows
    #[arg(long)]
    pub sequence_parallel: bool,
    /// The backward pass, too: dx, and the gradient of every weight
    #[arg(long)]
    pub backward: bool,
    /// attention, transformer: query heads [default: with random input, 8]
    #[arg(long, value_name = "H", allow_negative_numbers = true, value_parser = parse_dimension)]
    pub heads: Option<usize>,
    /// attention, transformer: KV heads [default: as many as k has; with random input, half of the query heads]
    #[arg(long, value_name = "G", allow_negative_numbers = true, value_parser = parse_dimension)]
    pub kv_heads: Option<usize>,
    /// Safetensors file of whole tensors, by their names in torch.nn and Hugging Face: x, ids, dy, weight, fc1.weight, q_proj.weight, ...
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Safetensors file to write: y, dx, dweight, ..., whole
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The path of operations with a GEMM; an explicit one that cannot be had is an error
    #[arg(long, value_enum, default_value = "auto")]
    pub route: RouteArg,
    /// Random input: rows of x [default: 64]
    #[arg(long, value_name = "M", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub m: Option<usize>,
    /// Random input: columns of x [default: 256]
    #[arg(long, value_name = "D", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub hidden: Option<usize>,
    /// Random input, column and row: columns of y [default: 512]
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub out: Option<usize>,
    /// Random input, mlp and transformer: columns between the two linear layers [default: 512]
    #[arg(long, value_name = "F", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub intermediate: Option<usize>,
    /// Random input, embedding: rows of the table [default: 1000]
    #[arg(long, value_name = "V", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub vocabulary: Option<usize>,
    /// Random input, attention and transformer: columns of a head [default: 64]
    #[arg(long, value_name = "E", allow_negative_numbers = true, conflicts_with = "input", value_parser = parse_dimension)]
    pub head_size: Option<usize>,
    /// Random input, mlp: gelu or swiglu [default: swiglu]
    #[arg(long, value_enum, conflicts_with = "input")]
    pub activation: Option<ActivationArg>,
    /// Random input: with every bias that the layer may have
    #[arg(long, conflicts_with = "input")]
    pub bias: bool,
    /// Random input: element type [default: bf16]
    #[arg(long, value_parser = parse_dtype, conflicts_with = "input", value_name = "bf16|f16|f32")]
    pub dtype: Option<DType>,
    /// Seed of the random input
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 0, value_parser = parse_u64)]
    pub seed: u64,
    /// Bound on any wait for another rank, in milliseconds
    #[arg(long, value_name = "T", allow_negative_numbers = true, env = "TILEWEAVE_DEADLINE_MS", default_value_t = 10_000, value_parser = parse_deadline)]
    pub deadline_ms: u64,
}
