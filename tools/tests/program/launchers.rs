//! Processes of ranks that do not come to a result: bad input, ranks that were never started, a starter that is killed.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::run;

const SIZES: &str = "--m 40 --n 128 --k 96";

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

/// What hosts exchange is NCCL's, which the simulated node has not; other routes are for one host.
#[test]
fn ranks_of_several_hosts_are_refused_where_there_is_no_nccl() {
    for (route, why) in [
        ("", "the simulated node has none"),
        ("--route nccl", "the simulated node has none"),
        (
            "--route fused",
            "--route fused and unfused are for the ranks of one host",
        ),
        (
            "--route unfused",
            "--route fused and unfused are for the ranks of one host",
        ),
    ] {
        let output = launched("0", "4", &format!("{SIZES} {route}"))
            .env("LOCAL_WORLD_SIZE", "2")
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let message = object(&output)["error"]["message"].to_string();
        let told = format!("2 of 4 ranks are on this host, and what hosts exchange goes by NCCL: {why}");
        assert!(message.contains(&told), "{message}");
    }
}
