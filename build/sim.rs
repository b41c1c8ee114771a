//! The `sim` part of the build: the kernels and the simulated machine, compiled by the host's C++ compiler.

use std::path::{Path, PathBuf};

/// Compiles `csrc` for the simulated machine where the target is Linux; elsewhere the node answers that it is not there.
pub fn compile() {
    let env = |name| std::env::var(name).unwrap_or_default();
    if env("CARGO_CFG_TARGET_OS") != "linux" || std::env::var_os("DOCS_RS").is_some() {
        return;
    }
    let csrc = PathBuf::from("csrc");
    rerun_if_changed(&csrc);
    let machine = csrc.join("machine/sim");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .debug(false)
        .cpp_link_stdlib(None)
        .include(&csrc)
        .include(&machine)
        // The numerics contract: no contraction; no builtin may change a rounding.
        .flag("-ffp-contract=off")
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag("-fno-strict-aliasing")
        // Fibers stay on one thread: `tw_self` is one load away.
        .flag("-ftls-model=initial-exec")
        // A recorded register keeps its stack slot to itself up to mma_wait (docs/simulator.md).
        .flag_if_supported("-fstack-reuse=none")
        .flag_if_supported("-fno-stack-protector")
        .flag_if_supported("-Wno-unknown-pragmas")
        .file(machine.join("table.cc"))
        .file(csrc.join("schedule/host.cc"));
    for name in [
        "gemm.cc",
        "order.cc",
        "check.cc",
        "wgmma.cc",
        "pipeline.cc",
        "asynchronous.cc",
        "switch.cc",
    ] {
        build.file(machine.join("selftest").join(name));
    }
    let kernels = csrc.join("kernels/kernels.cc");
    if kernels.is_file() {
        build.file(kernels);
    }
    match build.try_compile("tileweave_sim").and_then(|()| compile_timed(&csrc)) {
        Ok(()) => println!("cargo:rustc-link-lib=m"),
        // `cargo check` for another architecture needs no compiler for it.
        Err(why) if env("TARGET") != env("HOST") => {
            println!("cargo:warning=the simulated node was not compiled: {why}")
        }
        Err(why) => {
            eprintln!("feature `sim` compiles csrc and needs a C++17 compiler (CXX, or c++ on the PATH): {why}");
            std::process::exit(1);
        }
    }
}

/// The kernels again, for the machine that only takes time. They have other names there, so that the two do not meet.
fn compile_timed(csrc: &Path) -> Result<(), cc::Error> {
    let machine = csrc.join("machine/timed");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .cpp_link_stdlib(None)
        .include(csrc)
        .include(&machine)
        .define("mx", "mx_timed")
        .define("tw", "tw_timed")
        .flag("-fno-exceptions")
        .flag("-fno-rtti")
        .flag("-fno-strict-aliasing")
        .flag("-ftls-model=initial-exec")
        .flag_if_supported("-fno-stack-protector")
        .flag_if_supported("-Wno-unknown-pragmas")
        // Values that are never computed are handed around.
        .flag_if_supported("-Wno-uninitialized")
        .flag_if_supported("-Wno-maybe-uninitialized")
        .file(machine.join("table.cc"))
        .file(csrc.join("kernels/kernels.cc"))
        .try_compile("tileweave_timed")
}

fn rerun_if_changed(folder: &Path) {
    println!("cargo:rerun-if-changed={}", folder.display());
}
