//! Compiles `csrc/kernels/kernels.cc` into one fatbin with nvcc, for the build scripts of the library and of `tools`, and
//! for the program that makes a release.
//!
//! nvcc is `$NVCC`, else `$CUDA_HOME/bin/nvcc`, else the first on `$PATH`; no GPU is asked, so any machine builds for all.
//! The fatbin holds machine code alone: nothing is compiled at run time, and a GPU that is not covered gets an error instead
//! of a slow surprise. Who wants the other, for GPUs that nobody knew of, asks for PTX by `$TILEWEAVE_CUDA_ARCHS` ([`archs`]).

#[path = "archs.rs"]
mod archs;
#[path = "cache.rs"]
mod cache;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The oldest nvcc that is tried: CUDA 12.5 is also the oldest driver that the crate works with.
const OLDEST: (u32, u32) = (12, 5);

/// `-fmad=false`: the kernels say where they fuse; the simulator must be able to round as often.
const FLAGS: &str = "-x cu -std=c++17 -O3 -fmad=false --expt-relaxed-constexpr -fatbin --threads=0 -Xptxas=-v";

/// What is in a fatbin.
pub struct Built {
    /// "sm_80" for machine code, "compute_80" for PTX.
    pub archs: Vec<String>,
    /// nvcc's.
    pub version: String,
}

/// Builds the fatbin and writes `OUT_DIR/kernels.rs`, to be included by the crate. `Err` says why there is no fatbin,
/// after writing the same constants without one.
pub fn embed(csrc: &Path) -> Result<(), String> {
    let out = out_dir()?;
    watch(csrc)?;
    let digest = digest(csrc)?;
    let list = env::var("TILEWEAVE_CUDA_ARCHS").unwrap_or_default();
    match compile(csrc, &out, &list) {
        Ok(built) => write_constants(&out, Some(&built), &digest, ""),
        Err(reason) => write_constants(&out, None, &digest, &reason).and(Err(reason)),
    }
}

/// The constants alone, where nothing is to be compiled.
#[allow(dead_code, reason = "the library calls it, tools does not")]
pub fn embed_nothing(csrc: &Path, reason: &str) -> Result<(), String> {
    watch(csrc)?;
    write_constants(&out_dir()?, None, &digest(csrc)?, reason)
}

/// SHA-256 of all that nvcc reads under `csrc`, with the files' names.
pub fn digest(csrc: &Path) -> Result<String, String> {
    let text = cache::strung(csrc, &[]).map_err(|e| format!("{}: {e}", csrc.display()))?;
    Ok(sha256(&text))
}

/// As `sha256sum` writes it.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Something for cargo, where this is a build script.
fn tell_cargo(what: &str) {
    if env::var_os("OUT_DIR").is_some() {
        println!("cargo::{what}");
    }
}

fn out_dir() -> Result<PathBuf, String> {
    Ok(env::var_os("OUT_DIR")
        .ok_or("OUT_DIR is not set: cargo sets it")?
        .into())
}

/// Writes `kernels.fatbin` and `ptxas.txt` into the folder `out`, for the architectures of `list` or, if it is empty, all
/// that are supported.
pub fn compile(csrc: &Path, out: &Path, list: &str) -> Result<Built, String> {
    let nvcc = find()?;
    tell_cargo(&format!("rerun-if-changed={}", nvcc.display()));
    let fail = |why: String| format!("{} {why}", nvcc.display());
    let text = run(Command::new(&nvcc).arg("--version"))?;
    let (release, version) = parse_version(&text).ok_or_else(|| fail("--version names no version: not nvcc".into()))?;
    if release < OLDEST {
        return Err(fail(format!("is version {version}; 12.5 or later is needed")));
    }
    let archs = if list.trim().is_empty() {
        archs::choose(&run(Command::new(&nvcc).arg("--list-gpu-code"))?, release)
    } else {
        archs::parse(list)?
    };
    if archs.is_empty() {
        return Err(fail(format!("{version} knows none of sm_80, sm_90, sm_100")));
    }
    let mut options: Vec<String> = FLAGS.split(' ').map(String::from).collect();
    // An option since 12.8; what it makes is read by drivers since 12.4.
    options.extend((release >= (12, 8)).then(|| "--compress-mode=size".to_string()));
    options.extend(archs.iter().map(archs::Arch::option));
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
            tell_cargo(&format!("warning=TILEWEAVE_NVCC_CACHE keeps nothing: {error}"));
        }
    }
    let archs = archs.iter().flat_map(archs::Arch::contents).collect();
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
    tell_cargo("rerun-if-env-changed=PATH");
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

fn watch(csrc: &Path) -> Result<(), String> {
    for name in ["NVCC", "CUDA_HOME", "TILEWEAVE_CUDA_ARCHS", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // cargo watches a folder with all that is in it. The machines that are simulated are not nvcc's: named here is all but that.
    for folder in [csrc.to_path_buf(), csrc.join("machine")] {
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for entry in entries.flatten() {
            if !["machine", "sim", "timed"]
                .iter()
                .any(|other| entry.file_name() == *other)
            {
                println!("cargo::rerun-if-changed={}", entry.path().display());
            }
        }
    }
    Ok(())
}

fn write_constants(out: &Path, built: Option<&Built>, digest: &str, reason: &str) -> Result<(), String> {
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
         /// The kernels for every architecture of [`ARCHS`]; `None`: not built, see [`REASON`].\n\
         pub static FATBIN: Option<&[u8]> = {fatbin};\n\
         /// What is in [`FATBIN`]: machine code (\"sm_80\") and PTX (\"compute_80\").\npub static ARCHS: &[&str] = &{archs:?};\n\
         /// Version of the nvcc that built it.\npub static NVCC_VERSION: Option<&str> = {version:?};\n\
         /// What ptxas said of every kernel: registers, stack, spills.\npub static PTXAS_REPORT: &str = {report};\n\
         /// Digest of the kernels' sources, those of this build, whether compiled or not.\n\
         pub static CSRC_DIGEST: &str = {digest:?};\n\
         /// Why there is no fatbin.\npub static REASON: &str = {reason:?};\n"
    );
    write(&out.join("kernels.rs"), &text)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
