//! Asks git for the commit. A package of its own: this runs again at every commit, and the kernels' build must not.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TILEWEAVE_COMMIT");
    // A bundle that is built outside its repository is told.
    let told = std::env::var("TILEWEAVE_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty());
    let commit = told.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}"); // grows at every commit and checkout
    }
    if let Some(commit) = commit {
        println!("cargo::rustc-env=TILEWEAVE_BUILT_FROM={commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.trim().to_string())
        .filter(|text| !text.is_empty())
}
