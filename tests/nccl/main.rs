//! The real library, of a wheel from PyPI: that it is found where wheels keep it, loads without a GPU, has every symbol, and answers
//! its version. `.ci/toolchain` installs one and names its folder in `TILEWEAVE_NCCL_WHEEL`; without, these are skipped, unless
//! `TILEWEAVE_REQUIRE_NCCL` is 1.
#![cfg(all(feature = "cuda", target_os = "linux"))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tileweave::Error;
use tileweave::nccl::{Communicators, Config, Library};

const FOLDER: &str = "TILEWEAVE_NCCL_WHEEL";
/// Where a wheel keeps it.
const FILE: &str = "nvidia/nccl/lib/libnccl.so.2";

/// The folder that the wheel was installed into.
fn wheel() -> Option<PathBuf> {
    let folder = std::env::var_os(FOLDER)
        .map(PathBuf::from)
        .filter(|folder| folder.join(FILE).is_file());
    let required = std::env::var("TILEWEAVE_REQUIRE_NCCL").is_ok_and(|value| value == "1");
    assert!(
        folder.is_some() || !required,
        "no {FILE} below {FOLDER}, and TILEWEAVE_REQUIRE_NCCL is 1"
    );
    if folder.is_none() {
        println!("skipped: {FOLDER} names no folder with {FILE} (pip install --target FOLDER nvidia-nccl-cu12)");
    }
    folder
}

/// The version that pip wrote down: of `nvidia_nccl_cu12-2.32.3.dist-info`, 2.32.3.
fn version_by_pip(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("the folder").flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let version = names.find_map(|name| {
        let version = name.strip_suffix(".dist-info")?.strip_prefix("nvidia_nccl_cu1")?;
        Some(version.split_once('-')?.1.to_string())
    });
    version.expect("what pip notes of a wheel")
}

#[test]
fn a_wheel_loads_without_a_gpu_and_answers_its_version() {
    let Some(folder) = wheel() else { return };
    let library = Library::open(folder.join(FILE).as_os_str()).expect("a library");
    assert_eq!(library.version(), version_by_pip(&folder));
    // From here on the process has it, as PyTorch's processes do.
    let found = Library::find().expect("what is loaded");
    if std::env::var_os("TILEWEAVE_NCCL").is_none() {
        assert_eq!(found.name(), "libnccl.so.2, loaded before");
    }
    assert_eq!(found.version(), library.version());
}

/// With a GPU a clique of one is made; without, NCCL says why not. Both end.
#[test]
fn what_the_real_library_says_is_understood() {
    let Some(folder) = wheel() else { return };
    let library = Library::open(folder.join(FILE).as_os_str()).expect("a library");
    let config = Config {
        deadline: Duration::from_secs(60),
        most_ctas: None,
    };
    let made = library
        .unique_id()
        .and_then(|id| Communicators::new(&library, &id, 1, &[0], config, Box::new(|_, body| body())));
    match made {
        Ok(made) => made.close(Duration::from_secs(60)).expect("an orderly end"),
        Err(Error::Driver { call, code, message }) => {
            assert!(call.contains("nccl") || call.contains("NCCL"), "{call}");
            assert!(code != 0 && code != 7 && !message.is_empty(), "{code}: {message}");
            println!("without a usable GPU: {call} failed: {message} ({code})");
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// By itself, in a process that has loaded nothing: where the loader knows none, Python's packages are looked through.
#[test]
fn a_wheel_is_found_by_pythonpath() {
    let Some(folder) = wheel() else { return };
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "--ignored", "--nocapture", "says_what_is_found"])
        .env("PYTHONPATH", &folder)
        .env_remove("TILEWEAVE_NCCL")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().find_map(|line| line.strip_prefix("found "));
    let (name, version) = told
        .and_then(|told| told.split_once(" of version "))
        .expect("a word of it");
    // A machine that has NCCL where the loader looks finds that one.
    if name != "libnccl.so.2" {
        assert_eq!(
            (name, version),
            (&*folder.join(FILE).to_string_lossy(), &*version_by_pip(&folder))
        );
    }
}

#[test]
#[ignore = "run by a_wheel_is_found_by_pythonpath, in a process of its own"]
fn says_what_is_found() {
    match Library::find() {
        Ok(library) => println!("\nfound {} of version {}", library.name(), library.version()),
        Err(error) => println!("\n{error}"),
    }
}
