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
    println!("cargo::rerun-if-changed=build/cache.rs");
    let kernels = if std::env::var_os("DOCS_RS").is_some() {
        nvcc::embed_nothing("documentation builds compile no kernels")
    } else if cfg!(feature = "build-kernels") {
        nvcc::embed("csrc".as_ref())
    } else {
        nvcc::embed_nothing("tileweave was built without its feature build-kernels")
    };
    if let Err(reason) = kernels {
        println!("cargo::error=the feature build-kernels needs nvcc: {reason}");
        std::process::exit(1);
    }
    #[cfg(feature = "sim")]
    sim::compile();
}
