//! Processes that join, each with the stand-in of its own: memory and sockets are real, the machine is one by its
//! configuration.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tileweave::driver::{Driver, Place};
use tileweave::{DType, Error, GroupConfig, Id, Node, Op, Path, Rank};

use crate::common::{Case, Data, Loaded, judge};
use crate::support::{WHOLE, config, driver, inside, on_the_node};

const WORLD: usize = 2;

fn case() -> Case {
    Case::new(Op::GemmAllReduce, WORLD, 9, 40, 64, DType::Bf16).bias()
}

fn sized() -> GroupConfig {
    config()
        .one_shot_bytes(8 << 10)
        .sized_for(&case().all_specs(), WORLD)
        .unwrap()
}

fn variable(name: &str) -> String {
    std::env::var(format!("STAND_IN_{name}")).unwrap()
}

/// Joins as the rank that the environment names, on the device of its number among those that are visible.
fn join() -> Rank {
    let rank: usize = variable("RANK").parse().unwrap();
    let driver = std::sync::Arc::new(driver());
    let device = rank % driver.device_count();
    let stream = driver.stream_create(Place { device, ..WHOLE }).unwrap();
    let node = Node::new(driver);
    // SAFETY: nobody ends the stream: it goes with the process.
    unsafe { Rank::join(&node, stream, rank, WORLD, &Id::of(variable("ID")), &sized()) }.unwrap()
}

inside! {
    fn member() {
        let (rank, case) = (join(), case());
        let data = Data::new(&case);
        let mut bytes = Vec::new();
        for path in [Path::Fused, Path::Unfused] {
            let plan = rank.plan(&case.spec(rank.rank(), path)).unwrap();
            let mut operands = Loaded::new(&rank, &case, &data).unwrap();
            operands.launch(&plan, case.m).unwrap();
            rank.synchronize().unwrap();
            bytes.extend(operands.result().unwrap());
        }
        std::fs::write(variable("TOLD"), bytes).unwrap();
    }

    fn left_alone() {
        let (rank, case) = (join(), case());
        if rank.rank() == 1 {
            // Nothing is said to anybody.
            std::process::abort();
        }
        let plan = rank.plan(&case.spec(0, Path::Fused)).unwrap();
        let mut operands = Loaded::new(&rank, &case, &Data::new(&case)).unwrap();
        // It may be known already.
        let launched = operands.launch(&plan, case.m);
        let error = rank.synchronize().unwrap_err();
        assert!(matches!(error, Error::PeerExited { .. }) && error.to_string().contains("rank 1"), "{error}");
        assert!(launched.is_ok() || matches!(launched, Err(Error::Poisoned(_))), "{launched:?}");
    }
}

/// A process of its own for each rank; where each leaves what it is told to.
fn start(test: &str, environment: impl Fn(usize) -> Vec<(&'static str, String)>) -> Vec<(Child, PathBuf)> {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let run = format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    let start = |rank: usize| {
        let told = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("told-{run}-{rank}"));
        let mut command = crate::inside(test, &[]);
        command
            .envs(environment(rank))
            .env("STAND_IN_RANK", rank.to_string())
            .env("STAND_IN_ID", &run)
            .env("STAND_IN_TOLD", &told)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        (command.spawn().unwrap(), told)
    };
    (0..WORLD).map(start).collect()
}

fn text(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn joined(environment: impl Fn(usize) -> Vec<(&'static str, String)>) {
    let mut results = Vec::new();
    // All are waited for before one is judged.
    let ended: Vec<_> = start("processes::member", environment)
        .into_iter()
        .map(|(child, told)| (child.wait_with_output().unwrap(), told))
        .collect();
    for (rank, (output, told)) in ended.iter().enumerate() {
        assert!(output.status.success(), "rank {rank}: {}", text(output));
        results.push(std::fs::read(told).unwrap());
        std::fs::remove_file(told).unwrap();
    }
    let (case, half) = (case(), results[0].len() / 2);
    for (i, path) in [Path::Fused, Path::Unfused].into_iter().enumerate() {
        let of: Vec<Vec<u8>> = results.iter().map(|bytes| bytes[i * half..][..half].to_vec()).collect();
        judge(&case, &Data::new(&case), &of, "between processes");
        assert_eq!(of, on_the_node(&case, path));
    }
}

#[test]
fn processes_that_see_all_devices_join() {
    joined(|_| Vec::new());
}

#[test]
fn processes_that_see_one_device_each_join() {
    joined(|rank| vec![("CUDA_VISIBLE_DEVICES", rank.to_string())]);
}

#[test]
fn a_process_that_ends_is_named() {
    let [(survivor, _), (gone, _)] = <[_; 2]>::try_from(start("processes::left_alone", |_| Vec::new())).unwrap();
    let (survivor, gone) = (survivor.wait_with_output().unwrap(), gone.wait_with_output().unwrap());
    assert!(survivor.status.success(), "{}", text(&survivor));
    assert!(!gone.status.success());
}
