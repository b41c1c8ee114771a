//! `tileweave overlap`: rows, drawings, and what bad words get. Small shapes: on a described machine's clock they take
//! milliseconds.

use std::path::PathBuf;

use serde_json::Value;

use super::{Ended, tileweave};

const SMALL: &str = "--shape 256,256,128 --ranks 2";

fn overlap(words: &str) -> Ended {
    tileweave(&format!("overlap --json {words}"))
}

fn rows(report: &Value) -> &Vec<Value> {
    assert_eq!(report.as_object().map(|fields| fields.len()), Some(1), "{report}");
    report["rows"].as_array().expect("rows")
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} of {row}"))
}

fn fields(row: &Value) -> Vec<&str> {
    let fields = row.as_object().expect("an object");
    fields.keys().map(String::as_str).collect()
}

/// A file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let name = format!("overlap-{}-{name}", std::process::id());
        File(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn rows_are_the_contract() {
    let report = overlap(SMALL).done();
    let ops: Vec<&str> = rows(&report).iter().filter_map(|row| row["op"].as_str()).collect();
    assert_eq!(ops, ["gemm-reduce-scatter", "gemm-all-reduce", "all-gather-gemm"]);
    for row in rows(&report) {
        let expected = [
            "auto_ms",
            "auto_route",
            "dtype",
            "fused_ms",
            "gemm_ms",
            "k_local",
            "kind",
            "m",
            "n_local",
            "nccl_ms",
            "node",
            "op",
            "overlap_pct",
            "ranks",
            "speedup",
            "unfused_ms",
        ];
        assert_eq!(fields(row), expected, "{row}");
        assert_eq!(
            (&row["node"], &row["dtype"], &row["kind"]),
            (&"h100x8".into(), &"bf16".into(), &"predicted".into())
        );
        assert_eq!(
            ["m", "n_local", "k_local", "ranks"].map(|field| row[field].as_u64()),
            [256, 256, 128, 2].map(Some)
        );
        let [gemm, unfused, nccl, fused] =
            ["gemm_ms", "unfused_ms", "nccl_ms", "fused_ms"].map(|field| number(row, field));
        assert!(gemm > 0.0 && fused > 0.0 && unfused > 0.0 && nccl > gemm, "{row}");
        assert!((number(row, "speedup") * fused / unfused - 1.0).abs() < 1e-9, "{row}");
        if let Some(overlap) = row["overlap_pct"].as_f64() {
            let expected = 100.0 * (1.0 - (fused - gemm) / (unfused - gemm));
            assert!((overlap - expected).abs() < 1e-6, "{row}");
        }
        let auto = match row["auto_route"].as_str() {
            Some("fused") => fused,
            Some("unfused") => unfused,
            Some("nccl" | "decline") => nccl,
            other => panic!("{other:?}: {row}"),
        };
        assert_eq!(number(row, "auto_ms"), auto, "{row}");
    }
}

#[test]
fn one_rank_has_no_communication() {
    let report = overlap("--shape 256,128,128 --ranks 1").done();
    for row in rows(&report) {
        assert!(row["overlap_pct"].is_null() && row["nccl_ms"].is_null(), "{row}");
        assert_eq!(row["auto_route"], "fused", "{row}");
    }
    let report = overlap("--op all-reduce --bytes 4096 --ranks 1").done();
    assert!(
        rows(&report)[0]["nccl_us"].is_null() && rows(&report)[0]["multicast_us"].is_null(),
        "{report}"
    );
}

#[test]
fn messages_have_rows_of_their_own() {
    let report = overlap("--op all-reduce --op all-gather --bytes 2048,65536 --ranks 2,4").done();
    assert_eq!(rows(&report).len(), 8);
    for row in rows(&report) {
        let expected = [
            "bytes",
            "kind",
            "multicast_us",
            "nccl_us",
            "node",
            "op",
            "p2p_us",
            "ranks",
        ];
        assert_eq!(fields(row), expected, "{row}");
        assert!(number(row, "p2p_us") > 0.0 && number(row, "nccl_us") > 0.0, "{row}");
        // The switch adds all-reduces.
        assert_eq!(row["multicast_us"].is_number(), row["op"] == "all-reduce", "{row}");
    }
    // A switch of the second generation adds nothing.
    let report = overlap("--node a100x8 --op all-reduce --bytes 2048 --ranks 2").done();
    assert!(rows(&report)[0]["multicast_us"].is_null(), "{report}");
    // --bytes alone means the all-reduce.
    assert_eq!(rows(&overlap("--bytes 2048 --ranks 2").done())[0]["op"], "all-reduce");
}

#[test]
fn the_table_has_the_same_rows() {
    let ended = tileweave(&format!("overlap --op gemm-all-reduce --node h800x8 {SMALL}"));
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in [
        "h800x8, bf16 [predicted]",
        "gemm ms",
        "NCCL",
        "overlap %",
        "gemm-all-reduce",
        "speedup: unfused / fused",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    assert!(ended.stderr.is_empty(), "nobody watches: {}", ended.stderr);
}

#[test]
fn drawings_are_svg_or_png() {
    let (svg, png) = (File::new("a.svg"), File::new("b.png"));
    let ops = "--op gemm-reduce-scatter --op all-gather-gemm";
    overlap(&format!("{ops} {SMALL} --plot {}", svg.0.display())).done();
    let text = std::fs::read_to_string(&svg.0).expect("the drawing");
    for part in [
        "<svg",
        "gemm-reduce-scatter, 2 ranks: overlap",
        "all-gather-gemm, 2 ranks",
        "h100x8 [predicted]",
        "256",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    overlap(&format!("--bytes 2048,8192 --ranks 2 --plot {}", png.0.display())).done();
    let bytes = std::fs::read(&png.0).expect("the drawing");
    assert!(
        bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() > 1000,
        "{}",
        bytes.len()
    );
}

/// Of one case: what hides what, as a trace, as a drawing and in figures that add up.
#[test]
fn one_case_has_a_timeline() {
    let (trace, svg) = (File::new("c.json"), File::new("d.svg"));
    let words = format!("--trace {} --plot {}", trace.0.display(), svg.0.display());
    let report = overlap(&format!("--op gemm-reduce-scatter {SMALL} {words}")).done();
    let ranks = report["timeline"]["ranks"].as_array().expect("ranks");
    assert_eq!(ranks.len(), 2, "{report}");
    for rank in ranks {
        let parts = [
            "computing_us",
            "moving_us",
            "waiting_for_others_us",
            "waiting_for_own_us",
            "other_us",
        ];
        let sum: f64 = parts.map(|part| number(rank, part)).iter().sum();
        assert!((sum / number(rank, "time_us") - 1.0).abs() < 1e-6, "{rank}");
        assert!(number(rank, "computing_us") > 0.0, "{rank}");
        // The kernel is a part of what events enclose.
        assert!(
            number(rank, "time_us") < 1e3 * 1.05 * number(&report["rows"][0], "fused_ms"),
            "{report}"
        );
    }
    let text = std::fs::read(&trace.0).expect("the trace");
    let events: Value = serde_json::from_slice(&text).expect("the trace is JSON");
    let events = events["traceEvents"].as_array().or(events.as_array()).expect("events");
    assert!(events.iter().any(|event| event["ph"] == "X"), "{events:?}");
    let drawn = std::fs::read_to_string(&svg.0).expect("the drawing");
    assert!(
        drawn.contains("gemm-reduce-scatter 256x256x128, P=2 on h100x8 [predicted]"),
        "{drawn}"
    );
    // A sweep with a trace: of its first case.
    let report = overlap(&format!("{SMALL} --trace {}", trace.0.display())).done();
    assert_eq!(report["timeline"]["case"], "gemm-reduce-scatter 256x256x128, P=2");
    assert_eq!(report["rows"].as_array().map(Vec::len), Some(3));
    let one = svg.0.display();
    overlap(&format!("{SMALL} --trace {one} --plot {one}")).failed(2, "bad_input");
    overlap(&format!("--bytes 64 --trace {one}")).failed(2, "bad_input");
}

/// The same words, the same figures; other words for the same machine, too.
#[test]
fn predictions_repeat() {
    let one = overlap(&format!("--op gemm-reduce-scatter {SMALL} --seed 3"));
    assert_eq!(
        one.stdout,
        overlap(&format!("--node h100x8 --op gemm-reduce-scatter {SMALL} --seed 3")).stdout
    );
    // Beside other cases, on other threads.
    let beside = overlap(&format!("{SMALL} --seed 3")).done();
    assert_eq!(rows(&beside)[0], rows(&one.done())[0]);
    let sizes = "--bytes 2048,65536 --ranks 2";
    assert_eq!(overlap(sizes).stdout, overlap(sizes).stdout);
}

/// What a described machine is counts: an H800 has less of NVLink, an A100 other tensor cores.
#[test]
fn machines_differ() {
    let at = |node: &str| {
        let report = overlap(&format!(
            "--node {node} --op gemm-all-reduce --shape 2048,1024,256 --ranks 4"
        ))
        .done();
        rows(&report)[0].clone()
    };
    let (h100, h800, a100) = (at("h100x8"), at("h800x8"), at("a100x8"));
    let same = number(&h100, "gemm_ms") / number(&h800, "gemm_ms");
    assert!((0.95..1.05).contains(&same), "{h100} {h800}");
    for column in ["unfused_ms", "nccl_ms"] {
        assert!(number(&h800, column) > number(&h100, column), "{column}: {h800} {h100}");
    }
    assert!(number(&a100, "gemm_ms") > number(&h100, "gemm_ms"), "{a100} {h100}");
}

#[test]
fn bad_words_name_what_would_be_right() {
    for (words, parts) in [
        ("--node h100x16", ["--node", "h100x16", "h100x8, h200x8"]),
        ("--node none.json", ["--node", "none.json", "can be read"]),
        ("--model llama9", ["--model", "llama9", "llama3-70b"]),
        ("--op gemm", ["--op", "gemm", "gemm-all-reduce"]),
        ("--shape 128,256", ["--shape", "128,256", "M,N,K"]),
        ("--shape 128,256,0", ["--shape", "128,256,0", "M,N,K"]),
        ("--shape 128,256,x", ["--shape", "128,256,x", "M,N,K"]),
        ("--m 0", ["--m", "0", "from 1"]),
        ("--m 128,-1", ["--m", "-1", "from 1"]),
        ("--bytes 0", ["--bytes", "0", "from 1"]),
        ("--ranks 9", ["--ranks", "9", "8 GPUs of h100x8"]),
        ("--node h100x4 --ranks 2,8", ["--ranks", "8", "4 GPUs of h100x4"]),
        ("--ranks 17", ["--ranks", "17", "1 to 16"]),
        ("--plot a.jpg", ["--plot", "a.jpg", ".svg or .png"]),
        ("--plot plot", ["--plot", "plot", ".svg or .png"]),
        ("--plot /nonexistent/a.svg", ["--plot", "/nonexistent/a.svg", "folder"]),
        (
            "--op gemm-all-reduce --bytes 4096",
            ["--op", "gemm-all-reduce", "all-gather with --bytes"],
        ),
        ("--op all-reduce --m 128", ["--op", "all-reduce", "--bytes"]),
        ("--shape 1,2,3 --m 4", ["--shape", "--m", "cannot be used"]),
        ("--node h100x8 --device cuda", ["--node", "--device", "cannot be used"]),
        ("--seed -1", ["--seed", "-1", "from 0"]),
    ] {
        let error = overlap(words).failed(2, "bad_input");
        let message = error["message"].as_str().expect("a message");
        for part in parts {
            assert!(message.contains(part), "`{words}`: {message} lacks {part}");
        }
    }
}

/// A machine of the user's own; and one that cannot be.
#[test]
fn a_file_describes_a_machine() {
    let text = include_str!("../../../src/machines/h100x8.json").replace("\"h100x8\"", "\"ours\"");
    let file = File::new("ours.json");
    std::fs::write(&file.0, &text).expect("a file");
    let words = format!("{SMALL} --op gemm-reduce-scatter --node {}", file.0.display());
    let (ours, named) = (
        overlap(&words).done(),
        overlap(&format!("{SMALL} --op gemm-reduce-scatter")).done(),
    );
    assert_eq!(rows(&ours)[0]["node"], "ours");
    assert_eq!(rows(&ours)[0]["fused_ms"], rows(&named)[0]["fused_ms"]);
    let explored = tileweave(&format!("explore --json --max-tp 2 --node {}", file.0.display())).done();
    assert_eq!(explored["node"], "ours");

    for (old, new, part) in [
        (
            "\"achieved_gb_per_s\": {\"value\": 360.0",
            "\"achieved_gb_per_s\": {\"value\": 0.0",
            "link.achieved_gb_per_s",
        ),
        ("\"sms\"", "\"sns\"", "compute.sns"),
        ("\"name\"", "name", "machine description"),
    ] {
        assert!(text.contains(old), "{old}");
        std::fs::write(&file.0, text.replacen(old, new, 1)).expect("a file");
        let error = overlap(&words).failed(2, "bad_input");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("--node") && message.contains(part), "{message}");
    }
}

/// Without a GPU that is exit 4; with one this test has nothing to see.
#[test]
fn measuring_needs_a_gpu() {
    let ended = overlap("--device cuda --shape 256,256,128 --ranks 2 --op gemm-all-reduce");
    if ended.code != 0 {
        ended.failed(4, "unavailable");
    }
}
