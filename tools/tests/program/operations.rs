//! Every operation on random input: right, reported in full, and equal in the bits that are promised.

use serde_json::Value;

use super::{run, tileweave};

const GEMMS: [&str; 3] = ["gemm-reduce-scatter", "gemm-all-reduce", "all-gather-gemm"];
const COLLECTIVES: [&str; 3] = ["reduce-scatter", "all-reduce", "all-gather"];

fn counts(report: &Value, field: &str) -> Vec<u64> {
    let list = report[field]
        .as_array()
        .unwrap_or_else(|| panic!("{field} is a list: {report}"));
    list.iter().map(|count| count.as_u64().expect("a count")).collect()
}

#[test]
fn the_report_is_the_contracts() {
    let report = run("--op gemm-all-reduce --ranks 3 --m 40 --n 72 --k 96 --bias --addend --wire f32").done();
    for (field, value) in [
        ("op", "gemm-all-reduce"),
        ("dtype", "bf16"),
        ("device", "sim"),
        ("wire", "f32"),
        ("route", "fused"),
    ] {
        assert_eq!(report[field], value, "{report}");
    }
    assert_eq!(
        (&report["ranks"], &report["m"], &report["n"], &report["k"]),
        (&3.into(), &40.into(), &72.into(), &96.into())
    );
    assert_eq!(
        (&report["bitwise_equal_unfused"], &report["bitwise_equal_across_ranks"]),
        (&true.into(), &true.into())
    );
    assert!(
        report["elapsed_ms"].is_null() && report["route_reason"].is_string(),
        "{report}"
    );
    let (error, bound) = (
        report["max_rel_err"].as_f64().expect("a number"),
        report["bound"].as_f64().expect("a number"),
    );
    assert!(0.0 < error && error <= bound && bound < 0.1, "{error} {bound}");
    assert_eq!(report["result_digest"].as_str().expect("hex").len(), 16);
    assert_eq!(
        (
            counts(&report, "bytes_sent").len(),
            counts(&report, "signals_sent").len()
        ),
        (3, 3)
    );
}

#[test]
fn gemms_give_the_same_bits_by_either_route_and_any_schedule() {
    for op in GEMMS {
        for (ranks, dtype, sizes) in [
            (2, "bf16", "--m 33 --n 70 --k 50"),
            (3, "f16", "--m 2 --n 9 --k 7"),
            (5, "f32", "--m 21 --n 24 --k 40"),
        ] {
            let mut digests = Vec::new();
            for rest in [
                "--route fused",
                "--route unfused",
                "--route fused --schedule-seed 9",
                "--route auto --schedule-seed 2",
            ] {
                let words = format!("--op {op} --ranks {ranks} --dtype {dtype} {sizes} {rest}");
                let report = run(&words).done();
                assert_eq!(report["bitwise_equal_unfused"], true, "{words}");
                digests.push(report["result_digest"].clone());
            }
            assert!(
                digests.iter().all(|digest| *digest == digests[0]),
                "{op} {dtype}: {digests:?}"
            );
        }
    }
}

#[test]
fn collectives_alone() {
    for op in COLLECTIVES {
        for (ranks, dtype) in [(1, "f32"), (4, "bf16"), (7, "f16")] {
            let report = run(&format!("--op {op} --ranks {ranks} --dtype {dtype} --m 19 --n 23")).done();
            assert_eq!(report["route"], "unfused");
            assert!(
                report["bitwise_equal_unfused"].is_null(),
                "there is one route only: {report}"
            );
        }
    }
    let apart = run("--op all-reduce --ranks 3 --m 8 --n 40").done();
    let in_place = run("--op all-reduce --ranks 3 --m 8 --n 40 --in-place").done();
    assert_eq!(apart["result_digest"], in_place["result_digest"]);
}

#[test]
fn empty_sizes_are_sizes() {
    for words in [
        "--m 0",
        "--n 0",
        "--k 0 --bias",
        "--op all-gather --m 0",
        "--op all-gather --n 0",
        "--op reduce-scatter --n 0",
        "--op all-gather-gemm --m 3 --n 2",
    ] {
        run(&format!("--ranks 4 {words}")).done();
    }
}

#[test]
fn one_rank_sends_nothing() {
    let report = run("--ranks 1 --m 16 --n 64 --k 64").done();
    assert_eq!(
        (counts(&report, "bytes_sent"), counts(&report, "signals_sent")),
        (vec![0], vec![0])
    );
}

#[test]
fn bytes_sent_are_what_the_algorithm_has_to_send() {
    // Row-parallel, reduce-scatter: every rank sends every other its rows, once, in the wire type.
    let report = run("--op gemm-reduce-scatter --ranks 4 --m 64 --n 128 --k 64").done();
    assert_eq!(counts(&report, "bytes_sent"), [3 * 16 * 128 * 2; 4]);
    let report = run("--op gemm-reduce-scatter --ranks 4 --m 64 --n 128 --k 64 --wire f32").done();
    assert_eq!(counts(&report, "bytes_sent"), [3 * 16 * 128 * 4; 4]);
    let report = run("--op all-gather --ranks 4 --m 16 --n 128 --dtype f32").done();
    assert_eq!(counts(&report, "bytes_sent"), [3 * 16 * 128 * 4; 4]);
}

#[test]
fn the_wire_reported_is_the_wire_used() {
    for (op, used) in [
        ("gemm-reduce-scatter", "f32"),
        ("gemm-all-reduce", "f32"),
        ("all-gather-gemm", "output"),
        ("reduce-scatter", "output"),
        ("all-reduce", "output"),
        ("all-gather", "output"),
    ] {
        let words = format!("--op {op} --m 8 --n 16 --k 16 --ranks 2");
        let asked = run(&format!("{words} --wire f32")).done();
        let plain = run(&words).done();
        assert_eq!(
            (&asked["wire"], &plain["wire"]),
            (&used.into(), &"output".into()),
            "{op}"
        );
        let same_bytes = asked["bytes_sent"] == plain["bytes_sent"];
        assert_eq!(same_bytes, used == "output", "{op}: {asked} {plain}");
    }
    assert_eq!(run("--m 8 --n 16 --k 16 --ranks 1 --wire f32").done()["wire"], "f32");
}

#[test]
fn the_seed_makes_the_input() {
    let digest = |words: &str| run(&format!("--ranks 2 --m 8 --n 32 --k 32 {words}")).done()["result_digest"].clone();
    assert_eq!(digest("--seed 5"), digest("--seed 5 --schedule-seed 5"));
    assert_ne!(digest("--seed 5"), digest("--seed 6"));
}

#[test]
fn people_get_a_table() {
    let ended = tileweave("run --device sim --ranks 2 --m 8 --n 32 --k 32");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in ["gemm-all-reduce", "sim", "fused", "digest", "right on every rank"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}

/// Whoever reduces, the sums are the same.
#[test]
fn by_ctas_that_only_reduce() {
    let of = |reducers: usize| {
        let report = run(&format!("--ranks 3 --m 400 --n 264 --k 96 --reducers {reducers}")).done();
        let reason = report["route_reason"].to_string();
        assert_eq!(reason.contains("2 CTAs only reduce"), reducers == 2, "{reason}");
        report["result_digest"].clone()
    };
    assert_eq!(of(0), of(2));
    run("--ranks 2 --m 400 --n 264 --reducers 4").failed(2, "bad_input");
    run("--op all-gather-gemm --reducers 2").failed(2, "bad_input");
    run("--reducers 5").failed(2, "bad_input");
}

/// On the simulated node both mainloops add in one order, so even their bits are equal.
#[test]
fn by_either_mainloop() {
    for op in GEMMS {
        let of = |mainloop: &str, sm90: bool| {
            let words = format!("--op {op} --ranks 2 --m 150 --n 264 --k 96 --mainloop {mainloop}");
            let report = run(&words).done();
            let kernel = report["kernel"].as_str().expect("a name");
            assert_eq!(kernel.ends_with("_sm90"), sm90, "{kernel}");
            report["result_digest"].clone()
        };
        assert_eq!(of("portable", false), of("hopper", true), "{op}");
    }
}

/// The last of some replays has the bits, and one operation's traffic, of an eager launch.
#[test]
fn a_graph_gives_what_a_launch_gives() {
    let cases = GEMMS.iter().flat_map(|op| {
        ["fused", "unfused"].map(|route| format!("--op {op} --route {route} --ranks 3 --m 33 --n 70 --k 50"))
    });
    let plain = COLLECTIVES.map(|op| format!("--op {op} --ranks 3 --m 33 --n 70"));
    let in_place = "--op all-reduce --in-place --ranks 2 --m 3 --n 40 --dtype f32".to_string();
    for words in cases.chain(plain).chain([in_place]) {
        let launched = run(&words).done();
        for replays in [1, 4] {
            let replayed = run(&format!("{words} --graph {replays}")).done();
            for field in [
                "result_digest",
                "bytes_sent",
                "signals_sent",
                "route",
                "bitwise_equal_unfused",
            ] {
                assert_eq!(replayed[field], launched[field], "{words}, {replays} replays: {field}");
            }
        }
    }
}

#[test]
fn exchanges_give_the_bits_that_each_promises() {
    let sizes = "--ranks 3 --m 400 --n 200 --k 96 --bias";
    for op in ["gemm-reduce-scatter", "gemm-all-reduce", "all-reduce"] {
        let run = |exchange: &str, seed| {
            let sizes = if op == "all-reduce" {
                "--ranks 3 --m 400 --n 200"
            } else {
                sizes
            };
            run(&format!(
                "--op {op} {sizes} --exchange {exchange} --schedule-seed {seed}"
            ))
            .done()
        };
        let (push, pull) = (run("push", 1), run("pull", 2));
        assert_eq!(push["result_digest"], pull["result_digest"], "{op}");
        assert_eq!(push["bytes_sent"], pull["bytes_sent"], "{op}");
        assert_eq!(push["bitwise_equal_unfused"], pull["bitwise_equal_unfused"], "{op}");
        if op == "gemm-reduce-scatter" {
            continue;
        }
        let sums = run("in-switch", 3);
        assert!(sums["bitwise_equal_unfused"].is_null(), "{sums}");
        assert_eq!(sums["bitwise_equal_across_ranks"], true, "{sums}");
        let reason = sums["route_reason"].as_str().expect("a reason");
        assert!(reason.contains("the switch adds"), "{reason}");
        let total = |report| counts(report, "bytes_sent").iter().sum::<u64>();
        // Three partials and one result, where pushes send two thirds of six.
        assert_eq!((total(&sums), total(&push)), (4 * 400 * 200 * 2, 4 * 400 * 200 * 2));
    }
}

#[test]
fn a_residual_and_a_norm_in_the_same_kernel() {
    for (ranks, dtype, sizes) in [
        (2, "bf16", "--m 5 --n 300 --k 70"),
        (3, "f32", "--m 33 --n 41 --k 50"),
        (1, "f16", "--m 1 --n 64 --k 64"),
        (4, "bf16", "--m 0 --n 8 --k 8"),
        (4, "bf16", "--m 3 --n 0 --k 8"),
    ] {
        let words = format!("--ranks {ranks} --dtype {dtype} {sizes} --residual-norm 1e-5 --bias --addend");
        let report = run(&words).done();
        assert_eq!(
            (&report["tail"], &report["bitwise_equal_unfused"]),
            (&"residual-norm".into(), &true.into())
        );
        assert_eq!(report["bitwise_equal_across_ranks"], true, "{words}");
        let again = run(&format!("{words} --route unfused --schedule-seed 3")).done();
        assert_eq!(report["result_digest"], again["result_digest"], "{words}");
    }
    let apart = run("--op all-reduce --ranks 3 --m 8 --n 40 --residual-norm 0.1").done();
    let in_place = run("--op all-reduce --ranks 3 --m 8 --n 40 --residual-norm 0.1 --in-place").done();
    assert_eq!(apart["result_digest"], in_place["result_digest"]);
    // Each replay begins with what the one before left, and the last with the residual as it was.
    let replayed = run("--op all-reduce --ranks 3 --m 8 --n 40 --residual-norm 0.1 --graph 4").done();
    assert_eq!(apart["result_digest"], replayed["result_digest"]);
    let other = run("--op all-reduce --ranks 3 --m 8 --n 40 --residual-norm 0.2").done();
    assert_ne!(apart["result_digest"], other["result_digest"]);
    assert!(run("--op all-reduce --ranks 2 --m 8 --n 8").done()["tail"].is_null());
}
