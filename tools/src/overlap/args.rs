//! The words of `tileweave overlap`, and what they may not say together.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tileweave::Op;

use crate::failure::Failure;

#[derive(Args, Debug, Clone)]
pub struct OverlapArgs {
    /// A described machine, for which all is predicted: a100x8, h100x8, h200x8, h100x4, h800x8, a800x8, b200x8, b300x8,
    /// l40sx4, l20x8 or h200x1; or a file that describes one, as those of src/machines do [default: h100x8]
    #[arg(long, value_name = "NAME|FILE.json", conflicts_with = "device")]
    pub node: Option<String>,
    /// cuda: measure on this machine's GPUs
    #[arg(long, value_enum)]
    pub device: Option<Device>,
    /// gemm-reduce-scatter, gemm-all-reduce, all-gather-gemm, reduce-scatter, all-reduce or all-gather; may be repeated
    /// [default: the first three]
    #[arg(long = "op", value_name = "OP", value_parser = crate::cli::parse_op)]
    pub ops: Vec<Op>,
    /// llama3-8b, qwen3-32b, llama3-70b, gpt3-175b, llama3-405b or deepseek-v3-dense; may be repeated [default:
    /// llama3-8b]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Rows of x, over all ranks [default: 512,2048]
    #[arg(long, value_name = "M,M,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = parse_rows)]
    pub m: Vec<usize>,
    /// Ranks, 1 to 16, at most the node's GPUs but where they share one [default: the node's GPUs]
    #[arg(long, value_name = "P,P,...", value_delimiter = ',', allow_negative_numbers = true, value_parser = crate::cli::parse_ranks)]
    pub ranks: Vec<usize>,
    /// One exact case: M rows over all ranks, N and K of the GEMM that one rank computes
    #[arg(long, value_name = "M,N,K", allow_negative_numbers = true, conflicts_with_all = ["models", "m"], value_parser = parse_shape)]
    pub shape: Option<Shape>,
    /// Sizes of messages of the collectives alone [default: with such an --op, 8 KiB to 64 MiB]
    #[arg(long, value_name = "B,B,...", value_delimiter = ',', allow_negative_numbers = true, conflicts_with_all = ["models", "m", "shape"], value_parser = parse_bytes)]
    pub bytes: Vec<usize>,
    /// Writes what every rank and role of the first case's fused kernel did, and when (ui.perfetto.dev, chrome://tracing)
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// Draws overlap (of the collectives alone: time) against M (size); of one case with a GEMM, its timeline
    #[arg(long, value_name = "FILE.svg|.png")]
    pub plot: Option<PathBuf>,
    /// Seed of the simulated node's scheduler
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 0, value_parser = crate::cli::parse_u64)]
    pub seed: u64,
}

/// A prediction needs a description, by --node.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cuda,
}

/// One rank's GEMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// More rows or columns than any GEMM has.
const MOST: usize = 1 << 20;
/// More bytes than any message has: 4 GiB.
const MOST_BYTES: usize = 4 << 30;

fn within(text: &str, most: usize, what: &str) -> Result<usize, String> {
    let value = text.trim().parse().ok().filter(|value| (1..=most).contains(value));
    value.ok_or_else(|| format!("expected {what} from 1 to {most}"))
}

fn parse_rows(text: &str) -> Result<usize, String> {
    within(text, MOST, "a number of rows")
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    within(text, MOST_BYTES, "a number of bytes")
}

fn parse_shape(text: &str) -> Result<Shape, String> {
    let parts: Option<Vec<usize>> = text.split(',').map(|part| within(part, MOST, "").ok()).collect();
    match parts.as_deref() {
        Some([m, n, k]) => Ok(Shape { m: *m, n: *n, k: *k }),
        _ => Err(format!(
            "expected M,N,K, three numbers from 1 to {MOST}, as 4096,8192,3584"
        )),
    }
}

/// The three that have a GEMM, which the program is about.
const FUSED: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];

impl OverlapArgs {
    /// The operations asked for, each once.
    pub fn operations(&self) -> Result<Vec<Op>, Failure> {
        let mut ops: Vec<Op> = Vec::new();
        for op in &self.ops {
            if !ops.contains(op) {
                ops.push(*op);
            }
        }
        if ops.is_empty() {
            ops = match self.bytes.is_empty() {
                true => FUSED.to_vec(),
                false => vec![Op::AllReduce],
            };
        }
        if let (Some(op), false) = (ops.iter().find(|op| op.has_gemm()), self.bytes.is_empty()) {
            let expected =
                "all-reduce, reduce-scatter or all-gather with --bytes; a GEMM's sizes are --m and --model, or --shape";
            return Err(Failure::bad_value("--op", op.name(), expected));
        }
        let sized = self.shape.is_some() || !self.models.is_empty() || !self.m.is_empty();
        if let (Some(op), true) = (ops.iter().find(|op| !op.has_gemm()), sized) {
            let expected =
                "an operation with a GEMM for --shape, --model and --m; of a collective alone the size is --bytes";
            return Err(Failure::bad_value("--op", op.name(), expected));
        }
        if let (Some(op), true) = (ops.first().filter(|op| !op.has_gemm()), self.trace.is_some()) {
            let expected = "an operation with a GEMM first, for --trace";
            return Err(Failure::bad_value("--op", op.name(), expected));
        }
        Ok(ops)
    }
}
