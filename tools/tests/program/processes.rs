//! One process for each rank: by the program itself, or by a launcher.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::run;

const SIZES: &str = "--m 40 --n 128 --k 96";

/// What does not depend on where the ranks are.
fn told(report: &Value) -> Vec<Value> {
    let names = [
        "op",
        "ranks",
        "m",
        "n",
        "k",
        "dtype",
        "route",
        "kernel",
        "result_digest",
        "max_abs_err",
        "bytes_sent",
        "signals_sent",
        "bitwise_equal_unfused",
        "bitwise_equal_across_ranks",
    ];
    names.map(|name| report[name].clone()).to_vec()
}

#[test]
fn processes_make_what_threads_make() {
    for op in [
        "gemm-all-reduce",
        "gemm-reduce-scatter --bias --addend",
        "all-gather-gemm --dtype f16",
        "all-reduce --in-place",
        "gemm-all-reduce --residual-norm 1e-5 --graph 3",
    ] {
        let sizes = if op.starts_with("all-reduce") {
            "--m 40 --n 128"
        } else {
            SIZES
        };
        let words = format!("--op {op} {sizes} --ranks 3");
        let (threads, processes) = (run(&words).done(), run(&format!("{words} --processes")).done());
        assert_eq!(told(&threads), told(&processes), "{op}");
    }
}

#[test]
fn a_file_holds_every_ranks_part() {
    let folder = std::env::temp_dir().join(format!("tileweave-processes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let written = |words: &str| {
        let path = folder.join("y.safetensors");
        run(&format!(
            "--op gemm-reduce-scatter {SIZES} --ranks 3 --output {} {words}",
            path.display()
        ))
        .done();
        std::fs::read(path).expect("it was written")
    };
    assert!(written("") == written("--processes"));
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn a_rank_that_is_killed_is_named() {
    for rank in 0..3 {
        let error = run(&format!("{SIZES} --ranks 3 --processes --fault kill:{rank}")).failed(3, "peer_exited");
        assert_eq!(error["peer"], rank, "{error}");
        assert_ne!(error["rank"], rank, "{error}");
        for field in ["op", "epoch", "tile", "expected", "seen", "chain"] {
            assert!(!error[field].is_null(), "{field} is missing: {error}");
        }
    }
    let error = run("--ranks 3 --fault kill:1").failed(2, "bad_input");
    assert!(error["message"].to_string().contains("--processes"), "{error}");
}

#[test]
fn faults_of_processes_are_told_as_those_of_threads() {
    let silent = run(&format!(
        "{SIZES} --ranks 3 --processes --fault silent:2 --deadline-ms 400"
    ))
    .failed(3, "timeout");
    assert_eq!(silent["peer"], 2, "{silent}");
    assert!(!silent["chain"].as_array().expect("a list").is_empty(), "{silent}");
    let lost = run(&format!(
        "{SIZES} --ranks 3 --processes --fault drop-signal:1:0 --deadline-ms 1500"
    ))
    .failed(3, "timeout");
    assert_eq!((&lost["rank"], &lost["peer"]), (&0.into(), &1.into()), "{lost}");
    let differs = run(&format!("{SIZES} --ranks 3 --processes --fault disagree:1")).failed(3, "disagreement");
    let message = differs["message"].to_string();
    assert!(message.contains("M 40") && message.contains("M 39"), "{message}");
    run(&format!("{SIZES} --ranks 3 --processes --fault slow:1:10")).done();
}

#[test]
fn bad_input_is_refused_once_and_before_any_process() {
    let error = run("--m 40 --n 128 --k 96 --ranks 3 --processes --in-place").failed(2, "bad_input");
    assert!(error["message"].to_string().contains("--in-place"), "{error}");
    let error = run("--processes --input /nowhere/x.safetensors").failed(2, "bad_input");
    assert!(
        error["message"].to_string().contains("/nowhere/x.safetensors"),
        "{error}"
    );
}

/// A process as torchrun would start it.
fn launched(rank: &str, world: &str, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tileweave"));
    command.args("run --device sim --json".split(' ').chain(words.split_whitespace()));
    for (name, value) in [
        ("RANK", rank),
        ("LOCAL_RANK", rank),
        ("WORLD_SIZE", world),
        ("LOCAL_WORLD_SIZE", world),
    ] {
        command.env(name, value);
    }
    let job = format!("test {} {words}", std::process::id());
    command.envs([
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RUN_ID", &job),
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn object(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[test]
fn a_launchers_processes_are_the_ranks() {
    let start = |rank: &str| launched(rank, "2", SIZES).spawn().expect("it starts");
    let (one, zero) = (start("1"), start("0"));
    let [zero, one] = [zero, one].map(|child| child.wait_with_output().expect("it ends"));
    assert!(zero.status.success() && one.status.success(), "{zero:?} {one:?}");
    assert!(one.stdout.is_empty(), "rank 0 speaks for all");
    assert_eq!(told(&object(&zero)), told(&run(&format!("{SIZES} --ranks 2")).done()));
}

#[test]
fn a_rank_that_a_launcher_did_not_start_is_missed() {
    let words = format!("{SIZES} --deadline-ms 300");
    let output = launched("1", "3", &words).output().expect("it runs");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let error = object(&output)["error"].clone();
    assert_eq!(
        (&error["kind"], &error["peer"]),
        (&"timeout".into(), &0.into()),
        "{error}"
    );
}

#[test]
fn what_a_launcher_says_must_make_sense() {
    let failed = |command: &mut Command, code| {
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        object(&output)["error"]["message"].to_string()
    };
    assert!(failed(&mut launched("2", "2", SIZES), 2).contains("RANK is 2"));
    assert!(failed(&mut launched("one", "2", SIZES), 2).contains("RANK is one"));
    assert!(failed(&mut launched("0", "2", "--ranks 3"), 2).contains("--ranks is 3"));
    let other_hosts = failed(launched("0", "4", SIZES).env("LOCAL_WORLD_SIZE", "2"), 4);
    assert!(other_hosts.contains("2 of 4 ranks are on this host"), "{other_hosts}");
}

/// Nothing is left of the processes of a program that is killed.
#[test]
#[cfg(target_os = "linux")]
fn ranks_end_with_the_program_that_started_them() {
    let children = |of: u32| {
        let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        text.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    let mut program = Command::new(env!("CARGO_BIN_EXE_tileweave"))
        .args("run --device sim --json --ranks 3 --processes --fault silent:1 --deadline-ms 600000".split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut ranks = Vec::new();
    while ranks.len() < 3 {
        assert!(program.try_wait().expect("it can be asked").is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
        ranks = children(program.id());
    }
    // Until they run this program: before that the system does not yet end them with their starter.
    std::thread::sleep(std::time::Duration::from_millis(500));
    program.kill().expect("it runs");
    program.wait().expect("it ends");
    let runs = |rank: &String| {
        let state = std::fs::read_to_string(format!("/proc/{rank}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    for _ in 0..2000 {
        if !ranks.iter().any(runs) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{ranks:?} run on");
}
