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

#[path = "cache.rs"]
mod cache;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest nvcc that is tried: CUDA 12.5 is also the oldest driver that the crate works with.
const OLDEST: (u32, u32) = (12, 5);

/// `-fmad=false`: the kernels say where they fuse; the simulator must be able to round as often.
const FLAGS: &str = "-x cu -std=c++17 -O3 -fmad=false --expt-relaxed-constexpr -fatbin --threads=0 -Xptxas=-v";

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
    Ok(env::var_os("OUT_DIR")
        .ok_or("OUT_DIR is not set: cargo sets it")?
        .into())
}

fn build(csrc: &Path, out: &Path) -> Result<Built, String> {
    let nvcc = find()?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let fail = |why: String| format!("{} {why}", nvcc.display());
    let text = run(Command::new(&nvcc).arg("--version"))?;
    let (release, version) = parse_version(&text).ok_or_else(|| fail("--version names no version: not nvcc".into()))?;
    if release < OLDEST {
        return Err(fail(format!("is version {version}; 12.5 or later is needed")));
    }
    let archs = match env::var("TILEWEAVE_CUDA_ARCHS") {
        Ok(list) if !list.trim().is_empty() => parse_archs(&list)?,
        _ => choose_archs(&run(Command::new(&nvcc).arg("--list-gpu-code"))?, release),
    };
    if archs.is_empty() {
        return Err(fail(format!("{version} knows none of sm_80, sm_90, sm_100")));
    }
    let mut options: Vec<String> = FLAGS.split(' ').map(String::from).collect();
    // An option since 12.8; what it makes is read by drivers since 12.4.
    options.extend((release >= (12, 8)).then(|| "--compress-mode=size".to_string()));
    options.extend(archs.iter().map(|a| format!("-gencode=arch=compute_{a},code=sm_{a}")));
    let files = ["kernels.fatbin", "ptxas.txt"].map(|name| out.join(name));
    let words = [options.as_slice(), &[text], &environment()].concat();
    let cache = cache::Cache::of(csrc, &words);
    if !cache.as_ref().is_some_and(|cache| cache.get(&files)) {
        let mut command = Command::new(&nvcc);
        command.args(&options);
        command.arg("-I").arg(csrc).arg("-I").arg(csrc.join("machine/cuda"));
        command.arg(csrc.join("kernels/kernels.cc")).arg("-o").arg(&files[0]);
        write(&files[1], &run(&mut command)?)?;
        // Sources that were written meanwhile may not be what was compiled.
        let unchanged = cache.filter(|cache| cache::Cache::of(csrc, &words).as_ref() == Some(cache));
        if let Some(Err(error)) = unchanged.map(|cache| cache.put(&files)) {
            println!("cargo::warning=TILEWEAVE_NVCC_CACHE keeps nothing: {error}");
        }
    }
    let archs = archs.iter().map(|a| format!("sm_{a}")).collect();
    Ok(Built { archs, version })
}

/// What else nvcc listens to.
fn environment() -> Vec<String> {
    let names = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"];
    names.map(|name| format!("{name}={:?}", env::var_os(name))).to_vec()
}

fn find() -> Result<PathBuf, String> {
    if let Some(nvcc) = env::var_os("NVCC").filter(|v| !v.is_empty()).map(PathBuf::from) {
        // As for CC: a path, or a name to be looked up.
        let named = nvcc.components().count() == 1;
        let found = if named {
            on_path(&nvcc)
        } else {
            Some(nvcc.clone()).filter(|f| f.is_file())
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
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|f| f.is_file())
}

/// What the command prints; `Err` holds the first lines of what went wrong.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output();
    let output = output.map_err(|e| format!("{command:?} cannot be run: {e}"))?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let telling = |line: &&str| !line.starts_with("ptxas info") && !line.trim().is_empty();
    let first: Vec<_> = text.lines().filter(telling).take(8).collect();
    Err(format!("{command:?} failed ({}): {}", output.status, first.join(" | ")))
}

/// Major and minor, and the full text, from "Cuda compilation tools, release 13.0, V13.0.88".
fn parse_version(text: &str) -> Option<((u32, u32), String)> {
    let mut words = text.split_whitespace();
    let full = words.find(|word| word.starts_with('V') && word.contains('.'))?[1..].to_string();
    let mut parts = full.split('.').map(|part| part.parse().ok());
    Some(((parts.next()??, parts.next()??), full))
}

fn parse_archs(list: &str) -> Result<Vec<String>, String> {
    let parse = |word: &str| {
        let arch = word.trim_start_matches("sm_");
        match arch.trim_end_matches(['a', 'f']).parse() {
            Ok(80u32..) => Ok(arch.to_string()),
            _ => Err(format!(
                "TILEWEAVE_CUDA_ARCHS names {word:?}: expected sm_80 or later, like 80,90a,100f"
            )),
        }
    };
    list.split([',', ' '])
        .filter(|word| !word.is_empty())
        .map(parse)
        .collect()
}

fn choose_archs(known: &str, version: (u32, u32)) -> Vec<String> {
    let blackwell = if version >= (12, 9) { "100f" } else { "100a" };
    let known: Vec<_> = known.split_whitespace().collect();
    let wanted = [("sm_80", "80"), ("sm_90", "90a"), ("sm_100", blackwell)].into_iter();
    wanted
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
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for entry in entries.flatten() {
            if !["machine", "sim"].iter().any(|other| entry.file_name() == *other) {
                println!("cargo::rerun-if-changed={}", entry.path().display());
            }
        }
    }
    Ok(())
}

fn write_constants(out: &Path, built: Option<&Built>, reason: &str) -> Result<(), String> {
    let (mut bytes, mut fatbin, mut report) = ("", "None", "\"\"");
    if built.is_some() {
        // The driver reads the fatbin's header in place: its bytes are aligned.
        bytes = "#[repr(C, align(64))]\nstruct Aligned<B: ?Sized>(B);\nstatic ALIGNED: &Aligned<[u8]> = \
                 &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/kernels.fatbin\")));\n";
        fatbin = "Some(&ALIGNED.0)";
        report = "include_str!(concat!(env!(\"OUT_DIR\"), \"/ptxas.txt\"))";
    }
    let archs = built.map(|b| b.archs.clone()).unwrap_or_default();
    let version = built.map(|b| b.version.as_str());
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
