//! One process for each rank: started by the program itself, or by a launcher.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Ended, run};

const SMALL: &str = "--ranks 3 --m 20 --n 70 --k 60";

/// Abstract sockets of joining ranks that are there.
fn rendezvous() -> String {
    let table = std::fs::read_to_string("/proc/net/unix").expect("a table of sockets");
    table.lines().filter(|line| line.contains("@tileweave-")).collect()
}

#[test]
fn processes_report_what_threads_do() {
    for op in [
        "gemm-reduce-scatter",
        "gemm-all-reduce",
        "all-gather-gemm",
        "all-reduce",
        "all-gather",
    ] {
        let words = format!("--op {op} {SMALL}").replace(" --k 60", if op.contains("gemm") { " --k 60" } else { "" });
        let (mut together, mut apart) = (run(&words).done(), run(&format!("{words} --processes")).done());
        // In separate processes counts are those of the same kernels, too; the time is neither's.
        for report in [&mut together, &mut apart] {
            report["elapsed_ms"] = Value::Null;
        }
        assert_eq!(together, apart, "{op}");
    }
}

#[test]
fn a_graph_and_a_tail_do_not_mind() {
    for words in [
        "--graph 7",
        "--residual-norm 1e-5",
        "--route unfused --wire f32",
        "--op all-reduce --in-place",
    ] {
        let small = if words.contains("--op") {
            "--ranks 3 --m 20 --n 70"
        } else {
            SMALL
        };
        let digest = |more: &str| run(&format!("{small} {words} {more}")).done()["result_digest"].clone();
        assert_eq!(digest(""), digest("--processes"), "{words}");
    }
}

#[test]
fn a_killed_process_is_named_and_no_deadline_is_waited_for() {
    for rank in 0..3 {
        let begin = std::time::Instant::now();
        let words = format!("{SMALL} --processes --fault kill:{rank} --deadline-ms 3600000");
        let error = run(&words).failed(3, "peer_exited");
        assert!(begin.elapsed().as_secs() < 600, "the deadline ended it");
        for field in ["op", "epoch", "rank", "tile", "expected", "seen", "chain"] {
            assert!(error.get(field).is_some(), "{field} is missing: {error}");
        }
        assert_eq!(error["peer"], rank, "{error}");
        assert_ne!(error["rank"], error["peer"], "{error}");
        let message = error["message"].to_string();
        assert!(message.contains(&format!("rank {rank} is gone")), "{message}");
    }
}

#[test]
fn other_faults_are_named_as_among_threads() {
    let fault = |words: &str, kind: &str| {
        let words = format!("{SMALL} --processes --fault {words} --deadline-ms 700");
        run(&words).failed(3, kind)
    };
    assert_eq!(fault("silent:2", "timeout")["peer"], 2);
    let lost = fault("drop-signal:1:0", "timeout");
    assert_eq!((&lost["rank"], &lost["peer"]), (&0.into(), &1.into()), "{lost}");
    let differ = fault("disagree:1", "disagreement");
    let told = format!("{} {}", differ["expected"], differ["seen"]);
    assert!(told.contains("M 20") && told.contains("M 19"), "{differ}");
    let slow = run(&format!("{SMALL} --processes --fault slow:1:5")).done();
    assert_eq!(slow["result_digest"], run(SMALL).done()["result_digest"]);
}

#[test]
fn a_kill_needs_a_process_to_kill() {
    let message = run(&format!("{SMALL} --fault kill:1")).failed(2, "bad_input")["message"].to_string();
    assert!(
        message.contains("kill:1") && message.contains("--processes"),
        "{message}"
    );
}

/// The program as a launcher starts it, with `environment`.
fn launched(words: &str, environment: &[(&str, String)]) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_tileweave"))
        .args(format!("run --device sim --json {words}").split_whitespace())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built beside this test")
}

fn ended(child: std::process::Child) -> Ended {
    let output = child.wait_with_output().expect("it ends");
    Ended {
        code: output.status.code().expect("the program was ended by no signal"),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn under_a_launcher_a_process_is_a_rank_and_rank_0_reports() {
    let expected = run("--ranks 2 --m 20 --n 70 --k 60").done()["result_digest"].clone();
    let job = std::process::id().to_string();
    let torchrun = |rank: usize| {
        vec![
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", "2".to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("LOCAL_WORLD_SIZE", "2".to_string()),
            ("MASTER_ADDR", "localhost".to_string()),
            ("MASTER_PORT", job.clone()),
        ]
    };
    let mpirun = |rank: usize| {
        vec![
            ("OMPI_COMM_WORLD_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_SIZE", "2".to_string()),
            ("PMIX_NAMESPACE", job.clone()),
        ]
    };
    let slurm = |rank: usize| {
        vec![
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_STEP_NUM_TASKS", "2".to_string()),
            ("SLURM_JOB_ID", job.clone()),
            ("SLURM_STEP_ID", "0".to_string()),
        ]
    };
    let launchers: [&dyn Fn(usize) -> Vec<(&'static str, String)>; 3] = [&torchrun, &mpirun, &slurm];
    for launcher in launchers {
        let both = [1, 0].map(|rank| launched("--m 20 --n 70 --k 60", &launcher(rank)));
        let [one, zero] = both.map(ended);
        assert_eq!(zero.done()["result_digest"], expected);
        assert_eq!((one.code, one.stdout.trim()), (0, ""), "{}", one.stderr);
    }
}

#[test]
fn an_environment_that_contradicts_itself_is_bad_input() {
    let alone = |environment: &[(&str, &str)], words: &str| {
        let environment: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.to_string()))
            .collect();
        ended(launched(words, &environment)).failed(2, "bad_input")["message"].to_string()
    };
    let message = alone(&[("RANK", "2"), ("WORLD_SIZE", "2")], "");
    assert!(
        message.contains("RANK is 2: expected below WORLD_SIZE, which is 2"),
        "{message}"
    );
    let message = alone(&[("RANK", "0")], "");
    assert!(message.contains("WORLD_SIZE is not set"), "{message}");
    let whole = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "1"),
    ];
    let message = alone(&whole, "--ranks 3");
    assert!(
        message.contains("--ranks is 3") && message.contains("torchrun"),
        "{message}"
    );
}

#[test]
fn nothing_is_left_behind() {
    let before = rendezvous();
    run(&format!("{SMALL} --processes --fault kill:0")).failed(3, "peer_exited");
    run(&format!("{SMALL} --processes")).done();
    // Other tests join meanwhile: what was there before, or is there for a moment, is not this one's.
    let mine = || rendezvous().len() > before.len();
    for _ in 0..2000 {
        if !mine() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} is left, besides {before}", rendezvous());
}
