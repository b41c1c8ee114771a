//! The command line. Words and defaults are those of `docs/program.md`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tileweave::{DType, Exchange, Mainloop, Op, Wire};

use crate::bench::args::BenchArgs;
use crate::explore::ExploreArgs;
use crate::failure::{Failure, one_line};
use crate::layer::args::LayerArgs;
use crate::overlap::OverlapArgs;
use crate::run::fault::Fault;
use crate::topo::TopoArgs;

/// What was asked for.
pub enum Parsed {
    Help(String),
    Version,
    Run(Box<RunArgs>),
    Topo(Box<TopoArgs>),
    Explore(Box<ExploreArgs>),
    Overlap(Box<OverlapArgs>),
    Layer(Box<LayerArgs>),
    BenchGpu(Box<BenchArgs>),
}

/// Fused GEMM + collective kernels, on GPUs or on a simulated node.
#[derive(Parser)]
#[command(name = "tileweave", arg_required_else_help = true)]
struct Cli {
    /// Print exactly one JSON object on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Print the version, what was built in, and the driver found
    #[arg(long, short = 'V')]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run one operation over several ranks and check it against a reference
    Run(Box<RunArgs>),
    /// Run one tensor-parallel layer over several ranks, forward and backward, and check it against a reference
    Layer(Box<LayerArgs>),
    /// Show the machine, its links, and the route that typical shapes get on it
    Topo(Box<TopoArgs>),
    /// How much of the communication the fused kernels hide: measured on GPUs, or predicted for a described machine
    Overlap(Box<OverlapArgs>),
    /// Weigh tensor-parallel degrees for a model on a described machine, by prediction
    Explore(Box<ExploreArgs>),
    /// Measure the kernels next to cuBLASLt and print the table of docs/performance.md
    #[command(hide = true)]
    BenchGpu(Box<BenchArgs>),
}

#[derive(Args, Debug, Clone)]
pub struct CommonArgs {
    /// auto: cuda where a usable GPU is found, else sim
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Ranks, 1 to 16; more than the GPUs present share them [default: the GPUs, or 4]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = parse_ranks)]
    pub ranks: Option<usize>,
    /// Seed of the simulated node's scheduler
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 0, value_parser = parse_u64)]
    pub schedule_seed: u64,
}

#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// gemm-reduce-scatter, gemm-all-reduce, all-gather-gemm, reduce-scatter, all-reduce or all-gather
    #[arg(long, value_name = "OP", default_value = "gemm-all-reduce", value_parser = parse_op)]
    pub op: Op,
    /// Rows of x, over all ranks [default: 64]
    #[arg(long, value_name = "M", allow_negative_numbers = true, value_parser = parse_dimension)]
    pub m: Option<usize>,
    /// Rows of the weight, over all ranks [default: 512]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_dimension)]
    pub n: Option<usize>,
    /// Columns of x and of the weight, over all ranks; without meaning to the plain collectives [default: 512]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = parse_dimension)]
    pub k: Option<usize>,
    /// Element type [default: bf16]
    #[arg(long, value_parser = parse_dtype, value_name = "bf16|f16|f32")]
    pub dtype: Option<DType>,
    /// Seed of the random input
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 0, value_parser = parse_u64)]
    pub seed: u64,
    /// Random input: with a bias
    #[arg(long, conflicts_with = "input")]
    pub bias: bool,
    /// Random input: with an addend of every rank
    #[arg(long, conflicts_with = "input")]
    pub addend: bool,
    /// gemm-all-reduce, all-reduce: add a residual and normalise its rows (RMSNorm) in the same kernel, with this eps
    #[arg(long, value_name = "EPS", allow_negative_numbers = true, value_parser = parse_eps)]
    pub residual_norm: Option<f32>,
    /// Safetensors file: x [M, K], weight [N, K], optional bias [N] and addend [P, M, N]; x [P, M, N] for the plain
    /// collectives; with --residual-norm, residual [M, N] and gamma [N]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Safetensors file to write: y.rank0, y.rank1, ..., and with --residual-norm residual.rank0, ...
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The path; an explicit one that cannot be had is an error
    #[arg(long, value_enum, default_value = "auto")]
    pub route: RouteArg,
    /// The GEMM's mainloop [default: the crate chooses]; one that cannot serve is an error
    #[arg(long, value_enum)]
    pub mainloop: Option<MainloopArg>,
    /// How values get from rank to rank [default: the crate chooses]; in-switch asks the group for sums of the switch, and
    /// gives a simulated node one that adds. One that cannot be had is an error
    #[arg(long, value_enum)]
    pub exchange: Option<ExchangeArg>,
    /// Hopper's gemm-all-reduce: CTAs that only reduce, an even number [default: the crate chooses]
    #[arg(long, value_name = "CTAS", value_parser = parse_reducers)]
    pub reducers: Option<usize>,
    /// The type partials travel in
    #[arg(long, value_enum, default_value = "output")]
    pub wire: WireArg,
    /// all-reduce: the result replaces x
    #[arg(long)]
    pub in_place: bool,
    /// One process per rank instead of one thread
    #[arg(long)]
    pub processes: bool,
    /// Capture once, replay N times, check the last
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub graph: Option<u32>,
    /// GPU timing: launches before the first that is timed
    #[arg(long, value_name = "W", allow_negative_numbers = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub warmup: u32,
    /// GPU timing: launches timed; the median counts
    #[arg(long, value_name = "I", allow_negative_numbers = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub iters: u32,
    /// Simulated node: silent:R, drop-signal:FROM:TO, slow:R:FACTOR, disagree:R, or with --processes kill:R
    #[arg(long, value_name = "SPEC", value_parser = str::parse::<Fault>)]
    pub fault: Option<Fault>,
    /// Runs it once more and records what every role did and when: a trace for Perfetto (ui.perfetto.dev)
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
    /// The same as a drawing
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    /// --trace: every CTA, and not of each kernel the one that tells most
    #[arg(long)]
    pub all_ctas: bool,
    /// Bound on any wait for another rank, in milliseconds
    #[arg(long, value_name = "T", allow_negative_numbers = true, env = "TILEWEAVE_DEADLINE_MS", default_value_t = 10_000, value_parser = parse_deadline)]
    pub deadline_ms: u64,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Auto,
    Sim,
    Cuda,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainloopArg {
    Portable,
    Hopper,
}

impl From<MainloopArg> for Mainloop {
    fn from(word: MainloopArg) -> Mainloop {
        match word {
            MainloopArg::Portable => Mainloop::Portable,
            MainloopArg::Hopper => Mainloop::Hopper,
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeArg {
    Push,
    Pull,
    InSwitch,
}

impl From<ExchangeArg> for Exchange {
    fn from(word: ExchangeArg) -> Exchange {
        match word {
            ExchangeArg::Push => Exchange::Push,
            ExchangeArg::Pull => Exchange::Pull,
            ExchangeArg::InSwitch => Exchange::InSwitch,
        }
    }
}

impl RunArgs {
    /// Whether the switch is to add, in an order of its own.
    pub fn in_switch(&self) -> bool {
        self.exchange == Some(ExchangeArg::InSwitch)
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteArg {
    Auto,
    Fused,
    Unfused,
    Nccl,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireArg {
    Output,
    F32,
}

impl From<WireArg> for Wire {
    fn from(wire: WireArg) -> Wire {
        match wire {
            WireArg::Output => Wire::Output,
            WireArg::F32 => Wire::F32,
        }
    }
}

/// Kernels count rows and columns in 32 bits.
pub const MAX_DIMENSION: usize = i32::MAX as usize;

pub fn parse_dimension(text: &str) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value| *value <= MAX_DIMENSION);
    value.ok_or_else(|| format!("expected a number from 0 to {MAX_DIMENSION}"))
}

pub fn parse_u64(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("expected a number from 0 to {}", u64::MAX))
}

/// What more may be asked for, a machine's CTAs tell.
pub fn parse_reducers(text: &str) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value: &usize| value.is_multiple_of(2));
    value.ok_or_else(|| "expected an even number of CTAs, which may work in pairs".into())
}

fn parse_eps(text: &str) -> Result<f32, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value: &f32| value.is_finite() && *value >= 0.0);
    value.ok_or_else(|| "expected a finite number, at least 0".into())
}

pub fn parse_deadline(text: &str) -> Result<u64, String> {
    const A_DAY: u64 = 86_400_000;
    let value = text.parse().ok().filter(|value| (1..=A_DAY).contains(value));
    value.ok_or_else(|| format!("expected milliseconds from 1 to {A_DAY}"))
}

pub fn parse_ranks(text: &str) -> Result<usize, String> {
    let value = text.parse().ok().filter(|value| (1..=16).contains(value));
    value.ok_or_else(|| "expected a number of ranks from 1 to 16".into())
}

pub fn parse_op(text: &str) -> Result<Op, String> {
    let names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
    Op::from_name(text).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

pub fn parse_dtype(text: &str) -> Result<DType, String> {
    let all = [DType::Bf16, DType::F16, DType::F32];
    all.into_iter()
        .find(|dtype| dtype.to_string() == text)
        .ok_or_else(|| "expected bf16, f16 or f32".into())
}

const NO_COMMAND: &str = "no command: expected `tileweave run`, `tileweave overlap`, `tileweave topo`, `tileweave layer`, \
                          `tileweave explore`, or --version, or --help";

pub fn parse(arguments: &[OsString]) -> Result<Parsed, Failure> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Parsed::Help(error.render().to_string())),
        Err(error) => return Err(Failure::bad_input(explain(&error))),
    };
    let _ = cli.json; // main looks for it itself: it must be known even where parsing fails
    match cli.command {
        _ if cli.version => Ok(Parsed::Version),
        Some(Command::Run(args)) => Ok(Parsed::Run(args)),
        Some(Command::Topo(args)) => Ok(Parsed::Topo(args)),
        Some(Command::Explore(args)) => Ok(Parsed::Explore(args)),
        Some(Command::Overlap(args)) => Ok(Parsed::Overlap(args)),
        Some(Command::Layer(args)) => Ok(Parsed::Layer(args)),
        Some(Command::BenchGpu(args)) => Ok(Parsed::BenchGpu(args)),
        None => Err(Failure::bad_input(NO_COMMAND)),
    }
}

/// clap's message without its usage and hints, in one line.
fn explain(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return NO_COMMAND.into();
    }
    let text = error.render().to_string();
    let lines = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    one_line(lines.collect::<Vec<_>>().join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Parsed, Failure> {
        parse(
            &std::iter::once("tileweave")
                .chain(words.split_whitespace())
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn clap_finds_no_fault_in_the_declaration() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_op_goes_by_its_name() {
        for op in Op::ALL {
            let Ok(Parsed::Run(args)) = parse_words(&format!("run --op {}", op.name())) else {
                panic!("{op:?}")
            };
            assert_eq!(args.op, op);
        }
    }

    #[test]
    fn bad_words_are_bad_input_in_one_line() {
        let bad = [
            ("", "no command"),
            ("run --ranks 0", "1 to 16"),
            ("run --ranks 17", "1 to 16"),
            ("run --op gemm", "gemm-all-reduce"),
            ("run --m -1", "'--m <M>': expected a number from 0 to 2147483647"),
            ("run --n -1", "'--n <N>': expected a number from 0 to 2147483647"),
            ("run --k -1", "'--k <K>': expected a number from 0 to 2147483647"),
            (
                "run --ranks -1",
                "'--ranks <P>': expected a number of ranks from 1 to 16",
            ),
            (
                "run --seed -1",
                "'--seed <S>': expected a number from 0 to 18446744073709551615",
            ),
            (
                "run --schedule-seed -1",
                "'--schedule-seed <S>': expected a number from 0 to",
            ),
            ("run --iters -1", "'--iters <I>': -1 is not in 1..=100000"),
            ("run --warmup -1", "'--warmup <W>': -1 is not in"),
            ("run --graph -1", "'--graph <N>': -1 is not in 1..=1000000"),
            ("run --graph 0", "'--graph <N>': 0 is not in 1..=1000000"),
            (
                "run --deadline-ms -1",
                "'--deadline-ms <T>': expected milliseconds from 1 to 86400000",
            ),
            ("run --m 18446744073709551615", "--m"),
            ("run --dtype f12", "bf16, f16 or f32"),
            ("run --deadline-ms 0", "--deadline-ms"),
            ("run --iters 0", "--iters"),
            ("run --fault silent", "silent:R"),
            ("run --input f --bias", "--bias"),
            ("layer", "--kind"),
            (
                "layer --kind norm",
                "column, row, mlp, attention, embedding, transformer",
            ),
            ("layer --kind row --input f --hidden 8", "--hidden"),
            ("layer --kind mlp --activation relu", "gelu, swiglu"),
            (
                "explore --seq 0",
                "'--seq <S>': expected a number of tokens from 1 to 1048576",
            ),
            (
                "explore --batch -1",
                "'--batch <B>': expected a number of sequences from 1 to 65536",
            ),
            (
                "explore --max-tp 33",
                "'--max-tp <T>': expected a tensor-parallel degree from 1 to 32",
            ),
        ];
        for (words, named) in bad {
            let Err(failure) = parse_words(words) else {
                panic!("`{words}` was accepted")
            };
            assert_eq!(failure.kind.exit_code(), 2, "{words}");
            assert!(failure.message.contains(named), "`{words}`: {}", failure.message);
            assert!(!failure.message.contains('\n'), "{}", failure.message);
        }
    }
}
