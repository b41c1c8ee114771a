//! Drawings: strokes, words, colours, and curves in panels one above the other.

use svg::Document;
use svg::node::element::{Circle, Line, Polyline, Rectangle, Text};

/// Okabe and Ito's palette, told apart by colour-blind eyes too.
pub const VERMILION: &str = "#d55e00";
pub const BLUE: &str = "#0072b2";
pub const GREEN: &str = "#009e73";
pub const ORANGE: &str = "#e69f00";
pub const PURPLE: &str = "#cc79a7";
pub const SKY: &str = "#56b4e9";
pub const BLACK: &str = "#000000";

/// Tenths are enough for a place on a drawing.
pub fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

pub fn text(x: f64, y: f64, size: f64, anchor: &str, words: &str) -> Text {
    Text::new(words)
        .set("x", round(x))
        .set("y", round(y))
        .set("font-size", size)
        .set("font-family", "sans-serif")
        .set("text-anchor", anchor)
}

pub fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", round(from.0))
        .set("y1", round(from.1))
        .set("x2", round(to.0))
        .set("y2", round(to.1))
        .set("stroke", colour)
}

/// The least of 1, 2 and 5 times a power of ten that holds `value`.
pub fn scale(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

/// Points of one kind, the gaps between them bridged by nothing.
pub struct Curve {
    pub name: String,
    pub colour: &'static str,
    pub values: Vec<Option<f64>>,
}

/// What a height stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    Linear {
        least: f64,
        most: f64,
    },
    /// Of powers of ten, from one to the other.
    Powers {
        least: i32,
        most: i32,
    },
}

impl Scale {
    /// Whole powers of ten around all values.
    pub fn of_powers(curves: &[Curve]) -> Scale {
        let values = || {
            curves
                .iter()
                .flat_map(|curve| &curve.values)
                .flatten()
                .filter(|value| **value > 0.0)
        };
        let least = values().copied().fold(f64::INFINITY, f64::min).min(1e9).log10().floor() as i32;
        let most = values().copied().fold(0.0, f64::max).max(1e-9).log10().ceil() as i32;
        Scale::Powers {
            least: least.min(most - 1),
            most,
        }
    }

    /// From 0, the bottom, to 1.
    fn height(self, value: f64) -> f64 {
        let height = match self {
            Scale::Linear { least, most } => (value - least) / (most - least),
            Scale::Powers { least, most } => (value.log10() - f64::from(least)) / f64::from(most - least),
        };
        height.clamp(0.0, 1.0)
    }

    /// Where lines are drawn.
    fn marks(self) -> Vec<f64> {
        match self {
            Scale::Linear { least, most } => (0..=4)
                .map(|part| least + (most - least) * f64::from(part) / 4.0)
                .collect(),
            Scale::Powers { least, most } => (least..=most).map(|power| 10f64.powi(power)).collect(),
        }
    }
}

/// Curves over places that stand as far from each other, whatever they are called.
pub struct Panel {
    pub title: String,
    pub places: Vec<String>,
    pub scale: Scale,
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 640.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 610.0;
/// Of a panel's curves; above it the title, below it places and names.
const HEIGHT: f64 = 200.0;
const TOP: f64 = 70.0;
const BELOW: f64 = 62.0;
/// Names of curves in a line.
const NAMES: usize = 3;
const NAME: f64 = 20.0;

impl Panel {
    fn name_lines(&self) -> f64 {
        self.curves.len().div_ceil(NAMES) as f64
    }

    fn draw(&self, mut drawing: Document, top: f64) -> Document {
        let step = (RIGHT - LEFT) / (self.places.len().max(2) - 1) as f64;
        let x = |at: usize| LEFT + step * at as f64;
        let y = |value: f64| top + HEIGHT * (1.0 - self.scale.height(value));
        drawing = drawing.add(text(LEFT, top - 10.0, 13.0, "start", &self.title));
        for value in self.scale.marks() {
            let words = format!("{}", round(value));
            drawing = drawing
                .add(line((LEFT, y(value)), (RIGHT, y(value)), "#dddddd"))
                .add(text(LEFT - 8.0, y(value) + 4.0, 11.0, "end", &words));
        }
        for (at, place) in self.places.iter().enumerate() {
            drawing = drawing.add(text(x(at), top + HEIGHT + 16.0, 11.0, "middle", place));
        }
        for (at, curve) in self.curves.iter().enumerate() {
            let points: Vec<Option<(f64, f64)>> = curve
                .values
                .iter()
                .enumerate()
                .map(|(at, value)| Some((round(x(at)), round(y((*value)?)))))
                .collect();
            for run in points.split(Option::is_none).filter(|run| !run.is_empty()) {
                let words: Vec<String> = run.iter().flatten().map(|(x, y)| format!("{x},{y}")).collect();
                let drawn = Polyline::new()
                    .set("points", words.join(" "))
                    .set("fill", "none")
                    .set("stroke", curve.colour)
                    .set("stroke-width", 2);
                drawing = drawing.add(drawn);
            }
            for (x, y) in points.iter().flatten() {
                drawing = drawing.add(
                    Circle::new()
                        .set("cx", *x)
                        .set("cy", *y)
                        .set("r", 2.5)
                        .set("fill", curve.colour),
                );
            }
            let place = (
                LEFT + (RIGHT - LEFT) / NAMES as f64 * (at % NAMES) as f64,
                top + HEIGHT + 34.0 + NAME * (at / NAMES) as f64,
            );
            drawing = drawing
                .add(line(place, (place.0 + 20.0, place.1), curve.colour).set("stroke-width", 3))
                .add(text(place.0 + 26.0, place.1 + 4.0, 11.0, "start", &curve.name));
        }
        drawing
    }
}

/// Panels one above the other, below a title.
pub fn drawing(title: &str, panels: &[Panel]) -> String {
    let of = |panel: &Panel| HEIGHT + BELOW + NAME * panel.name_lines();
    let height = TOP + panels.iter().map(of).sum::<f64>() - NAME;
    let background = Rectangle::new()
        .set("width", "100%")
        .set("height", "100%")
        .set("fill", "white");
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, WIDTH as u32, height as u32))
        .add(background)
        .add(text(WIDTH / 2.0, 24.0, 15.0, "middle", title));
    let mut top = TOP;
    for panel in panels {
        drawing = panel.draw(drawing, top);
        top += of(panel);
    }
    format!("{drawing}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(values: &[Option<f64>]) -> Curve {
        Curve {
            name: "a".into(),
            colour: BLUE,
            values: values.to_vec(),
        }
    }

    #[test]
    fn scales_hold_what_is_drawn() {
        assert_eq!([scale(7.0), scale(20.0), scale(0.3)], [10.0, 20.0, 0.5]);
        let powers = Scale::of_powers(&[curve(&[Some(6.5), None, Some(1200.0)])]);
        assert_eq!(powers, Scale::Powers { least: 0, most: 4 });
        assert_eq!(powers.height(100.0), 0.5);
        assert_eq!(
            Scale::of_powers(&[curve(&[Some(10.0)])]),
            Scale::Powers { least: 0, most: 1 }
        );
        assert_eq!(
            Scale::Linear {
                least: -50.0,
                most: 100.0
            }
            .height(25.0),
            0.5
        );
    }

    #[test]
    fn a_gap_is_a_gap() {
        let panel = Panel {
            title: "t".into(),
            places: ["1", "2", "3", "4"].map(String::from).to_vec(),
            scale: Scale::Linear { least: 0.0, most: 1.0 },
            curves: vec![curve(&[Some(0.0), Some(1.0), None, Some(0.5)])],
        };
        let drawn = drawing("all", &[panel]);
        assert_eq!(drawn.matches("<polyline").count(), 2, "{drawn}");
        assert!(drawn.contains("70,270 250,70"), "{drawn}");
        assert_eq!(drawn.matches("<circle").count(), 3, "{drawn}");
    }
}
