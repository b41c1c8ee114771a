//! The built program, as its users and their scripts see it: words, JSON, exit codes, files.

mod bench;
mod explore;
mod faults;
mod files;
#[cfg(target_os = "linux")]
mod hosts;
#[cfg(target_os = "linux")]
mod launchers;
mod layer;
mod operations;
mod overlap;
#[cfg(target_os = "linux")]
mod processes;
mod timelines;
mod topo;
mod usage;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// How a call ended.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs the program on the simulated node; `words` are split at white space.
fn tileweave(words: &str) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_tileweave"))
        .args(words.split_whitespace())
        .output();
    let output = output.expect("the program was built beside this test");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program prints UTF-8");
    Ended {
        code: output.status.code().expect("the program was ended by no signal"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

impl Ended {
    /// Standard output as the one JSON object it has to be.
    fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}; standard error: {}", self.stdout, self.stderr));
        assert!(value.is_object(), "{value}");
        value
    }

    /// The one object of a success.
    fn done(&self) -> Value {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.json()
    }

    /// The `error` object of a failure with this exit code and kind; the message also stands in one readable line on
    /// standard error.
    fn failed(&self, code: i32, kind: &str) -> Value {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let object = self.json();
        let error = object["error"].clone();
        assert_eq!(error["kind"], kind, "{error}");
        let message = error["message"].as_str().expect("a message").to_string();
        assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        assert!(
            self.stderr.lines().any(|line| line.ends_with(&message)),
            "{message:?} is not in {:?}",
            self.stderr
        );
        assert!(
            !self.stderr.contains("panicked") && !self.stderr.contains("RUST_BACKTRACE"),
            "{}",
            self.stderr
        );
        error
    }
}

/// `tileweave run --device sim --json` with `words`.
fn run(words: &str) -> Ended {
    tileweave(&format!("run --device sim --json {words}"))
}

/// A folder of one test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("readable");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
