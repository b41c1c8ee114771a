//! Compiles `csrc/kernels/kernels.cc` into one fatbin with nvcc, for the build scripts of the library and of `tools`.
//!
//! nvcc is `$NVCC`, else `$CUDA_HOME/bin/nvcc`, else the first on `$PATH`; no GPU is asked, so any machine builds for all.
//! The fatbin holds machine code alone, no PTX: nothing is compiled at run time, and a GPU that is not covered gets an
//! error instead of a slow surprise. Targets, or those of `$TILEWEAVE_CUDA_ARCHS` ("80,90a,100f"):
//!
//! - sm_80: runs on all of 8.x;
//! - sm_90a: Hopper with its own instructions. By `-gencode`: `-arch=sm_90a` would add a pass for plain compute_90;
//! - sm_100f (nvcc 12.9 and later, else sm_100a): the family of B200 and B300, the Blackwell parts with NVLink. The
//!   families 110f and 120f have no peers to talk to.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest nvcc that is tried: CUDA 12.4 is also the oldest driver that the crate works with.
const OLDEST: (u32, u32) = (12, 4);

struct Built {
    archs: Vec<String>,
    version: String,
}

/// Builds the fatbin and writes `OUT_DIR/kernels.rs`, to be included by the crate. `Err` says why there is no fatbin,
/// after writing the same constants without one.
pub fn embed(csrc: &Path) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo")?);
    watch(csrc)?;
    let built = build(csrc, &out);
    match &built {
        Ok(built) => write_constants(&out, Some(built), ""),
        Err(reason) => write_constants(&out, None, reason),
    }?;
    built.map(|_| ())
}

/// The constants alone, where nothing is to be compiled.
pub fn embed_nothing(reason: &str) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run by cargo")?);
    write_constants(&out, None, reason)
}

fn build(csrc: &Path, out: &Path) -> Result<Built, String> {
    let nvcc = find()?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let version = run(&nvcc, &["--version"])?;
    let version = parse_version(&version).ok_or_else(|| format!("{} --version names no version: not nvcc", nvcc.display()))?;
    if (version.0, version.1) < OLDEST {
        let (major, minor) = OLDEST;
        return Err(format!(
            "{} is version {}, older than {major}.{minor}",
            nvcc.display(),
            version.2
        ));
    }
    let archs = match env::var("TILEWEAVE_CUDA_ARCHS") {
        Ok(list) if !list.trim().is_empty() => parse_archs(&list)?,
        _ => choose_archs(&run(&nvcc, &["--list-gpu-code"])?, (version.0, version.1)),
    };
    if archs.is_empty() {
        return Err(format!(
            "{} {} knows none of sm_80, sm_90, sm_100",
            nvcc.display(),
            version.2
        ));
    }
    let fatbin = out.join("kernels.fatbin");
    let mut command = Command::new(&nvcc);
    command.args([
        "-x",
        "cu",
        "-std=c++17",
        "-O3",
        "-fmad=false",
        "-fatbin",
        "--threads=0",
        "-Xptxas=-v",
    ]);
    command.arg("-I").arg(csrc).arg("-I").arg(csrc.join("machine/cuda"));
    for arch in &archs {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    command.arg("-o").arg(&fatbin).arg(csrc.join("kernels/kernels.cc"));
    let output = command
        .output()
        .map_err(|e| format!("{} cannot be run: {e}", nvcc.display()))?;
    let report = [output.stdout, output.stderr].concat();
    let report = String::from_utf8_lossy(&report);
    if !output.status.success() {
        let lines = report
            .lines()
            .filter(|l| !l.starts_with("ptxas info") && !l.trim().is_empty());
        let first: Vec<_> = lines.take(8).collect();
        return Err(format!("{command:?} failed ({}): {}", output.status, first.join(" | ")));
    }
    write(&out.join("ptxas.txt"), &report)?;
    Ok(Built {
        archs: archs.iter().map(|a| format!("sm_{a}")).collect(),
        version: version.2,
    })
}

fn find() -> Result<PathBuf, String> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    if let Some(nvcc) = env::var_os("NVCC").filter(|v| !v.is_empty()) {
        let nvcc = PathBuf::from(nvcc);
        let found = nvcc.is_file() || (nvcc.components().count() == 1 && on_path(&nvcc).is_some());
        return found
            .then_some(nvcc.clone())
            .ok_or(format!("NVCC={} is not a file", nvcc.display()));
    }
    let mut searched = vec!["NVCC (not set)".to_string()];
    match env::var_os("CUDA_HOME").filter(|v| !v.is_empty()) {
        Some(home) => {
            let nvcc = Path::new(&home).join("bin").join(&name);
            if nvcc.is_file() {
                return Ok(nvcc);
            }
            searched.push(format!("CUDA_HOME ({} is not there)", nvcc.display()));
        }
        None => searched.push("CUDA_HOME (not set)".into()),
    }
    println!("cargo::rerun-if-env-changed=PATH");
    searched.push("PATH".into());
    on_path(Path::new(&name)).ok_or_else(|| format!("nvcc was not found; searched: {}", searched.join(", ")))
}

fn on_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

fn run(nvcc: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(nvcc).args(args).output();
    let output = output.map_err(|e| format!("{} cannot be run: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(format!(
            "{} {} failed ({})",
            nvcc.display(),
            args.join(" "),
            output.status
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Major, minor and the full text, from "Cuda compilation tools, release 13.0, V13.0.88".
fn parse_version(text: &str) -> Option<(u32, u32, String)> {
    let full = text
        .split_whitespace()
        .find(|word| word.starts_with('V') && word.contains('.'))?[1..]
        .to_string();
    let mut parts = full.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, full))
}

fn parse_archs(list: &str) -> Result<Vec<String>, String> {
    let archs = list.split([',', ' ']).filter(|word| !word.is_empty());
    archs
        .map(|word| {
            let arch = word.trim_start_matches("sm_");
            let number: Option<u32> = arch.trim_end_matches(['a', 'f']).parse().ok();
            match number {
                Some(80..) => Ok(arch.to_string()),
                _ => Err(format!(
                    "TILEWEAVE_CUDA_ARCHS names {word:?}: expected sm_80 or later, like 80,90a,100f"
                )),
            }
        })
        .collect()
}

fn choose_archs(known: &str, version: (u32, u32)) -> Vec<String> {
    let blackwell = if version >= (12, 9) { "100f" } else { "100a" };
    let wanted = [("sm_80", "80"), ("sm_90", "90a"), ("sm_100", blackwell)];
    let known: Vec<_> = known.split_whitespace().collect();
    wanted
        .iter()
        .filter(|(base, _)| known.contains(base))
        .map(|(_, arch)| arch.to_string())
        .collect()
}

fn watch(csrc: &Path) -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", "TILEWEAVE_CUDA_ARCHS", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // cargo watches a folder with all that is in it. The simulated machine is not nvcc's: named here is all but that.
    for folder in [csrc.to_path_buf(), csrc.join("machine")] {
        for entry in fs::read_dir(&folder)
            .map_err(|e| format!("{}: {e}", folder.display()))?
            .flatten()
        {
            if !["machine", "sim"].iter().any(|other| entry.file_name() == *other) {
                println!("cargo::rerun-if-changed={}", entry.path().display());
            }
        }
    }
    Ok(())
}

fn write_constants(out: &Path, built: Option<&Built>, reason: &str) -> Result<(), String> {
    let (fatbin, report) = match built {
        Some(_) => (
            "Some(&ALIGNED.0)",
            "include_str!(concat!(env!(\"OUT_DIR\"), \"/ptxas.txt\"))",
        ),
        None => ("None", "\"\""),
    };
    let archs = built.map(|b| b.archs.clone()).unwrap_or_default();
    let version = built.map(|b| b.version.as_str());
    // The driver reads the fatbin's header in place: its bytes are aligned.
    let bytes = built.map_or(String::new(), |_| {
        "#[repr(C, align(64))]\nstruct Aligned<B: ?Sized>(B);\n\
         static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/kernels.fatbin\")));\n"
            .into()
    });
    let text = format!(
        "{bytes}\
         /// The kernels' machine code for every architecture of [`ARCHS`]; `None`: not built, see [`REASON`].\n\
         pub static FATBIN: Option<&[u8]> = {fatbin};\n\
         /// Architectures in [`FATBIN`].\npub static ARCHS: &[&str] = &{archs:?};\n\
         /// Version of the nvcc that built it.\npub static NVCC_VERSION: Option<&str> = {version:?};\n\
         /// What ptxas said of every kernel: registers, stack, spills.\npub static PTXAS_REPORT: &str = {report};\n\
         /// Why there is no fatbin.\npub static REASON: &str = {reason:?};\n"
    );
    write(&out.join("kernels.rs"), &text)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
