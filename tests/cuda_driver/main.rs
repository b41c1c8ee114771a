//! The CUDA driver without a GPU: the same calls against a stand-in for libcuda.so (`fake.c`), which is strict about
//! contexts, streams and flags. It shows that the calls are well-formed, not that a GPU does what they ask.
//!
//! The dynamic loader reads its search path once, so each test starts this program anew with the library on it.
#![cfg(all(target_os = "linux", feature = "cuda"))]

mod inside;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Compiles the stand-in, once for each set of flags.
fn library(folder: &str, flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    // Written beside and renamed: another run may be loading it.
    let part = folder.join(format!("part-{}", std::process::id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(compiler)
        .args(["-std=gnu11", "-O1", "-shared", "-fPIC"])
        .args(flags)
        .arg("-I")
        .arg(root.join("csrc"))
        .arg("-o")
        .arg(&part)
        .arg(root.join("tests/cuda_driver/fake.c"))
        .status()
        .expect("a C compiler");
    assert!(status.success());
    std::fs::rename(&part, folder.join("libcuda.so")).unwrap();
    folder
}

fn complete() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| library("fake-cuda", &[]))
}

/// Runs one of the tests in `inside` in a process of its own that finds the library in `folder`.
fn run_inside(test: &str, folder: &Path, mode: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", &format!("inside::{test}")])
        .env("LD_LIBRARY_PATH", folder)
        .env("FAKE_CUDA", mode)
        // That of this machine knows nothing of the stand-in's devices.
        .env("TILEWEAVE_NVML", "/nowhere/libnvidia-ml.so")
        .env_remove("CUDA_DEVICE_MAX_CONNECTIONS")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test}, {mode}: {text}"
    );
}

macro_rules! with_library {
    ($($test:ident: $mode:literal),* $(,)?) => {$(
        #[test]
        fn $test() {
            run_inside(stringify!($test), complete(), $mode);
        }
    )*};
}

with_library!(
    an_old_driver_is_refused: "old",
    no_gpu_is_an_error: "no-gpu",
    another_gpu_than_was_built_for_is_an_error: "sm_75",
    memory_and_copies: "",
    streams_and_events: "",
    streams_tell_their_place_and_are_waited_for: "",
    host_words_come_from_a_stock: "",
    kernels: "",
    graphs: "",
    clusters_are_counted_by_the_driver: "",
    kernels_of_hopper_are_left_alone_elsewhere: "sm_80",
    tensor_maps: "",
    virtual_memory: "",
    shares_are_green_contexts: "",
    shares_without_green_contexts_cap_their_grids: "no-green",
    multicast: "",
    places_that_are_not_there: "",
    queues: "",
    the_machine_by_the_driver_alone: "",
);

#[test]
fn a_library_without_multicast_serves_all_the_same() {
    let folder = library("cuda-without-multicast", &["-DWITHOUT_MULTICAST"]);
    run_inside("a_library_without_multicast_serves_all_the_same", &folder, "");
}

#[test]
fn no_library_is_an_error() {
    let empty = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-cuda");
    std::fs::create_dir_all(&empty).unwrap();
    run_inside("no_library_is_an_error", &empty, "");
}

#[test]
fn a_library_that_lacks_a_symbol_is_an_error() {
    let folder = library("incomplete-cuda", &["-DWITHOUT_ELAPSED_TIME"]);
    run_inside("a_library_that_lacks_a_symbol_is_an_error", &folder, "");
}
