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
    let out = out_dir()?;
    watch(csrc)?;
    match build(csrc, &out) {
        Ok(built) => write_constants(&out, Some(&built), ""),
        Err(reason) => write_constants(&out, None, &reason).and(Err(reason)),
    }
}

/// The constants alone, where nothing is to be compiled.
#[allow(dead_code, reason = "the library calls it, tools does not")]
pub fn embed_nothing(reason: &str) -> Result<(), String> {
    write_constants(&out_dir()?, None, reason)
}

fn out_dir() -> Result<PathBuf, String> {
    env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or("OUT_DIR is not set: cargo sets it".into())
}

fn build(csrc: &Path, out: &Path) -> Result<Built, String> {
    let nvcc = find()?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let fail = |why: String| format!("{} {why}", nvcc.display());
    let text = run(Command::new(&nvcc).arg("--version"))?;
    let (release, version) = parse_version(&text).ok_or_else(|| fail("--version names no version: not nvcc".into()))?;
    if release < OLDEST {
        return Err(fail(format!(
            "is version {version}, older than {}.{}",
            OLDEST.0, OLDEST.1
        )));
    }
    let archs = match env::var("TILEWEAVE_CUDA_ARCHS") {
        Ok(list) if !list.trim().is_empty() => parse_archs(&list)?,
        _ => choose_archs(&run(Command::new(&nvcc).arg("--list-gpu-code"))?, release),
    };
    if archs.is_empty() {
        return Err(fail(format!("{version} knows none of sm_80, sm_90, sm_100")));
    }
    let mut command = Command::new(&nvcc);
    command.args(
        "-x cu -std=c++17 -O3 -fmad=false -fatbin --threads=0 -Xptxas=-v --expt-relaxed-constexpr -compress-mode=size"
            .split(' '),
    );
    command.arg("-I").arg(csrc).arg("-I").arg(csrc.join("machine/cuda"));
    command.args(archs.iter().map(|a| format!("-gencode=arch=compute_{a},code=sm_{a}")));
    command
        .arg("-o")
        .arg(out.join("kernels.fatbin"))
        .arg(csrc.join("kernels/kernels.cc"));
    write(&out.join("ptxas.txt"), &run(&mut command)?)?;
    Ok(Built {
        archs: archs.iter().map(|a| format!("sm_{a}")).collect(),
        version,
    })
}

fn find() -> Result<PathBuf, String> {
    if let Some(nvcc) = env::var_os("NVCC").filter(|v| !v.is_empty()).map(PathBuf::from) {
        // As for CC: a path, or a name to be looked up.
        let found = if nvcc.components().count() == 1 {
            on_path(&nvcc)
        } else {
            nvcc.is_file().then(|| nvcc.clone())
        };
        return found.ok_or_else(|| format!("NVCC={} is not there", nvcc.display()));
    }
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let mut searched = String::from("NVCC (not set), CUDA_HOME (not set), PATH");
    if let Some(home) = env::var_os("CUDA_HOME").filter(|v| !v.is_empty()) {
        let nvcc = Path::new(&home).join("bin").join(&name);
        if nvcc.is_file() {
            return Ok(nvcc);
        }
        searched = format!("NVCC (not set), CUDA_HOME (no {}), PATH", nvcc.display());
    }
    on_path(Path::new(&name)).ok_or_else(|| format!("nvcc was not found; searched: {searched}"))
}

fn on_path(name: &Path) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed=PATH");
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// What the command prints; `Err` holds the first lines of what went wrong.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("{command:?} cannot be run: {e}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let lines = text
        .lines()
        .filter(|l| !l.starts_with("ptxas info") && !l.trim().is_empty());
    Err(format!(
        "{command:?} failed ({}): {}",
        output.status,
        lines.take(8).collect::<Vec<_>>().join(" | ")
    ))
}

/// Major and minor, and the full text, from "Cuda compilation tools, release 13.0, V13.0.88".
fn parse_version(text: &str) -> Option<((u32, u32), String)> {
    let full = text
        .split_whitespace()
        .find(|word| word.starts_with('V') && word.contains('.'))?[1..]
        .to_string();
    let mut parts = full.split('.').map(|part| part.parse().ok());
    Some(((parts.next()??, parts.next()??), full))
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
