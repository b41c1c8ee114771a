//! What the kernels cost a build: nvcc's time for all targets, and the fatbin's size. Limits that the project set itself:
//! 3 minutes and 8 MiB. One run, since it takes minutes of nothing but nvcc; without nvcc it says so and is done.

use std::time::Instant;

#[allow(dead_code)] // the build scripts use the rest
#[path = "../build/nvcc.rs"]
mod nvcc;

fn main() {
    let out = std::env::temp_dir().join(format!("tileweave-fatbin-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("a temporary folder");
    // SAFETY: nothing else runs in this process: no thread reads the environment.
    unsafe { std::env::set_var("OUT_DIR", &out) };
    let began = Instant::now();
    let made = nvcc::embed(concat!(env!("CARGO_MANIFEST_DIR"), "/csrc").as_ref());
    let seconds = began.elapsed().as_secs_f64();
    match made {
        Ok(()) => {
            let bytes = std::fs::metadata(out.join("kernels.fatbin")).map_or(0, |file| file.len());
            println!(
                "fatbin: {:.2} MiB of 8 MiB, built in {seconds:.0} s of 180 s",
                bytes as f64 / (1 << 20) as f64
            );
        }
        Err(reason) => println!("fatbin: not built: {reason}"),
    }
    std::fs::remove_dir_all(&out).expect("the temporary folder is ours");
}
