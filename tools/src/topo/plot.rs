//! The machine as a drawing: GPUs in a ring, switches in the middle, a line for every pair that NVLinks or PCIe join.

use std::f64::consts::TAU;

use svg::Document;
use svg::node::element::{Circle, Line, Rectangle, Text};
use tileweave::probe::Probe;
use tileweave::topology::Topology;

use super::matrix::{label, mark};

const SIZE: f64 = 640.0;
const RING: f64 = 230.0;
const CENTRE: f64 = SIZE / 2.0;

/// Colours by kind of link, told apart in print and by colour-blind eyes too (Okabe and Ito's palette).
const NVLINK: &str = "#009e73";
const SWITCH: &str = "#0072b2";
const PCIE: &str = "#e69f00";
const FAILED: &str = "#d55e00";

fn at(gpu: usize, gpus: usize) -> (f64, f64) {
    let angle = TAU * gpu as f64 / gpus.max(1) as f64 - TAU / 4.0;
    (CENTRE + RING * angle.cos(), CENTRE + RING * angle.sin())
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dashes: &str) -> Line {
    let line = Line::new()
        .set("x1", round(from.0))
        .set("y1", round(from.1))
        .set("x2", round(to.0))
        .set("y2", round(to.1))
        .set("stroke", colour)
        .set("stroke-width", round(width));
    if dashes.is_empty() {
        line
    } else {
        line.set("stroke-dasharray", dashes)
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn text(x: f64, y: f64, size: f64, words: &str) -> Text {
    Text::new(words)
        .set("x", round(x))
        .set("y", round(y))
        .set("font-size", size)
        .set("font-family", "sans-serif")
        .set("text-anchor", "middle")
}

/// Of the two directions of a pair, the worse word.
fn worse(topology: &Topology, probe: Option<&Probe>, a: usize, b: usize) -> &'static str {
    let (one, two) = (mark(topology, probe, a, b), mark(topology, probe, b, a));
    ["no", "untried"]
        .into_iter()
        .find(|word| one == *word || two == *word)
        .unwrap_or("ok")
}

pub fn svg(topology: &Topology, probe: Option<&Probe>) -> String {
    let gpus = topology.gpus.len();
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, SIZE as u32, SIZE as u32 + 40))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        );
    let switched = topology
        .links
        .iter()
        .any(|link| link.nvlink.is_some_and(|path| path.switched));
    for a in 0..gpus {
        for b in a + 1..gpus {
            let Some(link) = topology.link(a, b) else { continue };
            let word = worse(topology, probe, a, b);
            let dashes = match word {
                "no" => "2 6",
                "untried" => "10 4",
                _ => "",
            };
            let (from, to) = (at(a, gpus), at(b, gpus));
            let (colour, width) = match link.nvlink {
                _ if word == "no" => (FAILED, 1.5),
                // Drawn once a GPU, to the switch.
                Some(path) if path.switched => continue,
                Some(path) => (NVLINK, 1.0 + f64::from(path.lanes) / 3.0),
                None => (PCIE, 1.0),
            };
            drawing = drawing.add(line(from, to, colour, width, dashes));
            if link.nvlink.is_some() {
                let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0 - 4.0);
                drawing = drawing.add(text(middle.0, middle.1, 11.0, &label(topology, a, b)));
            }
        }
    }
    for gpu in 0..gpus {
        let peers = || topology.links.iter().filter(|link| link.from == gpu);
        let lanes = peers()
            .filter_map(|link| link.nvlink)
            .filter(|path| path.switched)
            .map(|path| path.lanes)
            .max();
        if let Some(lanes) = lanes {
            let untried = peers().any(|link| worse(topology, probe, gpu, link.to) == "untried");
            let dashes = if untried { "10 4" } else { "" };
            let place = at(gpu, gpus);
            drawing = drawing.add(line(
                place,
                (CENTRE, CENTRE),
                SWITCH,
                1.0 + f64::from(lanes) / 3.0,
                dashes,
            ));
            let middle = ((place.0 + CENTRE) / 2.0, (place.1 + CENTRE) / 2.0 - 6.0);
            drawing = drawing.add(text(middle.0, middle.1, 11.0, &format!("NV{lanes}")));
        }
    }
    if switched {
        let switch = Rectangle::new()
            .set("x", CENTRE - 55.0)
            .set("y", CENTRE - 22.0)
            .set("width", 110)
            .set("height", 44)
            .set("rx", 6)
            .set("fill", "white")
            .set("stroke", SWITCH)
            .set("stroke-width", 2);
        drawing = drawing.add(switch).add(text(CENTRE, CENTRE + 5.0, 14.0, "NVSwitch"));
    }
    for (index, gpu) in topology.gpus.iter().enumerate() {
        let (x, y) = at(index, gpus);
        let body = Circle::new()
            .set("cx", round(x))
            .set("cy", round(y))
            .set("r", 34)
            .set("fill", "#f4f4f4")
            .set("stroke", "black");
        drawing = drawing.add(body).add(text(x, y + 5.0, 14.0, &format!("GPU {index}")));
        drawing = drawing.add(text(x, y + 48.0, 10.0, &gpu.name));
    }
    if gpus == 0 {
        drawing = drawing.add(text(CENTRE, CENTRE, 16.0, "no GPU"));
    }
    let legend = [
        (NVLINK, "NVLink"),
        (SWITCH, "NVLink to a switch"),
        (PCIE, "PCIe"),
        (FAILED, "cannot be used"),
    ];
    for (i, (colour, words)) in legend.into_iter().enumerate() {
        let x = 30.0 + 155.0 * i as f64;
        let y = SIZE + 15.0;
        drawing = drawing.add(line((x, y), (x + 24.0, y), colour, 3.0, ""));
        drawing = drawing.add(text(x + 30.0, y + 4.0, 11.0, words).set("text-anchor", "start"));
    }
    drawing = drawing.add(text(
        CENTRE,
        SIZE + 35.0,
        10.0,
        "solid: tried; long dashes: not tried; dots: failed or absent",
    ));
    format!("{drawing}\n")
}
