//! What a report says of figures that are known.

use super::*;

fn certain(value: f64) -> Option<Estimate> {
    Some(Estimate {
        value,
        low: value * 0.99,
        high: value * 1.01,
    })
}

fn gemm(speed: Option<f64>) -> GemmRow {
    GemmRow {
        layer: "a layer",
        m: 128,
        n: 256,
        k: 64,
        kernel: "gemm_bf16_64".into(),
        sets: 2,
        launches: 1,
        ours_ms: certain(2.0),
        cublaslt_ms: speed.and_then(|s| certain(2.0 * s)),
        ours_tflops: Some(1.5),
        cublaslt_tflops: None,
        speed: speed.and_then(certain),
        proposal: None,
        difference: None,
    }
}

fn fused(ratio: f64, resolved: bool) -> FusedRow {
    FusedRow {
        op: "gemm-all-reduce",
        layer: "another",
        ranks: 8,
        m: 4096,
        n: 256,
        k: 64,
        kernel: "f".into(),
        unfused_kernels: "g + h".into(),
        fused_ms: certain(ratio),
        gemm_ms: certain(1.0),
        unfused_ms: certain(1.5),
        cublaslt_and_ours_ms: None,
        nccl_ms: None,
        fused_over_gemm: certain(ratio),
        reducers: resolved.then_some(2),
        fused_by_reducers_ms: if resolved { certain(0.875) } else { None },
        by_reducers_over_fused: None,
        overlap_pct: if resolved { certain(90.0) } else { None },
        not_resolvable_ms: if resolved { None } else { certain(0.01) },
    }
}

fn report() -> Report {
    Report {
        conditions: Conditions {
            package: "0.1.0",
            commit: None,
            command: "tileweave bench-gpu".into(),
            device: "a device".into(),
            driver: None,
            cuda_of_driver: None,
            nvcc: None,
            cublaslt: None,
            cublaslt_missing_because: Some("it is not there".into()),
            nccl: Some("2.30.7".into()),
            nccl_missing_because: Some("it failed".into()),
            seen_on: "[sim]",
            samples: 41,
        },
        gemm: vec![gemm(Some(0.5)), gemm(Some(2.0))],
        small: vec![gemm(None)],
        latency: vec![LatencyRow {
            kernel: "all_reduce1".into(),
            ranks: 8,
            bytes: 8192,
            us: certain(3.5),
            in_a_row_us: certain(5.0),
            nccl_in_a_row_us: None,
        }],
        fused: vec![fused(1.01, true), fused(1.04, false)],
        missing: vec![Missing {
            case: "one".into(),
            reason: "out of time".into(),
            failed: false,
        }],
        targets: Vec::new(),
    }
}

#[test]
fn targets_are_judged_by_the_rows() {
    let mut report = report();
    report.judge();
    let verdicts: Vec<_> = report.targets.iter().map(|t| t.met).collect();
    // The mean of 1/2 and 2 is 1; nothing of small M was compared; the worst fused case is above its bound.
    assert_eq!(verdicts, [Some(true), None, Some(false), Some(true)]);
    report.fused.pop();
    report.judge();
    assert_eq!(report.targets[2].met, Some(true));
}

#[test]
fn tables_have_equal_columns_and_a_dash_for_what_was_not_measured() {
    let mut report = report();
    report.judge();
    let text = report.to_tables();
    for expected in [
        "2.0000 (1.9800 to 2.0200)",
        "not resolvable",
        "90.0 (89.1 to 90.9)",
        "| 2             | 0.875 (0.866 to 0.884) |",
        "cuBLASLt - (it is not there); NCCL 2.30.7 (given up: it failed)",
        "geometric mean of cuBLASLt's time over ours: 1.000",
        "geometric mean of cuBLASLt's time over ours: -",
        "left out: one: out of time",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let mut bars = Vec::new();
    for line in text.lines() {
        if line.starts_with('|') {
            bars.push((line.matches('|').count(), line.chars().count()));
        } else if let Some(first) = bars.first() {
            assert!(bars.iter().all(|bar| bar == first), "{bars:?}: {text}");
            bars.clear();
        }
    }
}

#[test]
fn estimates_are_triples_in_json() {
    let value = serde_json::to_value(report()).expect("a report is JSON");
    assert_eq!(value["gemm"][0]["ours_ms"], serde_json::json!([2.0, 1.98, 2.02]));
    assert!(value["gemm"][0]["cublaslt_tflops"].is_null());
}
