//! Compiles what is compiled: the kernels for the GPU with nvcc (feature `build-kernels`), the simulated machine for
//! feature `sim`.

#[path = "build/nvcc.rs"]
mod nvcc;
#[cfg(feature = "sim")]
#[path = "build/sim.rs"]
mod sim;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/nvcc.rs");
    println!("cargo::rerun-if-changed=build/archs.rs");
    println!("cargo::rerun-if-changed=build/cache.rs");
    let csrc = "csrc".as_ref();
    let kernels = if std::env::var_os("DOCS_RS").is_some() {
        nvcc::embed_nothing(csrc, "documentation builds compile no kernels")
    } else if cfg!(feature = "build-kernels") {
        nvcc::embed(csrc)
    } else {
        nvcc::embed_nothing(
            csrc,
            "tileweave was built without its features prebuilt-kernels and build-kernels",
        )
    };
    if let Err(reason) = kernels {
        println!("cargo::error={reason} (nvcc is needed by the feature build-kernels alone)");
        std::process::exit(1);
    }
    #[cfg(feature = "sim")]
    sim::compile();
}
