//! Throughput and memory over the degree, as a drawing: one panel above the other.

use svg::Document;
use svg::node::element::{Line, Polyline, Rectangle, Text};

use super::Report;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 610.0;
const PANEL: f64 = 200.0;

/// Okabe and Ito's palette, told apart by colour-blind eyes too.
const UNFUSED: &str = "#d55e00";
const FUSED: &str = "#0072b2";
const WEIGHTS: &str = "#009e73";
const ACTIVATIONS: &str = "#e69f00";
const SEQUENCE: &str = "#cc79a7";

struct Curve {
    name: &'static str,
    colour: &'static str,
    values: Vec<f64>,
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn text(x: f64, y: f64, size: f64, anchor: &str, words: &str) -> Text {
    Text::new(words)
        .set("x", round(x))
        .set("y", round(y))
        .set("font-size", size)
        .set("font-family", "sans-serif")
        .set("text-anchor", anchor)
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", round(from.0))
        .set("y1", round(from.1))
        .set("x2", round(to.0))
        .set("y2", round(to.1))
        .set("stroke", colour)
}

/// The least of 1, 2 and 5 times a power of ten that holds `value`.
fn scale(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

fn panel(mut drawing: Document, top: f64, title: &str, degrees: &[String], most: f64, curves: &[Curve]) -> Document {
    let step = (RIGHT - LEFT) / (degrees.len().max(2) - 1) as f64;
    let x = |at: usize| LEFT + step * at as f64;
    let y = |value: f64| top + PANEL * (1.0 - (value / most).min(1.0));
    drawing = drawing.add(text(LEFT, top - 10.0, 13.0, "start", title));
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        drawing = drawing
            .add(line((LEFT, y(value)), (RIGHT, y(value)), "#dddddd"))
            .add(text(
                LEFT - 8.0,
                y(value) + 4.0,
                11.0,
                "end",
                &format!("{}", round(value)),
            ));
    }
    for (at, degree) in degrees.iter().enumerate() {
        drawing = drawing.add(text(x(at), top + PANEL + 16.0, 11.0, "middle", degree));
    }
    for (at, curve) in curves.iter().enumerate() {
        let points = curve.values.iter().enumerate();
        let points: Vec<String> = points
            .map(|(at, value)| format!("{},{}", round(x(at)), round(y(*value))))
            .collect();
        let drawn = Polyline::new()
            .set("points", points.join(" "))
            .set("fill", "none")
            .set("stroke", curve.colour)
            .set("stroke-width", 2);
        let place = (LEFT + 130.0 * at as f64, top + PANEL + 34.0);
        drawing = drawing
            .add(drawn)
            .add(line(place, (place.0 + 20.0, place.1), curve.colour).set("stroke-width", 3))
            .add(text(place.0 + 26.0, place.1 + 4.0, 11.0, "start", curve.name));
    }
    drawing
}

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
    let curve = |name, colour, values| Curve { name, colour, values };
    let throughput = [
        curve("unfused", UNFUSED, percent(|layer| layer.unfused)),
        curve("fused", FUSED, percent(|layer| layer.fused)),
    ];
    let memory = [
        curve("weights", WEIGHTS, gb(|memory| memory.weights)),
        curve("activations", ACTIVATIONS, gb(|memory| memory.activations)),
        curve("the same with SP", SEQUENCE, gb(|memory| memory.activations_sequence)),
    ];
    let most = |curves: &[Curve]| scale(curves.iter().flat_map(|c| &c.values).copied().fold(0.0, f64::max));
    let degrees: Vec<String> = report.rows.iter().map(|row| format!("TP {}", row.tp)).collect();
    let title = format!(
        "{} on {}, {} sequences of {} tokens [predicted]",
        report.model.label, report.node.name, report.batch, report.seq
    );
    let background = Rectangle::new()
        .set("width", "100%")
        .set("height", "100%")
        .set("fill", "white");
    let drawing = Document::new()
        .set("viewBox", (0, 0, WIDTH as u32, 600))
        .add(background)
        .add(text(WIDTH / 2.0, 24.0, 15.0, "middle", &title));
    let of_one = most(&throughput).max(100.0);
    let drawing = panel(
        drawing,
        70.0,
        "throughput of a GPU, % of one alone",
        &degrees,
        of_one,
        &throughput,
    );
    let drawing = panel(drawing, 350.0, "memory of a GPU, GB", &degrees, most(&memory), &memory);
    format!("{drawing}\n")
}
