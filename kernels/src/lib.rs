//! tileweave's kernels, compiled. For its feature `prebuilt-kernels`; see `docs/shipping.md` in its repository.
#![no_std]

#[path = "../fatbin/manifest.rs"]
mod manifest;

pub use manifest::{ARCHS, CSRC_DIGEST, FATBIN_BYTES, FATBIN_DIGEST, NVCC_VERSION};

/// The fatbin; `None` in a source checkout.
pub static FATBIN: Option<&[u8]> = embedded::FATBIN;

#[cfg(fatbin)]
mod embedded {
    /// The driver reads the fatbin's header in place.
    #[repr(C, align(64))]
    struct Aligned<B: ?Sized>(B);
    static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../fatbin/kernels.fatbin"));
    pub(crate) static FATBIN: Option<&[u8]> = Some(&ALIGNED.0);
}

#[cfg(not(fatbin))]
mod embedded {
    pub(crate) static FATBIN: Option<&[u8]> = None;
}
