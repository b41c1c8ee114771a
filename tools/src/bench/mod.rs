//! `tileweave bench-gpu`: the table that says how fast the kernels are, next to cuBLASLt. `docs/performance.md` says what is
//! measured and how; on the simulated node the same program runs on small sizes and has no clock, which proves the launches.

pub mod args;
mod beside;
pub mod clock;
pub mod contests;
mod cublaslt;
pub mod latency;
pub mod nccl;
pub mod operands;
pub mod overlap;
mod report;
pub mod shapes;
pub mod statistics;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tileweave::driver::Kind;
use tileweave::{GroupConfig, Node, OpSpec, Rank};

use self::args::{BenchArgs, Part, ScaleArg};
use self::clock::Effort;
use self::contests::{Contender, Overlapped, Plain, Tuning};
use self::operands::{DTYPE, Pool};
use self::report::{Conditions, FusedRow, GemmRow, LatencyRow, Missing, Report};
use self::shapes::{Fused, Gemm, Scale};
use self::statistics::{median_estimate, of_medians};
use crate::device::{self, Machine};
use crate::failure::Failure;
use crate::kernels;
use crate::run::output::Place;

/// The bound on waits: a kernel of the largest case takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(20);
/// The least that a sample of several launches takes, by the roofline: far more than what an event costs.
const SAMPLE_US: f64 = 100.0;
/// Of an H200, for that reckoning alone: 2/3 of its 989 TFLOP/s in bf16, and 3/4 of its 4.8 TB/s.
const FLOPS_PER_US: f64 = 660e6;
const BYTES_PER_US: f64 = 3.6e6;

/// What every case needs.
struct Bench<'a> {
    machine: &'a Machine,
    args: &'a BenchArgs,
    pool: Pool,
    tuning: Tuning,
    cublaslt: bool,
    clocked: bool,
    until: Instant,
}

/// Measures, writes the files asked for, and tells how many cases failed.
pub fn run(args: &BenchArgs) -> Result<Report, Failure> {
    let place = |path: &Path| Place::new("--out", path);
    let out = args
        .out
        .as_deref()
        .map(|path| Ok::<_, Failure>((place(path)?, place(&path.with_extension("md"))?)));
    let out = out.transpose()?;
    let machine = device::choose(args.device)?;
    let clocked = matches!(machine, Machine::Cuda(_));
    let library = match &machine {
        Machine::Sim => Err("the simulated node has none".to_string()),
        Machine::Cuda(_) if args.no_cublaslt => Err("--no-cublaslt".to_string()),
        Machine::Cuda(_) => cublaslt::Library::open(),
    };
    let nccl = match &machine {
        Machine::Sim => Err("the simulated node has none".to_string()),
        Machine::Cuda(_) if args.no_nccl => Err("--no-nccl".to_string()),
        Machine::Cuda(_) => nccl::open(),
    };
    for (what, reason) in [("cuBLASLt", library.as_ref().err()), ("NCCL", nccl.as_ref().err())] {
        if let Some(reason) = reason {
            device::notice(&format!("no {what} to compare with: {reason}"));
        }
    }
    let scale = match args.scale {
        Some(ScaleArg::Full) => Scale::Full,
        Some(ScaleArg::Tiny) => Scale::Tiny,
        None if clocked => Scale::Full,
        None => Scale::Tiny,
    };
    let bench = Bench {
        machine: &machine,
        args,
        // Not a power of two: rows of matrices begin at different values.
        pool: Pool::new(if clocked { (8 << 20) - 3 } else { (64 << 10) - 3 }),
        tuning: args.tuning(),
        cublaslt: library.is_ok(),
        clocked,
        until: Instant::now() + Duration::from_secs(args.budget),
    };
    let mut report = Report {
        conditions: conditions(args, &machine, &library, &nccl)?,
        gemm: Vec::new(),
        small: Vec::new(),
        latency: Vec::new(),
        fused: Vec::new(),
        missing: Vec::new(),
        targets: Vec::new(),
    };
    let missing = &mut report.missing;
    if args.wants(Part::Gemm) {
        report.gemm = bench.cases(shapes::gemms(scale), gemm_name, |gemm| bench.gemm(gemm), missing);
    }
    if args.wants(Part::Small) {
        report.small = bench.cases(shapes::small(scale), gemm_name, |gemm| bench.gemm(gemm), missing);
    }
    if args.wants(Part::Latency) {
        let name = |_: &(usize, usize)| "all-reduce of 8 KiB".to_string();
        report.latency = bench.cases(vec![shapes::latency(scale)], name, |case| bench.latency(*case), missing);
    }
    if args.wants(Part::Fused) {
        report.fused = bench.cases(shapes::fused(scale), fused_name, |fused| bench.fused(fused), missing);
    }
    report.judge();
    let write = |report: &Report| {
        let Some((json, tables)) = &out else { return Ok(()) };
        json.write(report.to_json()?.as_bytes())?;
        tables.write(report.to_tables().as_bytes())
    };
    write(&report)?;
    if let Ok(library) = &nccl {
        if let Err(reason) = bench.beside_nccl(library, scale, &mut report) {
            device::notice(&format!("NCCL was given up: {reason}"));
            report.conditions.nccl_missing_because = Some(reason);
        }
        write(&report)?;
    }
    Ok(report)
}

fn gemm_name(gemm: &Gemm) -> String {
    format!("{}, {}x{}x{}", gemm.layer, gemm.m, gemm.n, gemm.k)
}

fn fused_name(f: &Fused) -> String {
    format!("{} {}, {}x{}x{}, P={}", f.op, f.layer, f.m, f.n, f.k, f.ranks)
}

impl Bench<'_> {
    /// The rows of cases. One that fails, or finds no time left, is noted and the next is tried.
    fn cases<C, R>(
        &self,
        cases: Vec<C>,
        name: impl Fn(&C) -> String,
        measure: impl Fn(&C) -> tileweave::Result<R>,
        missing: &mut Vec<Missing>,
    ) -> Vec<R> {
        let mut rows = Vec::new();
        for case in cases {
            let name = name(&case);
            if self.args.case.as_ref().is_some_and(|wanted| !name.contains(wanted)) {
                continue;
            }
            let left_out = (Instant::now() >= self.until).then(|| "out of time (--budget)".to_string());
            let failed = left_out.is_none();
            let row = left_out.map_or_else(|| measure(&case).map_err(|error| error.to_string()), Err);
            match row {
                Ok(row) => rows.push(row),
                Err(reason) => {
                    device::notice(&format!("{name}: {reason}"));
                    missing.push(Missing {
                        case: name,
                        reason,
                        failed,
                    });
                }
            }
        }
        rows
    }

    fn group(&self, specs: &[OpSpec], ranks: usize) -> tileweave::Result<Vec<Rank>> {
        let node: Node = self.machine.plain_node(ranks)?;
        let config = GroupConfig::default().deadline(DEADLINE).sized_for(specs, ranks)?;
        node.group(ranks, &config)
    }

    fn effort(&self, launches: usize, sets: usize) -> Effort {
        let samples = self.args.samples as usize;
        Effort {
            samples,
            launches,
            sets,
            fills: 1,
        }
    }

    fn gemm(&self, gemm: &Gemm) -> tileweave::Result<GemmRow> {
        let Gemm { layer, m, n, k } = *gemm;
        let bytes = (m * k + n * k + m * n) * DTYPE.size();
        let flops = 2.0 * m as f64 * n as f64 * k as f64;
        let sets = operands::sets(bytes, self.clocked);
        let us = (flops / FLOPS_PER_US).max(bytes as f64 / BYTES_PER_US);
        let launches = if self.clocked {
            (SAMPLE_US / us).ceil().clamp(1.0, 20.0) as usize
        } else {
            1
        };
        let spec = Plain::spec(gemm, self.tuning);
        let ranks = self.group(std::slice::from_ref(&spec), 1)?;
        let mut plain = Plain::new(&ranks[0], gemm, &spec, sets, &self.pool, self.cublaslt)?;
        let difference = match plain.vendor {
            Some(_) => Some(operands::difference(&plain.product(0)?, &plain.product(1)?)),
            None => None,
        };
        let samples = clock::measure(&ranks, &mut plain, self.effort(launches, sets))?;
        let ms = |contender: usize| samples.as_ref()?.get(contender).map(|s| median_estimate(s));
        let tflops = |ms: Option<statistics::Estimate>| Some(flops / ms?.value / 1e9);
        let speed = match samples.as_deref() {
            Some([ours, theirs]) => Some(of_medians([ours, theirs], |[ours, theirs]| theirs / ours)),
            _ => None,
        };
        Ok(GemmRow {
            layer,
            m,
            n,
            k,
            kernel: plain.kernel(),
            sets,
            launches,
            ours_ms: ms(0),
            cublaslt_ms: ms(1),
            ours_tflops: tflops(ms(0)),
            cublaslt_tflops: tflops(ms(1)),
            speed,
            proposal: plain.vendor.as_ref().map(|vendor| vendor.choice.place),
            difference,
        })
    }

    fn fused(&self, fused: &Fused) -> tileweave::Result<FusedRow> {
        let specs: Vec<OpSpec> = (0..fused.ranks)
            .flat_map(|rank| Overlapped::specs(fused, rank, self.tuning))
            .collect();
        let ranks = self.group(&specs, fused.ranks)?;
        // Every rank's operands are far beyond what the L2 holds.
        let sets = 2;
        let mut contest = Overlapped::new(&ranks, fused, self.tuning, sets, Some(&self.pool), self.cublaslt)?;
        let samples = clock::measure(&ranks, &mut contest, self.effort(1, sets))?;
        let of = |who: Contender| {
            let place = contest.field.iter().position(|other| *other == who)?;
            samples.as_ref()?.get(place).map(Vec::as_slice)
        };
        let ms = |who| of(who).map(median_estimate);
        let over = |who, other| Some(of_medians([of(who)?, of(other)?], |[who, other]| who / other));
        let (overlap_pct, not_resolvable_ms) = match (of(Contender::Fused), of(Contender::Gemm), of(Contender::Unfused))
        {
            (Some(fused), Some(gemm), Some(unfused)) => overlap::overlap(fused, gemm, unfused).columns(),
            _ => (None, None),
        };
        let [kernel, unfused_kernels] = contest.kernels();
        Ok(FusedRow {
            op: fused.op.name(),
            layer: fused.layer,
            ranks: fused.ranks,
            m: fused.m,
            n: fused.n,
            k: fused.k,
            kernel,
            unfused_kernels,
            fused_ms: ms(Contender::Fused),
            gemm_ms: ms(Contender::Gemm),
            unfused_ms: ms(Contender::Unfused),
            cublaslt_and_ours_ms: ms(Contender::Vendor),
            nccl_ms: None,
            fused_over_gemm: over(Contender::Fused, Contender::Gemm),
            reducers: contest.reducers,
            fused_by_reducers_ms: ms(Contender::Reducers),
            by_reducers_over_fused: over(Contender::Reducers, Contender::Fused),
            overlap_pct,
            not_resolvable_ms,
        })
    }

    fn latency(&self, (ranks, elements): (usize, usize)) -> tileweave::Result<LatencyRow> {
        let group = self.group(&[latency::spec(elements)], ranks)?;
        let samples = if self.clocked {
            10 * self.args.samples as usize
        } else {
            1
        };
        let measured = latency::measure(&group, elements, samples, &self.pool)?;
        Ok(LatencyRow {
            kernel: measured.kernel,
            ranks,
            bytes: elements * DTYPE.size(),
            // Simulated nanoseconds order events and measure nothing.
            us: self.clocked.then(|| median_estimate(&measured.samples)),
            in_a_row_us: None,
            nccl_in_a_row_us: None,
        })
    }
}

fn conditions(
    args: &BenchArgs,
    machine: &Machine,
    library: &Result<cublaslt::Library, String>,
    nccl: &Result<Arc<tileweave::nccl::Library>, String>,
) -> Result<Conditions, Failure> {
    let node = machine.plain_node(1)?;
    let place = tileweave::driver::Place {
        device: 0,
        share: 0,
        shares: 1,
    };
    let info = node.driver().place_info(place)?;
    let cuda = node.driver().kind() == Kind::Cuda;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let version = |l: &cublaslt::Library| {
        let (v, c) = (l.version, l.cudart);
        let cuda = format!("{}.{}", c / 1000, c % 1000 / 10);
        format!("{}.{}.{} (CUDA runtime {cuda})", v / 10_000, v / 100 % 100, v % 100)
    };
    Ok(Conditions {
        package: env!("CARGO_PKG_VERSION"),
        commit: tileweave_commit::COMMIT,
        command: format!("tileweave {}", words.join(" ")),
        device: format!("{}, {} SMs", info.name, info.sms),
        driver: cuda.then(kernel_driver).flatten(),
        cuda_of_driver: cuda.then(device::cuda_driver_version).and_then(Result::ok),
        nvcc: kernels::NVCC_VERSION,
        cublaslt: library.as_ref().ok().map(version),
        cublaslt_missing_because: library.as_ref().err().cloned(),
        nccl: nccl.as_ref().ok().map(|library| library.version()),
        nccl_missing_because: nccl.as_ref().err().cloned(),
        seen_on: if cuda { "[1 GPU]" } else { "[sim]" },
        samples: args.samples as usize,
    })
}

/// The version of NVIDIA's kernel module, as Linux tells it.
fn kernel_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.split_whitespace()
        .find(|word| word.split('.').count() >= 2 && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_string)
}
