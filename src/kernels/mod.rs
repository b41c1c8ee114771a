//! The kernels, compiled: by this build with feature `build-kernels`, else by tileweave's authors with feature
//! `prebuilt-kernels`. Without either, bring a fatbin of your own: `nvcc -fatbin` of `csrc/kernels/kernels.cc` with the flags in
//! `build/nvcc.rs`. `docs/shipping.md`.

#[cfg(all(feature = "prebuilt-kernels", not(feature = "build-kernels")))]
mod prebuilt;

#[allow(dead_code, reason = "a fatbin that is shipped is taken instead")]
mod built {
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

pub use built::CSRC_DIGEST;
#[cfg(any(feature = "build-kernels", not(feature = "prebuilt-kernels")))]
pub use built::{ARCHS, FATBIN, NVCC_VERSION, PTXAS_REPORT, REASON};
#[cfg(all(feature = "prebuilt-kernels", not(feature = "build-kernels")))]
pub use prebuilt::{ARCHS, FATBIN, NVCC_VERSION, PTXAS_REPORT, REASON};

#[cfg(any(test, all(feature = "cuda", any(target_os = "linux", target_os = "windows"))))]
use crate::error::{Error, Result};

/// Whether a driver of this CUDA version loads what the nvcc of [`NVCC_VERSION`] made: machine code of one major version of CUDA
/// is for drivers of the same and later ones.
#[cfg(all(feature = "cuda", any(target_os = "linux", target_os = "windows")))]
pub(crate) fn check_driver(driver: (u32, u32)) -> Result<()> {
    match NVCC_VERSION {
        Some(nvcc) => loads(driver, nvcc),
        None => Ok(()),
    }
}

/// What of [`ARCHS`] a driver of this CUDA version takes. It compiles PTX, and that of a newer nvcc than itself, by the minor
/// version too, it does not know.
#[cfg(all(feature = "cuda", any(target_os = "linux", target_os = "windows")))]
pub(crate) fn archs_for(driver: (u32, u32)) -> &'static [&'static str] {
    static MACHINE_CODE: std::sync::OnceLock<Vec<&str>> = std::sync::OnceLock::new();
    match NVCC_VERSION {
        Some(nvcc) if !compiles(driver, nvcc) => {
            MACHINE_CODE.get_or_init(|| ARCHS.iter().copied().filter(|arch| arch.starts_with("sm_")).collect())
        }
        _ => ARCHS,
    }
}

/// Whether a driver of this CUDA version knows the PTX of an nvcc.
#[cfg(any(test, all(feature = "cuda", any(target_os = "linux", target_os = "windows"))))]
fn compiles(driver: (u32, u32), nvcc: &str) -> bool {
    let mut words = nvcc.split('.').map(|word| word.parse().unwrap_or(0));
    let (major, minor) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    driver >= (major, minor)
}

#[cfg(any(test, all(feature = "cuda", any(target_os = "linux", target_os = "windows"))))]
fn loads((major, minor): (u32, u32), nvcc: &str) -> Result<()> {
    let needed: u32 = nvcc.split('.').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    if major >= needed {
        return Ok(());
    }
    Err(Error::Unavailable {
        what: "CUDA".to_string(),
        reason: format!(
            "the kernels were compiled by nvcc {nvcc}, whose code needs a driver of CUDA {needed}.0 or later, and this one's is \
             {major}.{minor}: install a newer driver, or compile the kernels with an nvcc of CUDA {major} (feature \
             build-kernels)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{compiles, loads};

    #[test]
    fn a_driver_of_an_older_major_version_is_told_what_it_lacks() {
        assert!(loads((13, 0), "13.0.88").is_ok());
        assert!(loads((13, 0), "12.9.86").is_ok());
        assert!(
            loads((12, 5), "12.9.86").is_ok(),
            "machine code does not mind the minor version"
        );
        let why = loads((12, 8), "13.0.88").expect_err("too old").to_string();
        assert!(
            why.contains("13.0.88") && why.contains("12.8") && why.contains("CUDA 13.0"),
            "{why}"
        );
    }
    #[test]
    fn ptx_minds_the_minor_version_too() {
        assert!(compiles((13, 0), "13.0.88") && compiles((13, 1), "13.0.88") && compiles((14, 0), "13.2.1"));
        assert!(!compiles((12, 5), "12.9.86") && !compiles((12, 9), "13.0.88"));
    }
}
