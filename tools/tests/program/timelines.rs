//! `run --trace` and `--plot`: traces parse and nest, drawings show every rank.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::{Folder, run};

/// A slice, in nanoseconds as a reader gets them that cuts off what is below one.
#[derive(Debug, Clone)]
struct Slice {
    category: String,
    name: String,
    start: u64,
    end: u64,
}

/// What a trace shows on each track, (rank, thread), and what each is called.
struct Trace {
    tracks: BTreeMap<(u64, u64), Vec<Slice>>,
    names: BTreeMap<(u64, u64), String>,
    ranks: BTreeSet<String>,
}

impl Trace {
    fn read(path: &Path) -> Trace {
        let text = std::fs::read_to_string(path).expect("the program wrote it");
        let all: Value = serde_json::from_str(&text).expect("one JSON object");
        let mut trace = Trace {
            tracks: BTreeMap::new(),
            names: BTreeMap::new(),
            ranks: BTreeSet::new(),
        };
        for event in all["traceEvents"].as_array().expect("events") {
            let number = |name: &str| event[name].as_u64().unwrap_or_else(|| panic!("{name} of {event}"));
            let word = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{event}")).to_string();
            let track = (number("pid"), number("tid"));
            match (word(&event["ph"]).as_str(), word(&event["name"]).as_str()) {
                ("M", "thread_name") => drop(trace.names.insert(track, word(&event["args"]["name"]))),
                ("M", "process_name") => drop(trace.ranks.insert(word(&event["args"]["name"]))),
                ("M", _) => {}
                ("X", name) => {
                    let ns = |name: &str| (event[name].as_f64().unwrap_or_else(|| panic!("{event}")) * 1000.0) as u64;
                    assert!(event["dur"].as_f64() >= Some(0.0), "{event}");
                    trace.tracks.entry(track).or_default().push(Slice {
                        category: word(&event["cat"]),
                        name: name.to_string(),
                        start: ns("ts"),
                        end: ns("ts") + ns("dur"),
                    });
                }
                _ => panic!("{event}"),
            }
        }
        trace
    }

    /// Every slice ends before the next begins, or lies in it whole.
    fn nests(&self) {
        for (track, slices) in &self.tracks {
            assert!(self.names.contains_key(track), "{track:?} has no name");
            let mut around: Vec<&Slice> = Vec::new();
            for slice in slices {
                around.retain(|outer| {
                    outer.end > slice.start || (outer.end == slice.start && outer.category == "kernel")
                });
                for outer in &around {
                    assert!(
                        outer.start <= slice.start && slice.end <= outer.end,
                        "{track:?}: {slice:?} in {outer:?}"
                    );
                }
                assert!(around.len() <= 1, "{track:?}: {slice:?} in {around:?}");
                around.push(slice);
            }
        }
    }

    fn categories(&self) -> BTreeSet<&str> {
        let slices = self.tracks.values().flatten();
        slices.map(|slice| slice.category.as_str()).collect()
    }
}

#[test]
fn traces_parse_and_nest() {
    let folder = Folder::new("traces");
    let hopper = "--mainloop hopper --m 1100 --n 384 --k 768 --route fused";
    for (name, words, roles, categories) in [
        (
            "portable",
            "--op gemm-all-reduce --mainloop portable --m 600 --route fused",
            &["CTA"][..],
            &["math", "push", "wait", "reduce", "collect", "end"][..],
        ),
        (
            "scatter",
            &format!("--op gemm-reduce-scatter {hopper}"),
            &["storer", "communicator", "math", "CTA"],
            &["math", "store", "push", "wait", "reduce", "end"],
        ),
        (
            "gather",
            &format!("--op all-gather-gemm {hopper}"),
            &["loader", "storer", "communicator", "math"],
            &["math", "store", "push", "wait"],
        ),
        (
            "unfused",
            "--op gemm-all-reduce --mainloop portable --m 600 --route unfused",
            &["CTA"],
            &["math", "store", "push", "wait", "reduce", "collect", "end"],
        ),
    ] {
        let (json, svg) = (
            folder.file(&format!("{name}.json")),
            folder.file(&format!("{name}.svg")),
        );
        let files = format!("--trace {} --plot {}", json.display(), svg.display());
        run(&format!("{words} --ranks 3 {files}")).done();
        let trace = Trace::read(&json);
        trace.nests();
        assert_eq!(
            trace.ranks.iter().collect::<Vec<_>>(),
            ["rank 0", "rank 1", "rank 2"],
            "{name}"
        );
        for rank in 0..3 {
            let named = trace.names.iter().filter(|((pid, _), _)| *pid == rank);
            let named: BTreeSet<&str> = named.map(|(_, name)| name.as_str()).collect();
            assert_eq!(named, roles.iter().copied().collect(), "{name}");
        }
        let expected: BTreeSet<&str> = categories.iter().copied().chain(["kernel"]).collect();
        let found = trace.categories();
        // Which CTA is the last out is chance.
        let but_for_the_end = |all: &BTreeSet<&str>| {
            all.iter()
                .filter(|of| **of != "end")
                .map(|of| of.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(but_for_the_end(&found), but_for_the_end(&expected), "{name}");
        let kernels = trace.tracks[&(0, trace.names.keys().find(|key| key.0 == 0).expect("a track").1)].iter();
        let kernels = kernels.filter(|slice| slice.category == "kernel").count();
        assert_eq!(kernels, if name == "unfused" { 2 } else { 1 }, "{name}");
        let drawing = std::fs::read_to_string(&svg).expect("the program wrote it");
        assert!(drawing.starts_with("<svg") && drawing.contains("rank 2"), "{name}");
        for role in roles {
            // A loader that found everything in time has an empty lane, which is not drawn.
            assert!(
                *role == "loader" || drawing.contains(&format!("rank 0 {role}")),
                "{name}: {role}"
            );
        }
    }
}

/// Every CTA has a track for each of its roles.
#[test]
fn a_trace_of_all_ctas() {
    let folder = Folder::new("all-ctas");
    let file = folder.file("t.json");
    let words = "--op gemm-reduce-scatter --mainloop portable --m 600 --ranks 2 --route fused";
    run(&format!("{words} --trace {} --all-ctas", file.display())).done();
    let trace = Trace::read(&file);
    trace.nests();
    let ctas = trace.names.iter().filter(|((rank, _), _)| *rank == 0).count();
    assert!(ctas > 1, "{ctas} CTAs");
    assert!(
        trace.names.values().any(|name| name == "CTA 1 CTA"),
        "{:?}",
        trace.names
    );
    let math = trace
        .tracks
        .iter()
        .filter(|((rank, _), _)| *rank == 0)
        .flat_map(|(_, slices)| slices);
    let blocks: BTreeSet<&str> = math
        .filter(|slice| slice.category == "math")
        .map(|slice| slice.name.as_str())
        .collect();
    assert_eq!(blocks.len(), 600usize.div_ceil(2).div_ceil(64) * 2 * 512 / 64);
}

#[test]
fn files_that_cannot_be_are_refused_first() {
    for (words, expected) in [
        ("--plot t.png", "a file that ends in .svg"),
        ("--trace /nowhere/t.json", "a file in a folder that exists"),
        ("--trace one.svg --plot one.svg", "name one file"),
        ("--all-ctas", "--trace with it"),
        ("--trace t.json --processes", "threads of one process"),
    ] {
        let error = run(words).failed(2, "bad_input");
        assert!(error["message"].to_string().contains(expected), "{words}: {error}");
    }
}
