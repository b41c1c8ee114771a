//! What cargo would put into the two packages: all that a user's build reads, nothing that is the workshop's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// All of tileweave-kernels, with the fatbin.
const KERNELS: [&str; 6] = [
    "Cargo.toml",
    "README.md",
    "build.rs",
    "fatbin/kernels.fatbin",
    "fatbin/manifest.rs",
    "src/lib.rs",
];

/// What cargo adds to every package.
const CARGOS: [&str; 3] = ["Cargo.lock", "Cargo.toml.orig", ".cargo_vcs_info.json"];

/// What is not published.
const WORKSHOP: [&str; 5] = [".ci/", "tools/", "kernels/", "benches/results/", "target/"];

/// Checks the lists of both packages.
pub fn check_lists(root: &Path, with_fatbin: bool) -> Result<(), String> {
    kernels(root, with_fatbin)?;
    library(root)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<String, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).current_dir(root).args(arguments).output();
    let output = output.map_err(|e| format!("cargo cannot be run: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo {} failed: {}", arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).replace('\\', "/"))
}

fn list(root: &Path, package: &str) -> Result<BTreeSet<String>, String> {
    let text = cargo(root, &["package", "--list", "--allow-dirty", "-p", package])?;
    Ok(text
        .lines()
        .map(String::from)
        .filter(|file| !CARGOS.contains(&file.as_str()))
        .collect())
}

fn kernels(root: &Path, with_fatbin: bool) -> Result<(), String> {
    let mut found = list(root, "tileweave-kernels")?;
    if !with_fatbin {
        // It may have been left by a release.
        found.insert("fatbin/kernels.fatbin".into());
    }
    let wanted = KERNELS.map(String::from).into();
    if found != wanted {
        return Err(format!("tileweave-kernels would hold {found:?}, not {wanted:?}"));
    }
    Ok(())
}

fn library(root: &Path) -> Result<(), String> {
    let found = list(root, "tileweave")?;
    let mut wanted = vec![PathBuf::from("build.rs")];
    for folder in ["csrc", "build", "src"] {
        files(&root.join(folder), &mut wanted)?;
    }
    let name = |path: &PathBuf| {
        path.strip_prefix(root)
            .unwrap_or(path)
            .to_string_lossy()
            .replace('\\', "/")
    };
    let lacks: Vec<_> = wanted.iter().map(name).filter(|file| !found.contains(file)).collect();
    let extra: Vec<_> = found
        .iter()
        .filter(|file| WORKSHOP.iter().any(|folder| file.starts_with(folder)))
        .collect();
    if lacks.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the package of tileweave would lack {lacks:?} and have {extra:?}"
    ))
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) -> Result<(), String> {
    let fail = |e| format!("{}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            files(&path, all)?;
        } else {
            all.push(path);
        }
    }
    Ok(())
}

/// Packs tileweave-kernels and builds it from there; returns the bytes of the package.
pub fn pack_kernels(root: &Path, out: &Path) -> Result<u64, String> {
    let package = "tileweave-kernels";
    let to = out.to_string_lossy();
    cargo(
        root,
        &[
            "package",
            "--quiet",
            "--allow-dirty",
            "-p",
            package,
            "--target-dir",
            &to,
        ],
    )?;
    let name = format!("{package}-{}.crate", env!("CARGO_PKG_VERSION"));
    let file = out.join("package").join(name);
    fs::metadata(&file)
        .map(|file| file.len())
        .map_err(|e| format!("{}: {e}", file.display()))
}
