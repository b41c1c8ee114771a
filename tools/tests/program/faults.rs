//! Ranks that fail their peers: the report names the culprit.

use serde_json::Value;

use super::run;

fn culprit(error: &Value) -> u64 {
    for field in ["op", "epoch", "rank", "peer", "tile", "expected", "seen", "chain"] {
        assert!(
            error.get(field).is_some_and(|value| !value.is_null()),
            "{field} is missing: {error}"
        );
    }
    error["peer"].as_u64().expect("a rank")
}

#[test]
fn a_silent_rank_is_named() {
    for op in [
        "gemm-reduce-scatter",
        "gemm-all-reduce",
        "all-gather-gemm",
        "all-reduce",
    ] {
        for route in if op == "all-reduce" {
            &["unfused"][..]
        } else {
            &["fused", "unfused"]
        } {
            let ended = run(&format!(
                "--op {op} --route {route} --ranks 4 --m 32 --n 64 --k 64 --fault silent:2 --deadline-ms 50"
            )
            .replace("--k 64", if op == "all-reduce" { "" } else { "--k 64" }));
            let error = ended.failed(3, "timeout");
            assert_eq!(culprit(&error), 2, "{op} {route}: {error}");
            assert!(!error["chain"].as_array().expect("a list").is_empty(), "{error}");
            assert!(error["message"].to_string().contains("rank 2"), "{error}");
        }
    }
}

#[test]
fn a_lost_signal_is_named_by_its_ends() {
    let error = run("--ranks 3 --m 32 --n 64 --k 64 --fault drop-signal:1:0 --deadline-ms 50").failed(3, "timeout");
    assert_eq!((&error["rank"], culprit(&error)), (&0.into(), 1), "{error}");
}

#[test]
fn a_disagreement_names_both_descriptors() {
    let error = run("--ranks 3 --m 32 --n 64 --k 64 --fault disagree:1 --deadline-ms 50").failed(3, "disagreement");
    culprit(&error);
    let ranks = [error["rank"].as_u64(), error["peer"].as_u64()];
    assert!(ranks.contains(&Some(1)), "{error}");
    let message = error["message"].to_string();
    assert!(message.contains("M 32") && message.contains("M 31"), "{message}");
}

#[test]
fn a_slow_rank_changes_nothing() {
    let sizes = "--ranks 3 --m 32 --n 64 --k 64";
    let slow = run(&format!("{sizes} --fault slow:1:20")).done();
    assert_eq!(slow["result_digest"], run(sizes).done()["result_digest"]);
}

#[test]
fn one_rank_alone_has_nobody_to_miss_it() {
    for fault in ["silent:0", "disagree:0"] {
        let words = format!("--ranks 1 --m 8 --n 8 --k 8 --fault {fault}");
        let message = run(&words).failed(2, "bad_input")["message"].to_string();
        assert!(message.contains(fault) && message.contains("at least 2"), "{message}");
    }
    run("--ranks 1 --m 8 --n 8 --k 8 --fault slow:0:3").done();
}

#[test]
fn what_fails_in_a_graph_is_named_too() {
    let small = "--op gemm-all-reduce --ranks 3 --m 20 --n 70 --k 60 --graph 3";
    let silent = run(&format!("{small} --fault silent:1")).failed(3, "timeout");
    assert_eq!(culprit(&silent), 1, "{silent}");
    let disagree = run(&format!("{small} --fault disagree:2")).failed(3, "disagreement");
    let told = format!("{} {}", disagree["expected"], disagree["seen"]);
    assert!(told.contains("M 20") && told.contains("M 19"), "{disagree}");
}

#[test]
fn the_environment_sets_the_deadline_that_no_option_sets() {
    let waited_ms = |deadline: &str, words: &str| {
        let sizes = "run --ranks 2 --m 8 --n 64 --k 64 --fault silent:1 --json";
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tileweave"))
            .args(sizes.split(' ').chain(words.split_whitespace()))
            .env("TILEWEAVE_DEADLINE_MS", deadline)
            .output()
            .expect("the program was built beside this test");
        let text = String::from_utf8(output.stdout).expect("the program prints UTF-8");
        let object: Value = serde_json::from_str(&text).expect("one object");
        (output.status.code(), object["error"].clone())
    };
    // Simulated time: exactly the deadline, and what it takes to notice.
    for (deadline, words, expected) in [("70", "", 70.0), ("70", "--deadline-ms 30", 30.0)] {
        let (code, error) = waited_ms(deadline, words);
        let waited = error["waited_ms"].as_f64().expect("a wait");
        assert_eq!(code, Some(3), "{error}");
        assert!((expected..expected + 5.0).contains(&waited), "{error}");
    }
    let (code, error) = waited_ms("soon", "");
    assert_eq!((code, &error["kind"]), (Some(2), &"bad_input".into()), "{error}");
    assert!(error["message"].to_string().contains("soon"), "{error}");
}
