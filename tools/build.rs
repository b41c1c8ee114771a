//! Compiles the kernels for the GPU where nvcc is found.

#[path = "../build/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../build/nvcc.rs");
    println!("cargo::rerun-if-changed=../build/archs.rs");
    println!("cargo::rerun-if-changed=../build/cache.rs");
    // Without nvcc the program still runs on the simulated node; `--device cuda` then says why it cannot.
    if let Err(reason) = nvcc::embed("../csrc".as_ref()) {
        println!(
            "cargo::warning=built without CUDA kernels: {}",
            reason.replace('\n', " ")
        );
    }
}
