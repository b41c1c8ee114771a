//! What `tileweave overlap` prints.

use serde_json::{Value, json};
use tileweave::timeline::RankTimeline;

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
        let mut object = json!({ "rows": self.rows.iter().map(row).collect::<Vec<_>>() });
        if let Some((case, timeline)) = &self.recorded {
            object["timeline"] = json!({
                "case": Case::Gemm(case.clone()).name(),
                "ranks": timeline.ranks.iter().map(phases).collect::<Vec<_>>(),
            });
        }
        object.to_string()
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
        if let Some((case, timeline)) = &self.recorded {
            let name = Case::Gemm(case.clone()).name();
            parts.push(format!(
                "where the time went, {name}, fused, us\n{}",
                table(&PHASES, timeline.ranks.iter().map(phase_cells).collect())
            ));
        }
        parts.push(
            "overlap: how much of unfused - gemm is hidden; speedup: unfused / fused; auto: the crate's route; -: there is none, or it cannot be told"
                .into(),
        );
        parts.join("\n\n")
    }
}

const PHASES: [&str; 8] = [
    "rank",
    "time",
    "computing",
    "moving",
    "waiting for others",
    "waiting for its own",
    "other",
    "tail",
];

/// Microseconds of a rank's fused kernel, by what its CTAs did: their mean.
struct Shares {
    time: f64,
    computing: f64,
    moving: f64,
    late: f64,
    own: f64,
    other: f64,
    tail: f64,
    hidden: f64,
}

fn shares(rank: &RankTimeline) -> Shares {
    let summary = rank.summary();
    let phases = &summary.phases;
    let own = phases.waiting.get(rank.rank).copied().unwrap_or(0.0);
    Shares {
        time: summary.time / 1e3,
        computing: phases.computing / 1e3,
        moving: phases.moving / 1e3,
        late: (phases.waiting.iter().sum::<f64>() - own) / 1e3,
        own: own / 1e3,
        other: phases.other / 1e3,
        tail: summary.tail / 1e3,
        hidden: summary.hidden / 1e3,
    }
}

fn phases(rank: &RankTimeline) -> Value {
    let s = shares(rank);
    json!({
        "rank": rank.rank, "time_us": s.time, "computing_us": s.computing, "moving_us": s.moving,
        "waiting_for_others_us": s.late, "waiting_for_own_us": s.own, "other_us": s.other, "tail_us": s.tail,
        "moving_hidden_us": s.hidden,
    })
}

fn phase_cells(rank: &RankTimeline) -> Vec<String> {
    let s = shares(rank);
    let figures = [s.time, s.computing, s.moving, s.late, s.own, s.other, s.tail];
    let cells = figures.map(|us| cell(Some(us), 1));
    [rank.rank.to_string()].into_iter().chain(cells).collect()
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
