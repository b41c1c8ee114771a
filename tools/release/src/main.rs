//! Makes the fatbin of crate `tileweave-kernels`, and checks what would be published (`docs/shipping.md`).
//!
//!     cargo run -p tileweave-release              # compiles, writes kernels/fatbin, checks both packages
//!     cargo run -p tileweave-release -- --check   # compiles, compares with kernels/fatbin/manifest.rs; writes nothing
//!
//! The compiler is fixed, so that the same sources make the same bytes on any machine. `.ci/toolchain` installs it.

mod manifest;
mod packages;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use manifest::Manifest;

#[allow(dead_code, reason = "the build scripts use the rest")]
#[path = "../../../build/nvcc.rs"]
mod nvcc;

/// The nvcc of releases: the oldest that can be had as Python wheels, where it comes with all that it needs since 13.0.
const NVCC: &str = "13.0.88";

/// What is published: machine code for GPUs with NVLink peers, PTX for those that nobody knew of.
const ARCHS: &str = "80+ptx,90a,100f";

/// The crate registry's limit for a package. The fatbin is compressed: a package of it is hardly smaller.
const MOST_BYTES: u64 = 10_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let out = env::temp_dir().join(format!("tileweave-release-{}", std::process::id()));
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => release(&out),
        ["--check"] => check(&out),
        _ => Err(format!("{arguments:?}: expected nothing, or --check")),
    };
    let cleared = if out.is_dir() {
        fs::remove_dir_all(&out).map_err(|e| failed(&out, e))
    } else {
        Ok(())
    };
    match done.and_then(|said| cleared.map(|()| said)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("release: {why}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn failed(path: &Path, error: std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn release(out: &Path) -> Result<String, String> {
    let (made, file) = make(out)?;
    let folder = root().join("kernels/fatbin");
    let (fatbin, written) = (folder.join("kernels.fatbin"), folder.join("manifest.rs"));
    fs::copy(file, &fatbin).map_err(|e| failed(&fatbin, e))?;
    fs::write(&written, made.text()).map_err(|e| failed(&written, e))?;
    packages::check_lists(root(), true)?;
    let packed = fits(packages::pack_kernels(root(), out)?, "the package of tileweave-kernels")?;
    Ok(format!(
        "kernels/fatbin/kernels.fatbin: {} bytes, SHA-256 {}\nits package builds and has {packed} bytes of {MOST_BYTES}\n\
         commit kernels/fatbin/manifest.rs, let .ci/run make the fatbin again, then publish from that commit:\n\
         \x20   cargo publish -p tileweave-kernels -p tileweave",
        made.bytes, made.digest
    ))
}

fn check(out: &Path) -> Result<String, String> {
    let (made, _) = make(out)?;
    let said = Manifest::known().compare(&made)?;
    packages::check_lists(root(), false)?;
    Ok(said)
}

fn fits(bytes: u64, what: &str) -> Result<u64, String> {
    if bytes > MOST_BYTES {
        return Err(format!("{what} has {bytes} bytes; the registry takes {MOST_BYTES}"));
    }
    Ok(bytes)
}

/// Compiles into `out`: what was made, and where it is.
fn make(out: &Path) -> Result<(Manifest, PathBuf), String> {
    let csrc = root().join("csrc");
    fs::create_dir_all(out).map_err(|e| failed(out, e))?;
    let sources = nvcc::digest(&csrc)?;
    let nvcc::Built { archs, version } = nvcc::compile(&csrc, out, ARCHS)?;
    if version != NVCC {
        return Err(format!(
            "nvcc is {version}, releases are made with {NVCC}: source .ci/toolchain"
        ));
    }
    if nvcc::digest(&csrc)? != sources {
        return Err("csrc was changed while it was compiled: start again".to_string());
    }
    let file = out.join("kernels.fatbin");
    let fatbin = fs::read(&file).map_err(|e| failed(&file, e))?;
    let made = Manifest {
        csrc: sources,
        digest: nvcc::sha256(&fatbin),
        bytes: fits(fatbin.len() as u64, "the fatbin")?,
        archs,
        nvcc: version,
    };
    Ok((made, file))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_fatbin_beyond_the_limit_is_refused() {
        assert_eq!(super::fits(10_000_000, "it"), Ok(10_000_000));
        let why = super::fits(10_000_001, "it").expect_err("one byte too many");
        assert!(why.contains("10000001") && why.contains("10000000"), "{why}");
    }
}
