//! What `tileweave overlap` prints.

use serde_json::{Value, json};

use super::cases::{Case, Gemm, Message};
use super::measure::{GemmTimes, MessageTimes};
use super::{Report, Times};
use crate::bench::operands::DTYPE;
use crate::text::table;

const GEMM: [&str; 14] = [
    "operation",
    "layer",
    "P",
    "M",
    "N local",
    "K local",
    "gemm ms",
    "unfused",
    "NCCL",
    "fused",
    "auto",
    "route",
    "speedup",
    "overlap %",
];
const MESSAGE: [&str; 6] = ["operation", "bytes", "P", "p2p us", "NCCL", "multicast"];

impl Report {
    pub fn to_json(&self) -> String {
        let row = |(case, times): &(Case, Times)| match (case, times) {
            (Case::Gemm(case), Times::Gemm(times)) => self.gemm(case, times),
            (Case::Message(case), Times::Message(times)) => self.message(case, times),
            _ => Value::Null,
        };
        json!({ "rows": self.rows.iter().map(row).collect::<Vec<_>>() }).to_string()
    }

    fn gemm(&self, case: &Gemm, times: &GemmTimes) -> Value {
        json!({
            "op": case.op.name(),
            "m": case.m,
            "n_local": case.n,
            "k_local": case.k,
            "ranks": case.ranks,
            "dtype": DTYPE.to_string(),
            "node": self.node,
            "gemm_ms": times.gemm,
            "unfused_ms": times.unfused,
            "nccl_ms": times.nccl,
            "fused_ms": times.fused,
            "auto_ms": times.auto(),
            "auto_route": times.auto_route.to_string(),
            "speedup": times.speedup(),
            "overlap_pct": times.overlap,
            "kind": self.kind,
        })
    }

    fn message(&self, case: &Message, times: &MessageTimes) -> Value {
        json!({
            "op": case.op.name(),
            "bytes": case.bytes,
            "ranks": case.ranks,
            "node": self.node,
            "p2p_us": times.p2p,
            "nccl_us": times.nccl,
            "multicast_us": times.multicast,
            "kind": self.kind,
        })
    }

    pub fn to_text(&self) -> String {
        let (mut gemms, mut messages) = (Vec::new(), Vec::new());
        for row in &self.rows {
            match row {
                (Case::Gemm(case), Times::Gemm(times)) => gemms.push(gemm_cells(case, times)),
                (Case::Message(case), Times::Message(times)) => messages.push(message_cells(case, times)),
                _ => {}
            }
        }
        let mut parts = vec![format!("{}, {DTYPE} [{}]", self.node, self.kind)];
        if !gemms.is_empty() {
            parts.push(table(&GEMM, gemms));
        }
        if !messages.is_empty() {
            parts.push(table(&MESSAGE, messages));
        }
        parts.push(
            "overlap: how much of unfused - gemm is hidden; speedup: unfused / fused; auto: the crate's route; -: there is none, or it cannot be told"
                .into(),
        );
        parts.join("\n\n")
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn gemm_cells(case: &Gemm, times: &GemmTimes) -> Vec<String> {
    vec![
        case.op.name().into(),
        case.of.clone(),
        case.ranks.to_string(),
        case.m.to_string(),
        case.n.to_string(),
        case.k.to_string(),
        cell(Some(times.gemm), 4),
        cell(Some(times.unfused), 4),
        cell(times.nccl, 4),
        cell(Some(times.fused), 4),
        cell(times.auto(), 4),
        times.auto_route.to_string(),
        cell(Some(times.speedup()), 2),
        cell(times.overlap, 1),
    ]
}

fn message_cells(case: &Message, times: &MessageTimes) -> Vec<String> {
    vec![
        case.op.name().into(),
        case.bytes.to_string(),
        case.ranks.to_string(),
        cell(Some(times.p2p), 1),
        cell(times.nccl, 1),
        cell(times.multicast, 1),
    ]
}
