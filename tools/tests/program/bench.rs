//! The program's GPU table on the simulated node: every launch of it, on small sizes and without a clock.

use serde_json::Value;

use super::tileweave;

fn bench(words: &str) -> super::Ended {
    tileweave(&format!("bench-gpu --device sim --samples 1 --json {words}"))
}

#[test]
fn every_part_runs_and_nothing_is_called_measured() {
    let report = bench("").done();
    let rows = |part: &str| {
        report[part]
            .as_array()
            .unwrap_or_else(|| panic!("{part}: {report}"))
            .clone()
    };
    assert_eq!(
        [rows("gemm"), rows("small"), rows("latency"), rows("fused")].map(|r| r.len()),
        [2, 4, 1, 6]
    );
    assert_eq!(rows("missing"), Vec::<Value>::new(), "{report}");
    for row in rows("gemm").iter().chain(&rows("small")) {
        assert!(
            row["kernel"]
                .as_str()
                .is_some_and(|name| name.starts_with("gemm_bf16_")),
            "{row}"
        );
        for figure in ["ours_ms", "cublaslt_ms", "ours_tflops", "cublaslt_tflops", "speed"] {
            assert!(row[figure].is_null(), "{figure}: {row}");
        }
    }
    for row in rows("fused") {
        let operation = row["op"].as_str().expect("a name");
        let family = operation
            .replace("gemm-reduce-scatter", "gemm_rs")
            .replace("gemm-all-reduce", "gemm_ar");
        let family = family.replace("all-gather-gemm", "ag_gemm");
        assert!(
            row["kernel"].as_str().is_some_and(|name| name.starts_with(&family)),
            "{row}"
        );
        assert!(row["fused_ms"].is_null() && row["overlap_pct"].is_null(), "{row}");
        // Both variants of the all-reduce ran.
        let reducers = if operation == "gemm-all-reduce" {
            2.into()
        } else {
            Value::Null
        };
        assert_eq!(row["reducers"], reducers, "{row}");
    }
    assert!(report["latency"][0]["us"].is_null());
    for target in rows("targets") {
        assert!(target["met"].is_null() && target["value"].is_null(), "{target}");
    }
    let conditions = &report["conditions"];
    assert_eq!(
        (&conditions["seen_on"], &conditions["samples"]),
        (&"[sim]".into(), &1.into())
    );
    for library in ["cublaslt", "nccl"] {
        let reason = &conditions[format!("{library}_missing_because")];
        assert!(
            reason.is_string() && conditions[library].is_null(),
            "{library}: {conditions}"
        );
    }
}

#[test]
fn the_portable_mainloop_can_be_asked_for() {
    let report = bench("--parts gemm --case square --mainloop portable").done();
    let rows = report["gemm"].as_array().expect("rows");
    assert_eq!(rows.len(), 1);
    assert!(
        rows[0]["kernel"].as_str().is_some_and(|name| !name.ends_with("sm90")),
        "{}",
        rows[0]
    );
}

/// So that they can be compared on a GPU: plain and fused, by kernels of their own.
#[test]
fn blocks_can_be_asked_for() {
    let kernels = |words: &str| {
        let report = bench(&format!("--parts gemm,fused --case tiny {words}")).done();
        let rows = |part: &str| report[part].as_array().expect("rows").clone();
        assert_eq!((rows("gemm").len(), rows("fused").len()), (2, 6), "{report}");
        let all = [rows("gemm"), rows("fused")].concat();
        let name = |row: &Value| row["kernel"].as_str().expect("a name").to_string();
        all.iter().map(name).collect::<Vec<_>>()
    };
    let (small, wide) = (
        kernels("--columns 128 --pairs false"),
        kernels("--columns 256 --pairs true"),
    );
    assert!(
        small.iter().zip(&wide).all(|(small, wide)| small != wide),
        "{small:?} {wide:?}"
    );
    for words in [
        "--columns 128",
        "--pairs true",
        "--columns 64 --pairs true",
        "--columns 128 --pairs maybe",
    ] {
        bench(words).failed(2, "bad_input");
    }
}

/// In the place of an eighth of a rank's SMs, or not at all.
#[test]
fn reducers_can_be_asked_for() {
    let words = "--parts fused --case all-reduce --columns 128 --pairs false";
    let of = |reducers: &str| bench(&format!("{words} {reducers}")).done()["fused"][0]["reducers"].clone();
    assert_eq!((of("--reducers 0"), of("--reducers 2")), (Value::Null, 2.into()));
    // The node has 4 SMs, which this leaves none of.
    let ended = bench(&format!("{words} --reducers 4"));
    let missing = ended.json()["missing"].to_string();
    assert!(
        ended.code == 1 && missing.contains("reducers is 4: expected at most 2"),
        "{missing}"
    );
    bench("--reducers 3").failed(2, "bad_input");
}

/// As JSON to a file, and the tables beside it, for people.
#[test]
fn files() {
    let folder = std::env::temp_dir().join(format!("tileweave-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let path = folder.join("table.json");
    let printed = bench(&format!("--parts latency --out {}", path.display())).done();
    let json: Value = serde_json::from_slice(&std::fs::read(&path).expect("the report")).expect("JSON");
    assert_eq!(json, printed);
    let tables = std::fs::read_to_string(folder.join("table.md")).expect("the tables");
    assert!(
        tables.contains("## All-reduce alone") && tables.contains("[sim]"),
        "{tables}"
    );
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

#[test]
fn without_a_gpu_cuda_is_exit_4_and_bad_words_are_exit_2() {
    if std::env::var_os("TILEWEAVE_GPU").is_none() && !std::path::Path::new("/dev/nvidia0").exists() {
        tileweave("bench-gpu --device cuda --json").failed(4, "unavailable");
    }
    bench("--samples 0").failed(2, "bad_input");
    bench("--parts some").failed(2, "bad_input");
    bench("--parts latency --out /nonexistent/table.json").failed(2, "bad_input");
}
