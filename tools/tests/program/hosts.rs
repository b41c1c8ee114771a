//! Ranks on several hosts, by what their launcher says: the program over the stand-ins for CUDA and, between processes, for NCCL. A
//! program that was built without kernels opens no CUDA, whoever serves it: then this is skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const WORLD: usize = 3;

/// A folder with both stand-ins; the first under the names that CUDA's driver has.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let library = std::env::current_exe()
            .expect("this program")
            .with_file_name("libcuda_stand_in.so");
        assert!(library.exists(), "{} is not there", library.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hosts-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::os::unix::fs::symlink(&library, folder.join(name)).expect("a link");
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/nccl/between.c");
        let status = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
            .args(["-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&folder.join("libnccl.so.2"), &source])
            .arg("-ldl")
            .status();
        assert!(status.expect("a C compiler").success());
        folder
    })
}

/// What the ranks' processes said, `local` of them on a host each; `None` where they have no kernels.
fn launched(words: &str, local: usize, nccl: &str) -> Option<Vec<(Output, Value)>> {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    let start = |rank: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tileweave"));
        command.args("run --device cuda --json --m 40 --n 128 --k 96".split(' '));
        command.args(words.split_whitespace());
        for (name, value) in [
            ("RANK", rank),
            ("WORLD_SIZE", WORLD),
            ("LOCAL_RANK", rank % local),
            ("LOCAL_WORLD_SIZE", local),
            ("MASTER_PORT", port.into()),
            ("CUDA_VISIBLE_DEVICES", rank),
            ("TILEWEAVE_STAND_IN_GPUS", WORLD),
            ("CUDA_DEVICE_MAX_CONNECTIONS", 32),
        ] {
            command.env(name, value.to_string());
        }
        command
            .env("MASTER_ADDR", "localhost")
            .env("TORCHELASTIC_RUN_ID", format!("{words} {local} {}", std::process::id()))
            .env("LD_LIBRARY_PATH", folder())
            .env("TILEWEAVE_NCCL", folder().join(nccl))
            .env("TILEWEAVE_NVML", "/nowhere/libnvidia-ml.so")
            .env("TILEWEAVE_CACHE", folder().join("cache"))
            .env("TMPDIR", folder())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let started: Vec<_> = (0..WORLD).map(start).collect();
    let ended: Vec<Output> = started
        .into_iter()
        .map(|child| child.wait_with_output().expect("it ends"))
        .collect();
    let told = ended.into_iter().map(|output| {
        let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output, said)
    });
    let told: Vec<(Output, Value)> = told.collect();
    let without = told[0].1["error"]["message"]
        .to_string()
        .contains("no kernels were built in");
    if without {
        println!("skipped: {}", told[0].1["error"]["message"]);
    }
    (!without).then_some(told)
}

#[test]
fn ranks_of_several_hosts_go_by_nccl_and_are_judged() {
    for (words, local, kernel) in [
        ("--op gemm-all-reduce", 1, "gemm_bf16_64 + ncclAllReduce"),
        (
            "--op gemm-reduce-scatter --route nccl",
            2,
            "gemm_bf16_64 + ncclReduceScatter",
        ),
        ("--op all-reduce", 1, "ncclAllReduce"),
    ] {
        let Some(told) = launched(words, local, "libnccl.so.2") else {
            return;
        };
        for (rank, (output, said)) in told.iter().enumerate() {
            assert!(output.status.success(), "rank {rank}: {output:?}");
            // Rank 0 reports for all.
            assert_eq!(said.is_object(), rank == 0, "rank {rank}: {said}");
        }
        let report = &told[0].1;
        assert_eq!(
            (&report["route"], &report["kernel"]),
            (&"nccl".into(), &kernel.into()),
            "{report}"
        );
        let reason = report["route_reason"].to_string();
        assert!(
            words.contains("nccl") || reason.contains("ranks on several hosts"),
            "{reason}"
        );
    }
}

#[test]
fn without_nccl_and_by_other_routes_they_are_refused_with_the_reason() {
    for (words, nccl, why) in [
        ("--op gemm-all-reduce", "none.so", "NCCL was not considered"),
        (
            "--op gemm-all-reduce --route nccl",
            "none.so",
            "route nccl is not available",
        ),
        (
            "--op gemm-all-reduce --route fused",
            "libnccl.so.2",
            "for the ranks of one host",
        ),
    ] {
        let Some(told) = launched(words, 1, nccl) else { return };
        for (rank, (output, said)) in told.iter().enumerate() {
            assert_eq!(output.status.code(), Some(4), "rank {rank}: {output:?}");
            let message = said["error"]["message"].to_string();
            assert!(message.contains(why), "rank {rank}: {message}");
        }
    }
}
