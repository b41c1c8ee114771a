//! A timeline as a drawing: a lane for each role of each rank, coloured by what it does, so that one sees what hides what.

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text, Title};
use tileweave::timeline::{Activity, RankTimeline, Role, Timeline, Track};

use super::trace::words;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 940.0;
const LANE: f64 = 16.0;
const GAP: f64 = 10.0;
const TOP: f64 = 64.0;

/// Okabe and Ito's palette, told apart by colour-blind eyes and in print.
const COLOURS: [(&str, &str); 8] = [
    ("math", "#0072b2"),
    ("store", "#56b4e9"),
    ("push", "#009e73"),
    ("wait", "#d55e00"),
    ("reduce", "#e69f00"),
    ("collect", "#f0e442"),
    ("tail", "#cc79a7"),
    ("end", "#000000"),
];

fn colour(activity: Activity) -> &'static str {
    let name = activity.to_string();
    COLOURS
        .iter()
        .find(|(of, _)| *of == name)
        .map_or("#999999", |(_, colour)| *colour)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn text(x: f64, y: f64, size: f64, anchor: &str, words: &str) -> Text {
    Text::new(words)
        .set("x", round(x))
        .set("y", round(y))
        .set("font-size", size)
        .set("font-family", "sans-serif")
        .set("text-anchor", anchor)
}

fn bar(x: (f64, f64), y: f64, height: f64, fill: &str, words: &str) -> Rectangle {
    Rectangle::new()
        .set("x", round(x.0))
        .set("y", round(y))
        .set("width", round(x.1 - x.0))
        .set("height", round(height))
        .set("fill", fill)
        .add(Title::new(words))
}

fn rule(from: (f64, f64), to: (f64, f64), colour: &str) -> Line {
    Line::new()
        .set("x1", round(from.0))
        .set("y1", round(from.1))
        .set("x2", round(to.0))
        .set("y2", round(to.1))
        .set("stroke", colour)
        .set("stroke-width", 0.5)
}

/// The largest of 1, 2 and 5 times a power of ten of which `length` has four at least.
fn step(length: f64) -> f64 {
    let power = 10f64.powf((length.max(1.0) / 4.0).log10().floor());
    let steps = [5.0, 2.0, 1.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| 4.0 * step <= length.max(1.0))
        .unwrap_or(power)
}

/// A role's lane: its life in grey, over it what it did.
fn lane(rank: &RankTimeline, tracks: &[&Track], y: f64, x: &dyn Fn(u64) -> f64) -> Group {
    let mut group = Group::new();
    for track in tracks {
        let kernel = rank.kernels.get(track.kernel).copied().unwrap_or("kernel");
        let name = format!("{kernel}, CTA {}", track.cta);
        group = group.add(bar(
            (x(track.start_ns), x(track.end_ns)),
            y,
            LANE - 2.0,
            "#eeeeee",
            &name,
        ));
        for span in track.spans.iter().filter(|span| span.end_ns > span.start_ns) {
            let lasted = (span.end_ns - span.start_ns) as f64 / 1000.0;
            let name = format!("{}, {lasted:.3} us", words(span));
            let ends = (x(span.start_ns), x(span.end_ns));
            group = group.add(bar(ends, y, LANE - 2.0, colour(span.activity), &name));
        }
    }
    group
}

fn legend(mut drawing: Document) -> Document {
    for (i, (name, colour)) in COLOURS.iter().enumerate() {
        let x = LEFT + 100.0 * i as f64;
        drawing = drawing.add(bar((x, x + 12.0), 30.0, 12.0, colour, name));
        drawing = drawing.add(text(x + 16.0, 40.0, 11.0, "start", name));
    }
    drawing
}

/// The tracks that tell most, of every rank.
pub fn draw(timeline: &Timeline, title: &str) -> Document {
    let end = timeline.end_ns().max(1);
    let x = |ns: u64| LEFT + (RIGHT - LEFT) * ns as f64 / end as f64;
    let mut lanes = Group::new();
    let mut y = TOP;
    for rank in &timeline.ranks {
        let tracks = rank.telling();
        for role in Role::ALL {
            let of_role: Vec<&Track> = tracks.iter().copied().filter(|track| track.role == role).collect();
            // A loader without a wait, and any role without stamps, would be an empty lane.
            if of_role.iter().all(|track| track.spans.is_empty()) {
                continue;
            }
            let name = format!("rank {} {role}", rank.rank);
            lanes = lanes.add(text(LEFT - 6.0, y + LANE - 5.0, 11.0, "end", &name));
            lanes = lanes.add(lane(rank, &of_role, y, &x));
            y += LANE;
        }
        y += GAP;
    }
    let mut drawing = Document::new()
        .set("viewBox", (0, 0, WIDTH as u32, (y + 34.0) as u32))
        .set("width", WIDTH)
        .set("height", round(y + 34.0))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        )
        .add(text(LEFT, 20.0, 14.0, "start", title));
    drawing = legend(drawing);
    let every = step(end as f64);
    for mark in (0..).map(|i| i as f64 * every).take_while(|mark| *mark <= end as f64) {
        let at = x(mark as u64);
        drawing = drawing.add(rule((at, TOP - 4.0), (at, y), "#bbbbbb")).add(text(
            at,
            y + 14.0,
            11.0,
            "middle",
            &format!("{}", mark / 1000.0),
        ));
    }
    let clock = match timeline.one_clock {
        true => "microseconds",
        false => "microseconds of each rank's own clock, from its own kernel's begin",
    };
    drawing.add(lanes).add(text(RIGHT, y + 28.0, 11.0, "end", clock))
}
