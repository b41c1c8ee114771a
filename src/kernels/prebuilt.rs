//! The fatbin of crate `tileweave-kernels`, if it is of these sources.

use tileweave_kernels as shipped;

use super::CSRC_DIGEST;

/// A kernel and its host code share the layout of their words: any other source may have another.
const OURS: bool = equal(shipped::CSRC_DIGEST.as_bytes(), CSRC_DIGEST.as_bytes());

/// The kernels for every architecture of [`ARCHS`]; `None`: see [`REASON`].
pub static FATBIN: Option<&[u8]> = if OURS { shipped::FATBIN } else { None };
/// What is in [`FATBIN`]: machine code ("sm_80") and PTX ("compute_80").
pub static ARCHS: &[&str] = if FATBIN.is_some() { shipped::ARCHS } else { &[] };
/// Version of the nvcc that built it.
pub static NVCC_VERSION: Option<&str> = if FATBIN.is_some() {
    Some(shipped::NVCC_VERSION)
} else {
    None
};
/// Empty: what ptxas said is not shipped.
pub static PTXAS_REPORT: &str = "";
/// Why there is no fatbin.
pub static REASON: &str = match (shipped::FATBIN, OURS) {
    (Some(_), true) => "",
    (None, _) => {
        "the crate tileweave-kernels is a source checkout, which holds no fatbin: make it with `cargo run -p \
         tileweave-release`, or compile the kernels with the feature build-kernels"
    }
    (Some(_), false) => concat!(
        "the crate tileweave-kernels holds kernels of other sources than those of this tileweave ",
        env!("CARGO_PKG_VERSION"),
        ": take its release of the same version, or compile the kernels with the feature build-kernels"
    ),
};

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut same = a.len() == b.len();
    let mut i = 0;
    while same && i < a.len() {
        same = a[i] == b[i];
        i += 1;
    }
    same
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn digests_are_compared_whole() {
        assert!(equal(b"ab", b"ab"));
        assert!(!equal(b"ab", b"ac") && !equal(b"ab", b"abc") && !equal(b"ab", b""));
    }
}
