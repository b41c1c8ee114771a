//! Throughput and memory over the degree, as a drawing: one panel above the other.

use super::Report;
use crate::draw::{BLUE, Curve, GREEN, ORANGE, PURPLE, Panel, Scale, VERMILION, drawing, scale};

const UNFUSED: &str = VERMILION;
const FUSED: &str = BLUE;
const WEIGHTS: &str = GREEN;
const ACTIVATIONS: &str = ORANGE;
const SEQUENCE: &str = PURPLE;

pub fn svg(report: &Report) -> String {
    let percent = |of: fn(&super::time::Layer) -> f64| {
        let rows = report.rows.iter();
        rows.map(|row| 100.0 * report.efficiency(row, of)).collect::<Vec<f64>>()
    };
    let gb = |of: fn(&super::Memory) -> f64| {
        report
            .rows
            .iter()
            .map(|row| of(&row.memory) / 1e9)
            .collect::<Vec<f64>>()
    };
    let curve = |name: &str, colour, values: Vec<f64>| Curve {
        name: name.into(),
        colour,
        values: values.into_iter().map(Some).collect(),
    };
    let throughput = [
        curve("unfused", UNFUSED, percent(|layer| layer.unfused)),
        curve("fused", FUSED, percent(|layer| layer.fused)),
    ];
    let memory = [
        curve("weights", WEIGHTS, gb(|memory| memory.weights)),
        curve("activations", ACTIVATIONS, gb(|memory| memory.activations)),
        curve("the same with SP", SEQUENCE, gb(|memory| memory.activations_sequence)),
    ];
    let most = |curves: &[Curve]| {
        scale(
            curves
                .iter()
                .flat_map(|c| &c.values)
                .flatten()
                .copied()
                .fold(0.0, f64::max),
        )
    };
    let degrees: Vec<String> = report.rows.iter().map(|row| format!("TP {}", row.tp)).collect();
    let title = format!(
        "{} on {}, {} sequences of {} tokens [predicted]",
        report.model.label, report.node.name, report.batch, report.seq
    );
    let panel = |title: &str, most: f64, curves: Vec<Curve>| Panel {
        title: title.into(),
        places: degrees.clone(),
        scale: Scale::Linear { least: 0.0, most },
        curves,
    };
    let of_one = most(&throughput).max(100.0);
    let of_gpu = most(&memory);
    let panels = [
        panel("throughput of a GPU, % of one alone", of_one, throughput.into()),
        panel("memory of a GPU, GB", of_gpu, memory.into()),
    ];
    drawing(&title, &panels)
}
