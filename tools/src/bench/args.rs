//! The words of `tileweave bench-gpu`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tileweave::Mainloop;

use super::contests::Tuning;
use crate::cli::{Device, MainloopArg, parse_reducers};

/// A table of the table.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Plain GEMMs, the twelve shapes
    Gemm,
    /// Few rows on the same weights
    Small,
    /// An all-reduce of 8 KiB alone
    Latency,
    /// Fused operations over virtual ranks
    Fused,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleArg {
    Full,
    Tiny,
}

#[derive(Args, Debug, Clone)]
pub struct BenchArgs {
    /// auto: cuda where a usable GPU is found, else sim, which proves the launches and has no clock
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Which tables [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Sizes [default: full on cuda, tiny on sim]
    #[arg(long, value_enum)]
    pub scale: Option<ScaleArg>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub case: Option<String>,
    /// Samples of each figure, taken in turns
    #[arg(long, value_name = "N", default_value_t = 41, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub samples: u32,
    /// Seconds after which no further case is begun
    #[arg(long, value_name = "SECONDS", default_value_t = 540, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub budget: u64,
    /// Our mainloop [default: the crate chooses]
    #[arg(long, value_enum)]
    pub mainloop: Option<MainloopArg>,
    /// Columns of a Hopper block, 128 or 256, together with --pairs [default: the crate chooses both]
    #[arg(long, value_name = "COLUMNS", requires = "pairs", value_parser = parse_columns)]
    pub columns: Option<usize>,
    /// Whether Hopper CTAs work in pairs, together with --columns
    #[arg(long, value_name = "true|false", requires = "columns")]
    pub pairs: Option<bool>,
    /// CTAs of a rank that only reduce, in the GEMM + all-reduce beside the one without; 0 leaves it out [default: an eighth of
    /// the rank's SMs]
    #[arg(long, value_name = "CTAS", value_parser = parse_reducers)]
    pub reducers: Option<usize>,
    /// Leave cuBLASLt out
    #[arg(long)]
    pub no_cublaslt: bool,
    /// Leave NCCL out
    #[arg(long)]
    pub no_nccl: bool,
    /// Writes the report here as JSON, and the tables beside it with the ending md
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn parse_columns(text: &str) -> Result<usize, String> {
    let columns = text.parse().ok().filter(|columns| [128, 256].contains(columns));
    columns.ok_or_else(|| "expected 128 or 256".into())
}

impl BenchArgs {
    /// What was asked for of our GEMMs.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            mainloop: self.mainloop.map(Mainloop::from),
            blocks: self.columns.zip(self.pairs),
            reducers: self.reducers,
        }
    }

    pub fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}
