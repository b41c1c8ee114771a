//! The model of routes against tables that others published: how often "fuse or not", and "one-shot, two-shot or NCCL",
//! come out as they measured it. Wrong ones are printed. `docs/routes.md` holds the result [predicted].
//!
//! The kernels in these tables are others'. So the question put to the model is what it would say of kernels as theirs
//! were: a GEMM as good as the library's, every exchange, one-shots without tags. How far its times are off is printed,
//! too.

mod tables;

use std::collections::BTreeMap;

use tileweave::NcclPolicy;
use tileweave::route::constants::Class;
use tileweave::route::model::{Transport, Work};
use tileweave::route::{Allowed, Machine, decide};
use tileweave::topology::{
    Ancestor, Fabric, Gpu, Link, Mig, NvLinkPath, Source, Status, Topology, VERSION, nvlink_gb_per_s,
};
use tileweave::{DType, Exchange, Numerics, Op};

use tables::{Row, number, text};

fn main() {
    let Some((fused, all_reduce)) = tables::read() else {
        return;
    };
    fuse_or_not(&fused);
    println!();
    one_two_or_nccl(&all_reduce);
}

/// A machine that a table names: its GPUs, and how many NVLinks of which generation each has to switches (0: PCIe).
struct Described {
    gpu: &'static str,
    compute_capability: (u32, u32),
    lanes: u32,
    version: u32,
    multicast: bool,
}

fn described(hardware: &str) -> Option<Described> {
    let of = |gpu, compute_capability, (lanes, version), multicast| {
        Some(Described {
            gpu,
            compute_capability,
            lanes,
            version,
            multicast,
        })
    };
    match hardware {
        "A800 SXM" => of("NVIDIA A800-SXM4-80GB", (8, 0), (8, 3), false),
        "A100 (ndv4)" => of("NVIDIA A100-SXM4-40GB", (8, 0), (12, 3), false),
        "H800 SXM" => of("NVIDIA H800", (9, 0), (8, 4), true),
        "H100 SXM" | "H100" | "H100 (ndv5)" => of("NVIDIA H100 80GB HBM3", (9, 0), (18, 4), true),
        "H200" => of("NVIDIA H200", (9, 0), (18, 4), true),
        "L20 PCIe" => of("NVIDIA L20", (8, 9), (0, 0), false),
        "2x B200" => of("NVIDIA B200", (10, 0), (18, 5), true),
        "B300" | "GB300" | "B300/GB300" | "GB300 NVL72" => of("NVIDIA GB300", (10, 3), (18, 5), true),
        _ => None,
    }
}

fn machine(hardware: &str, world: usize) -> Option<Machine> {
    let Described {
        gpu: name,
        compute_capability,
        lanes,
        version,
        multicast,
    } = described(hardware)?;
    let gpu = |i: usize| Gpu {
        uuid: format!("GPU-{i}"),
        pci: format!("00000000:{i:02x}:00.0"),
        name: name.into(),
        compute_capability,
        sms: None,
        memory_bytes: 80 << 30,
        numa: None,
        mig: Mig::Off,
        fabric: Fabric::Unknown,
        multicast: if multicast { Status::Yes } else { Status::No },
        nvlinks: Vec::new(),
    };
    let link = |from: usize, to: usize| Link {
        from,
        to,
        nvlink: (lanes > 0).then(|| NvLinkPath {
            lanes,
            version,
            gb_per_s: f64::from(lanes) * nvlink_gb_per_s(version),
            switched: true,
        }),
        ancestor: Ancestor::System,
        read: Status::Yes,
        write: Status::Yes,
        atomics: Status::Yes,
    };
    let pairs = (0..world).flat_map(|from| (0..world).map(move |to| (from, to)));
    let topology = Topology {
        version: VERSION,
        source: Source::Nvml,
        driver: String::new(),
        cuda: None,
        gpus: (0..world).map(gpu).collect(),
        links: pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| link(from, to))
            .collect(),
        notes: Vec::new(),
    };
    let ranks: Vec<usize> = (0..world).collect();
    let machine = Machine::of(&topology, None, &ranks);
    let class = Class {
        our_gemm: machine.class.library_gemm,
        ..machine.class
    };
    Some(Machine { class, ..machine })
}

/// Agreements, of how many, by source.
#[derive(Default)]
struct Score {
    right: usize,
    of: usize,
    /// Predicted over published times.
    ratios: Vec<f64>,
}

fn print_scores(scores: &BTreeMap<String, Score>) {
    let (right, of) = scores
        .values()
        .fold((0, 0), |(right, of), s| (right + s.right, of + s.of));
    for (source, score) in scores {
        let mut ratios = score.ratios.clone();
        ratios.sort_by(f64::total_cmp);
        let about = match (ratios.first(), ratios.get(ratios.len() / 2), ratios.last()) {
            (Some(least), Some(median), Some(most)) => {
                format!(
                    "; predicted / published time {median:.2} ({least:.2} to {most:.2}, {} times)",
                    ratios.len()
                )
            }
            _ => String::new(),
        };
        println!("  {:>2} of {:>2}  {source}{about}", score.right, score.of);
    }
    println!("  {right:>2} of {of:>2}  together");
}

fn fuse_or_not(rows: &[Row]) {
    println!("Fuse or not: GEMM and collective in one kernel, against the library's GEMM and NCCL [predicted]");
    let (mut scores, mut left_out) = (BTreeMap::<String, Score>::new(), BTreeMap::<&str, usize>::new());
    let mut fused_won = 0;
    for row in rows {
        let text = |name: &str| text(row, name);
        let op = match text("op") {
            "GEMM+RS" => Op::GemmReduceScatter,
            "GEMM+AR" => Op::GemmAllReduce,
            _ => Op::AllGatherGemm,
        };
        let sizes = [
            number(row, "M"),
            number(row, "N_local"),
            number(row, "K_local"),
            number(row, "world"),
        ];
        let times = (number(row, "baseline_ms"), number(row, "fused_ms"));
        let ([Some(m), Some(n), Some(k), Some(world)], (Some(baseline), Some(fused))) = (sizes, times) else {
            let why = if sizes.contains(&None) {
                "sizes or ranks not told"
            } else {
                "no unfused time"
            };
            *left_out.entry(why).or_default() += 1;
            continue;
        };
        let Some(machine) = machine(text("hw"), world as usize) else {
            *left_out.entry("machine not described").or_default() += 1;
            continue;
        };
        let work = Work {
            op,
            m: m as u64,
            n: n as u64,
            k: k as u64,
            dtype: DType::Bf16,
            wire: DType::Bf16,
        };
        let allowed = Allowed {
            one_shot_bytes: 128 << 10,
            numerics: Numerics::InSwitch,
            nccl: NcclPolicy::Never,
            exchanges: &[Exchange::Push, Exchange::Pull, Exchange::InSwitch],
        };
        let predicted = decide(&machine, &work, &allowed).predicted;
        let (Some(fused_us), Some(nccl_us)) = (predicted.fused_us, predicted.nccl_us) else {
            continue;
        };
        let score = scores.entry(text("source").to_string()).or_default();
        score.of += 1;
        fused_won += usize::from(fused < baseline);
        score.ratios.push(fused_us / (fused * 1e3));
        score.ratios.push(nccl_us / (baseline * 1e3));
        if (fused_us < nccl_us) == (fused < baseline) {
            score.right += 1;
        } else {
            println!(
                "  wrong: {} {} M {m} N {n} K {k}: predicted {fused_us:.0} us fused, {nccl_us:.0} not; published {:.0} and {:.0} ({})",
                text("op"),
                text("hw"),
                fused * 1e3,
                baseline * 1e3,
                text("source")
            );
        }
    }
    print_scores(&scores);
    println!("  {fused_won} would be right by always fusing");
    for (why, count) in left_out {
        println!("  left out: {count} rows, {why}");
    }
}

/// Published times of one all-reduce, by kind.
type Ways = BTreeMap<&'static str, f64>;

/// Which of our three answers an algorithm of the tables is.
fn kind(algorithm: &str) -> Option<&'static str> {
    match algorithm {
        "ca_1stage" => Some("one-shot"),
        "ca_2stage" | "symm_two_shot" => Some("two-shot"),
        "pynccl" | "nccl_symm" | "NCCL" => Some("NCCL"),
        _ if algorithm.contains("one-shot") => Some("one-shot"),
        _ if algorithm.contains("two-shot") => Some("two-shot"),
        _ => None,
    }
}

fn one_two_or_nccl(rows: &[Row]) {
    println!("One-shot, two-shot or NCCL: all-reduces alone [predicted]");
    println!("  agreed where the way that the model picks was published within 5% or 1 us of the best");
    let mut cases = BTreeMap::<(String, String, u64), Ways>::new();
    let mut scores = BTreeMap::<String, Score>::new();
    let mut left_out = 0;
    for row in rows {
        let text = |name: &str| text(row, name);
        let (Some(bytes), Some(us), Some(kind)) = (number(row, "bytes"), number(row, "us"), kind(text("algo"))) else {
            left_out += 1;
            continue;
        };
        let best = cases
            .entry((text("hw").to_string(), text("world").to_string(), bytes as u64))
            .or_default()
            .entry(kind)
            .or_insert(us);
        *best = best.min(us);
    }
    for ((hardware, world, bytes), published) in cases {
        // The label is cut off in the source; its one-stage slope fits 8.
        let (world, note) = world
            .parse()
            .map_or((8, ", taken as 8 ranks"), |world: usize| (world, ""));
        let Some(machine) = machine(&hardware, world) else {
            left_out += 1;
            continue;
        };
        let work = |bytes: u64| Work {
            op: Op::AllReduce,
            m: 1,
            n: bytes / 2,
            k: 0,
            dtype: DType::Bf16,
            wire: DType::Bf16,
        };
        let ours = |one_shot: bool| {
            let by = Transport {
                exchange: Exchange::Push,
                one_shot,
            };
            // Theirs send no tags, which are half of our packets.
            work(if one_shot { bytes / 2 } else { bytes }).unfused_us(&machine, by)
        };
        let predicted = [
            ("one-shot", ours(true)),
            ("two-shot", ours(false)),
            ("NCCL", work(bytes).nccl_us(&machine)),
        ];
        let score = scores
            .entry(if note.is_empty() {
                format!("{hardware}, {world} ranks")
            } else {
                format!("{hardware}{note}")
            })
            .or_default();
        let told = || {
            predicted
                .iter()
                .filter_map(|(kind, us)| Some((*kind, (*us)?, *published.get(kind)?)))
        };
        score.ratios.extend(told().map(|(_, us, published)| us / published));
        // A choice is among what was published, two ways at least.
        let Some((pick, _, at)) = told()
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|_| published.len() > 1)
        else {
            continue;
        };
        let best = published.iter().min_by(|a, b| a.1.total_cmp(b.1));
        let Some((best, least)) = best else { continue };
        score.of += 1;
        if at <= (least * 1.05).max(least + 1.0) {
            score.right += 1;
        } else {
            println!(
                "  wrong: {hardware}, {world} ranks, {bytes} bytes: {pick} predicted ({at} us published), {best} is best ({least} us)"
            );
        }
    }
    print_scores(&scores);
    println!("  left out: {left_out} rows of other algorithms or machines");
}
