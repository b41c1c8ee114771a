//! Overlap against M, and of the collectives alone time against size: a panel for each operation and number of ranks.

use std::collections::BTreeSet;

use super::cases::Case;
use super::{Report, Times};
use crate::draw::{BLACK, BLUE, Curve, GREEN, ORANGE, PURPLE, Panel, SKY, Scale, VERMILION, drawing};

const COLOURS: [&str; 7] = [BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK];

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

pub fn svg(report: &Report) -> String {
    let mut panels = Vec::new();
    let mut done = BTreeSet::new();
    for (case, _) in &report.rows {
        let (op, ranks) = match case {
            Case::Gemm(case) => (case.op.name(), case.ranks),
            Case::Message(case) => (case.op.name(), case.ranks),
        };
        if done.insert((op, ranks)) {
            panels.push(match case {
                Case::Gemm(_) => overlap(report, op, ranks),
                Case::Message(_) => time(report, op, ranks),
            });
        }
    }
    let title = format!("{} [{}]", report.node, report.kind);
    drawing(&title, &panels)
}

/// Overlap of every layer over M.
fn overlap(report: &Report, op: &str, ranks: usize) -> Panel {
    let gemms = || {
        report.rows.iter().filter_map(|row| match row {
            (Case::Gemm(case), Times::Gemm(times)) if (case.op.name(), case.ranks) == (op, ranks) => {
                Some((case, times))
            }
            _ => None,
        })
    };
    let rows: BTreeSet<usize> = gemms().map(|(case, _)| case.m).collect();
    let mut layers: Vec<&str> = Vec::new();
    for (case, _) in gemms() {
        if !layers.contains(&case.of.as_str()) {
            layers.push(&case.of);
        }
    }
    let value = |layer: &str, m: usize| {
        let found = gemms().find(|(case, _)| (case.of.as_str(), case.m) == (layer, m));
        found.and_then(|(_, times)| times.overlap)
    };
    let curve = |(at, layer): (usize, &&str)| Curve {
        name: layer.to_string(),
        colour: colour(at),
        values: rows.iter().map(|m| value(layer, *m)).collect(),
    };
    let curves: Vec<Curve> = layers.iter().enumerate().map(curve).collect();
    let least = curves
        .iter()
        .flat_map(|curve| &curve.values)
        .flatten()
        .copied()
        .fold(0.0, f64::min);
    Panel {
        title: format!("{op}, {ranks} ranks: overlap, % of the communication, over M"),
        places: rows.iter().map(usize::to_string).collect(),
        scale: Scale::Linear {
            least: (least / 50.0).floor() * 50.0,
            most: 100.0,
        },
        curves,
    }
}

fn time(report: &Report, op: &str, ranks: usize) -> Panel {
    let messages: Vec<_> = report
        .rows
        .iter()
        .filter_map(|row| match row {
            (Case::Message(case), Times::Message(times)) if (case.op.name(), case.ranks) == (op, ranks) => {
                Some((case.bytes, times))
            }
            _ => None,
        })
        .collect();
    let curve = |name: &str, at: usize, of: fn(&super::MessageTimes) -> Option<f64>| Curve {
        name: name.into(),
        colour: colour(at),
        values: messages.iter().map(|(_, times)| of(times)).collect(),
    };
    let curves = vec![
        curve("ours", 0, |times| Some(times.p2p)),
        curve("NCCL", 1, |times| times.nccl),
        curve("ours, in the switch", 2, |times| times.multicast),
    ];
    Panel {
        title: format!("{op} alone, {ranks} ranks: microseconds over bytes"),
        places: messages.iter().map(|(bytes, _)| size(*bytes)).collect(),
        scale: Scale::of_powers(&curves),
        curves,
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} Mi", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} Ki", b >> 10),
        b => b.to_string(),
    }
}
