//! Looks whether the fatbin is here: a published crate has it, a git checkout only where a release was made.

use std::fs;

#[allow(dead_code)]
#[path = "fatbin/manifest.rs"]
mod manifest;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fatbin)");
    // The folder: cargo would take a file that is not there for one that has changed.
    println!("cargo::rerun-if-changed=fatbin");
    // One of another release may have been left in a checkout. Whoever makes a release compares digests.
    if fs::metadata("fatbin/kernels.fatbin").is_ok_and(|file| file.len() == manifest::FATBIN_BYTES) {
        println!("cargo::rustc-cfg=fatbin");
    }
}
