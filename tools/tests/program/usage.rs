//! Bad words, missing parts, help and version.

use super::{run, tileweave};

#[test]
fn bad_usage_is_exit_2_with_the_error_object() {
    for words in [
        "--ranks 0",
        "--ranks 17",
        "--ranks two",
        "--op gemm",
        "--m -8",
        "--m 18446744073709551615",
        "--n 4294967296",
        "--dtype f12",
        "--route fast",
        "--wire f64",
        "--deadline-ms 0",
        "--no-such-option",
        "--op all-reduce --bias",
        "--op all-gather-gemm --addend",
        "--op gemm-all-reduce --in-place",
        "--op gemm-reduce-scatter --residual-norm 1e-5",
        "--residual-norm -1",
        "--residual-norm inf",
        "--fault late:1",
        "--ranks 2 --fault silent:2",
        "--ranks 2 --fault drop-signal:1:1",
        "--input /nonexistent/x.safetensors",
        "--output /nonexistent/folder/y.safetensors",
        "--m 2147483647 --n 2147483647 --k 2147483647",
    ] {
        let ended = run(words);
        ended.failed(2, "bad_input");
    }
}

#[test]
fn a_failure_names_the_argument_its_value_and_what_would_be_right() {
    for (words, parts) in [
        ("--ranks 17", ["--ranks", "17", "1 to 16"]),
        ("--dtype f12", ["--dtype", "f12", "bf16, f16 or f32"]),
        (
            "--op gemm-all-reduce --in-place",
            ["--in-place", "gemm-all-reduce", "expected --op all-reduce"],
        ),
        (
            "--op all-gather --residual-norm 1e-5",
            [
                "--residual-norm",
                "all-gather",
                "expected --op gemm-all-reduce or all-reduce",
            ],
        ),
        (
            "--m 2147483647 --n 2147483647",
            ["--m 2147483647", "bytes", "expected smaller sizes"],
        ),
        ("--m -1", ["'--m <M>'", "-1", "from 0 to 2147483647"]),
        (
            "--op all-gather --ranks 2 --m 2147483647 --n 0",
            ["--m is 2147483647", "at most 1073741823", "2 ranks"],
        ),
        (
            "--op all-gather-gemm --ranks 4 --m 134217728 --n 0 --k 0",
            ["--m is 134217728", "536870912 positions", "more than 33554432"],
        ),
        (
            "--op all-gather --ranks 4 --m 134217728 --n 0",
            ["--m is 134217728", "2147483648 positions", "more than 33554432"],
        ),
        (
            "--op gemm-reduce-scatter --ranks 16 --m 1 --n 4194304 --k 0",
            ["--n is 4194304", "67108864 positions", "more than 33554432"],
        ),
        ("--ranks 2 --fault silent:7", ["--fault", "7", "below --ranks"]),
    ] {
        let message = run(words).failed(2, "bad_input")["message"].to_string();
        for part in parts {
            assert!(message.contains(part), "{words}: {message}");
        }
    }
}

#[test]
fn without_json_standard_output_stays_empty_on_failure() {
    let ended = tileweave("run --ranks 0");
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn commands_that_are_not_there_are_unknown() {
    for command in ["", "train"] {
        assert_eq!(tileweave(command).code, 2, "{command}");
    }
}

#[test]
fn an_explicit_route_is_never_replaced() {
    let error = run("--op all-gather --route fused").failed(4, "unavailable");
    assert!(error["message"].to_string().contains("fused"), "{error}");
}

#[test]
fn the_simulated_node_has_no_nccl() {
    for op in ["gemm-all-reduce", "all-gather"] {
        let error = run(&format!("--op {op} --route nccl")).failed(4, "unavailable");
        let message = error["message"].to_string();
        assert!(
            message.contains("route nccl is not available: the simulated node has no NCCL"),
            "{message}"
        );
    }
}

#[test]
fn an_explicit_mainloop_is_never_replaced() {
    for (words, why) in [("--dtype f32", "f32"), ("--ranks 2 --k 20", "K = 10 is 20 bytes")] {
        let error = run(&format!("{words} --mainloop hopper")).failed(4, "unavailable");
        assert!(error["message"].to_string().contains(why), "{error}");
    }
}

#[test]
fn faults_are_the_simulated_nodes() {
    let ended = tileweave("run --device cuda --fault silent:0 --json");
    ended.failed(2, "bad_input");
}

#[test]
fn help_and_version_succeed() {
    for words in ["--help", "run --help", "--version"] {
        let ended = tileweave(words);
        assert!(ended.code == 0 && ended.stdout.len() > 40, "{words}: {}", ended.stdout);
    }
    let version = tileweave("--version --json").done();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    for field in ["features", "architectures", "nvcc", "driver", "commit"] {
        assert!(version.get(field).is_some(), "{field} is missing: {version}");
    }
}

#[test]
fn an_explicit_exchange_is_never_replaced() {
    for (words, why) in [
        ("--op all-gather --exchange pull", "no partials"),
        ("--op reduce-scatter --exchange in-switch", "no sum that the switch"),
        ("--op all-reduce --ranks 1 --exchange in-switch", "there is one rank"),
    ] {
        let error = run(words).failed(4, "unavailable");
        assert!(error["message"].to_string().contains(why), "{error}");
    }
}
