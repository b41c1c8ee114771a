//! What was measured, as JSON and as tables.

use serde::Serialize;

use super::overlap::Overlap;
use super::statistics::{Estimate, geometric_mean};
use crate::failure::Failure;

impl Serialize for Estimate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [self.value, self.low, self.high].serialize(serializer)
    }
}

/// Where and how it was measured. Every estimate is `[value, low, high]` with 95 %.
#[derive(Debug, Serialize)]
pub struct Conditions {
    pub package: &'static str,
    pub commit: Option<&'static str>,
    pub command: String,
    pub device: String,
    pub driver: Option<String>,
    pub cuda_of_driver: Option<String>,
    pub nvcc: Option<&'static str>,
    pub cublaslt: Option<String>,
    pub cublaslt_missing_because: Option<String>,
    pub nccl: Option<String>,
    /// Why there is none, or why it was given up on the way.
    pub nccl_missing_because: Option<String>,
    pub seen_on: &'static str,
    pub samples: usize,
}

/// A GEMM on one rank. `None`: not measured.
#[derive(Debug, Serialize)]
pub struct GemmRow {
    pub layer: &'static str,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub kernel: String,
    pub sets: usize,
    pub launches: usize,
    pub ours_ms: Option<Estimate>,
    pub cublaslt_ms: Option<Estimate>,
    pub ours_tflops: Option<f64>,
    pub cublaslt_tflops: Option<f64>,
    /// cuBLASLt's time over ours: above 1, ours is faster.
    pub speed: Option<Estimate>,
    /// Which of the heuristic's proposals proved fastest, from 0, and how many there were.
    pub proposal: Option<(usize, usize)>,
    /// The largest difference of the two products over the largest magnitude.
    pub difference: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct FusedRow {
    pub op: &'static str,
    pub layer: &'static str,
    pub ranks: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub kernel: String,
    pub unfused_kernels: String,
    pub fused_ms: Option<Estimate>,
    pub gemm_ms: Option<Estimate>,
    pub unfused_ms: Option<Estimate>,
    pub cublaslt_and_ours_ms: Option<Estimate>,
    pub nccl_ms: Option<Estimate>,
    pub fused_over_gemm: Option<Estimate>,
    /// GEMM + all-reduce on Hopper: the CTAs of a rank that only reduce in its other variant, and that one's time.
    pub reducers: Option<usize>,
    pub fused_by_reducers_ms: Option<Estimate>,
    pub by_reducers_over_fused: Option<Estimate>,
    pub overlap_pct: Option<Estimate>,
    /// `unfused - gemm`, where it is too small for an overlap.
    pub not_resolvable_ms: Option<Estimate>,
}

#[derive(Debug, Serialize)]
pub struct LatencyRow {
    pub kernel: String,
    pub ranks: usize,
    pub bytes: usize,
    /// By the kernels' own clock.
    pub us: Option<Estimate>,
    /// By events, of one of many in a row: ours and NCCL's.
    pub in_a_row_us: Option<Estimate>,
    pub nccl_in_a_row_us: Option<Estimate>,
}

/// What has to be reached.
#[derive(Debug, Serialize)]
pub struct Target {
    pub what: &'static str,
    pub wanted: String,
    pub value: Option<f64>,
    pub met: Option<bool>,
}

/// A case that gave no figure.
#[derive(Debug, Serialize)]
pub struct Missing {
    pub case: String,
    pub reason: String,
    pub failed: bool,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub conditions: Conditions,
    pub gemm: Vec<GemmRow>,
    pub small: Vec<GemmRow>,
    pub latency: Vec<LatencyRow>,
    pub fused: Vec<FusedRow>,
    pub missing: Vec<Missing>,
    pub targets: Vec<Target>,
}

impl Overlap {
    /// `overlap_pct` and `not_resolvable_ms`.
    pub fn columns(self) -> (Option<Estimate>, Option<Estimate>) {
        match self {
            Overlap::Resolved(percent) => (Some(percent), None),
            Overlap::NotResolvable { communication } => (None, Some(communication)),
        }
    }
}

fn mean(rows: &[GemmRow]) -> Option<f64> {
    let speeds: Vec<f64> = rows.iter().filter_map(|row| Some(row.speed?.value)).collect();
    (!speeds.is_empty()).then(|| geometric_mean(&speeds))
}

impl Report {
    /// Whether a case went wrong, rather than being left out.
    pub fn any_failed(&self) -> bool {
        self.missing.iter().any(|missing| missing.failed)
    }

    pub fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).map_err(|error| Failure::bad_input(error.to_string()))
    }

    /// Fills in the targets from the rows.
    pub fn judge(&mut self) {
        let at_least = |what, value: Option<f64>, least: f64| Target {
            what,
            wanted: format!("at least {least:.2}"),
            value,
            met: value.map(|value| value >= least),
        };
        let at_most = |what, value: Option<f64>, most: f64| Target {
            what,
            wanted: format!("at most {most:.2}"),
            value,
            met: value.map(|value| value <= most),
        };
        let worst = |values: Vec<f64>| values.into_iter().reduce(f64::max);
        let fused = self
            .fused
            .iter()
            .filter_map(|row| Some(row.fused_over_gemm?.value))
            .collect();
        let latency = self.latency.iter().filter_map(|row| Some(row.us?.value)).collect();
        self.targets = vec![
            at_least(
                "plain GEMM, cuBLASLt's time over ours, geometric mean",
                mean(&self.gemm),
                0.95,
            ),
            at_least(
                "small M, cuBLASLt's time over ours, geometric mean",
                mean(&self.small),
                1.0,
            ),
            at_most(
                "fused over GEMM alone with the same SMs, the worst case",
                worst(fused),
                1.02,
            ),
            at_most(
                "all-reduce of 8 KiB on 8 virtual ranks, microseconds",
                worst(latency),
                4.0,
            ),
        ];
    }

    /// The tables, as Markdown that reads well without being rendered.
    pub fn to_tables(&self) -> String {
        let c = &self.conditions;
        let or_none = |value: &Option<String>, reason: &Option<String>| match (value, reason) {
            (Some(value), None) => value.clone(),
            (Some(value), Some(reason)) => format!("{value} (given up: {reason})"),
            (None, Some(reason)) => format!("- ({reason})"),
            (None, None) => "-".into(),
        };
        let mut text = format!(
            "# {} {}\n\n{}; driver {}, CUDA {}; kernels by nvcc {}; cuBLASLt {}; NCCL {}\ncommit {}; `{}`\nmedians of {} samples \
             taken in turns, with 95% intervals; bf16, random data, rotating operands\n",
            c.seen_on,
            c.package,
            c.device,
            or_none(&c.driver, &None),
            or_none(&c.cuda_of_driver, &None),
            c.nvcc.unwrap_or("-"),
            or_none(&c.cublaslt, &c.cublaslt_missing_because),
            or_none(&c.nccl, &c.nccl_missing_because),
            c.commit.unwrap_or("unknown"),
            c.command,
            c.samples,
        );
        for (title, rows) in [("Plain GEMM", &self.gemm), ("Small M", &self.small)] {
            if !rows.is_empty() {
                text += &table(title, &GEMM_HEAD, rows.iter().map(gemm_cells).collect());
                text += &format!(
                    "\ngeometric mean of cuBLASLt's time over ours: {}\n",
                    number(mean(rows), 3)
                );
            }
        }
        if !self.latency.is_empty() {
            let cells = |row: &LatencyRow| {
                let (ranks, bytes) = (row.ranks.to_string(), row.bytes.to_string());
                let figures = [row.us, row.in_a_row_us, row.nccl_in_a_row_us].map(|us| interval(us, 2));
                [row.kernel.clone(), ranks, bytes].into_iter().chain(figures).collect()
            };
            let head = ["kernel", "ranks", "bytes", "us", "us in a row", "NCCL us in a row"];
            text += &table("All-reduce alone", &head, self.latency.iter().map(cells).collect());
        }
        if !self.fused.is_empty() {
            let title = "Fused, P virtual ranks on one device: its links are HBM and L2, not NVLink";
            text += &table(title, &FUSED_HEAD, self.fused.iter().map(fused_cells).collect());
        }
        let cells = |target: &Target| {
            let met = target.met.map_or("-", |met| if met { "yes" } else { "NO" });
            vec![
                target.what.into(),
                target.wanted.clone(),
                number(target.value, 3),
                met.into(),
            ]
        };
        text += &table(
            "Targets",
            &["what", "wanted", "measured", "met"],
            self.targets.iter().map(cells).collect(),
        );
        for missing in &self.missing {
            let how = if missing.failed { "failed" } else { "left out" };
            text += &format!("\n{how}: {}: {}", missing.case, missing.reason);
        }
        text
    }
}

const GEMM_HEAD: [&str; 8] = [
    "layer",
    "M x N x K",
    "kernel",
    "ours ms",
    "cuBLASLt ms",
    "ours TFLOP/s",
    "cuBLASLt TFLOP/s",
    "ratio",
];

fn gemm_cells(row: &GemmRow) -> Vec<String> {
    vec![
        row.layer.into(),
        format!("{} x {} x {}", row.m, row.n, row.k),
        row.kernel.clone(),
        interval(row.ours_ms, 4),
        interval(row.cublaslt_ms, 4),
        number(row.ours_tflops, 1),
        number(row.cublaslt_tflops, 1),
        interval(row.speed, 3),
    ]
}

const FUSED_HEAD: [&str; 14] = [
    "operation",
    "layer",
    "P",
    "M x N x K, unsplit",
    "fused ms",
    "gemm ms",
    "unfused ms",
    "cuBLASLt + ours ms",
    "NCCL ms",
    "fused / gemm",
    "reducing CTAs",
    "fused with them ms",
    "with / without",
    "overlap %",
];

fn fused_cells(row: &FusedRow) -> Vec<String> {
    let overlap = match row.not_resolvable_ms {
        Some(_) => "not resolvable".into(),
        None => interval(row.overlap_pct, 1),
    };
    vec![
        row.op.into(),
        row.layer.into(),
        row.ranks.to_string(),
        format!("{} x {} x {}", row.m, row.n, row.k),
        interval(row.fused_ms, 3),
        interval(row.gemm_ms, 3),
        interval(row.unfused_ms, 3),
        interval(row.cublaslt_and_ours_ms, 3),
        interval(row.nccl_ms, 3),
        interval(row.fused_over_gemm, 3),
        row.reducers.map_or("-".into(), |n| n.to_string()),
        interval(row.fused_by_reducers_ms, 3),
        interval(row.by_reducers_over_fused, 3),
        overlap,
    ]
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn interval(estimate: Option<Estimate>, digits: usize) -> String {
    let text = |e: Estimate| format!("{:.digits$} ({:.digits$} to {:.digits$})", e.value, e.low, e.high);
    estimate.map_or("-".into(), text)
}

fn table<const N: usize>(title: &str, head: &[&str; N], rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", padded.collect::<String>())
    };
    let rule: String = widths
        .iter()
        .map(|width| format!("{}|", "-".repeat(width + 2)))
        .collect();
    let body: String = rows
        .iter()
        .map(|row| line(row.iter().map(String::as_str).collect()))
        .collect();
    format!("\n## {title}\n\n{}|{rule}\n{body}", line(head.to_vec()))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
