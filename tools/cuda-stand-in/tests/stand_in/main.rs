//! Tileweave's CUDA driver on the stand-in: groups, captures, failures, leaks, through the ABI of libcuda.so.
//!
//! The dynamic loader reads its search path once, so each test starts this program anew with the library on it.
#![cfg(target_os = "linux")]

mod adapter;
mod calls;
#[path = "../../../../tests/common/mod.rs"]
mod common;
mod failures;
mod graphs;
mod groups;
mod hosts;
mod leaks;
mod machine;
mod processes;
mod support;
mod threads;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A folder with the library under the names that libcuda.so has.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let program = std::env::current_exe().unwrap();
        let library = program.with_file_name("libcuda_stand_in.so");
        assert!(library.exists(), "{} is not there", library.display());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::os::unix::fs::symlink(&library, folder.join(name)).unwrap();
        }
        folder
    })
}

/// One of the ignored tests in a process of its own that finds the library.
fn inside(test: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("LD_LIBRARY_PATH", folder())
        // That of this machine knows nothing of the stand-in's devices.
        .env("TILEWEAVE_NVML", "/nowhere/libnvidia-ml.so")
        // What is found of simulated links is of no use to anybody else; and every test is to find it anew.
        .env("TILEWEAVE_CACHE", folder().join(test.replace("::", "-")))
        .env("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        .env_remove("CUDA_VISIBLE_DEVICES")
        .envs(environment.iter().copied());
    command
}

fn run_inside(test: &str, environment: &[(&str, &str)]) {
    let output = inside(test, environment).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test}, {environment:?}: {text}"
    );
}

macro_rules! with_library {
    ($($module:ident::$test:ident$(: $($name:ident = $value:literal),*)?;)*) => {
        /// One test for each that runs inside.
        mod outside {
            $(#[test]
            fn $test() {
                let environment: &[(&str, &str)] = &[$($((concat!("TILEWEAVE_STAND_IN_", stringify!($name)), $value)),*)?];
                super::run_inside(stringify!($module::$test).replace(' ', "").as_str(), environment);
            })*
        }
    };
}

with_library!(
    machine::devices_are_the_nodes;
    machine::memory_and_copies;
    machine::locked_memory_is_copied_when_its_turn_comes;
    machine::streams_and_events;
    machine::the_legacy_stream_waits_for_blocking_ones;
    machine::virtual_memory_is_shared_by_descriptors;
    calls::bad_calls_get_cudas_codes;
    calls::every_call_refuses_before_it_is_initialised;
    groups::two_ranks_have_the_bits_of_the_simulated_node;
    groups::four_ranks_have_the_bits_of_the_simulated_node: GPUS = "4";
    groups::virtual_ranks_are_green_contexts: GPUS = "1", SMS = "32";
    groups::sums_in_the_switch: MULTICAST = "1";
    groups::links_are_probed;
    threads::a_thread_for_each_rank;
    threads::whoever_polls_sees_the_end;
    graphs::a_capture_by_raw_calls_is_replayed;
    failures::a_rank_that_never_launches_is_named;
    failures::an_abort_ends_what_runs;
    leaks::groups_leave_nothing_behind;
    adapter::slices_are_launched_and_dropped;
    adapter::views_and_buffers_are_slices;
    adapter::what_nothing_orders_is_refused;
    adapter::another_object_of_the_context_must_keep_events_too;
    adapter::a_later_reader_does_not_uncover_an_earlier_launch;
    adapter::slices_of_a_stream_that_captures_are_refused;
    adapter::captures_are_for_the_unchecked_launch_without_events;
    adapter::a_group_keeps_its_streams;
    adapter::cudarcs_safe_layer_runs;
);
