//! Host types that device memory can be filled from and read into.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// A plain number: every bit pattern is a value and no byte is padding. `u8`, `u16`, `u32`, `i64`, `bf16`, `f16` and `f32`.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {}

macro_rules! elements {
    ($($type:ty),*) => { $(impl sealed::Sealed for $type {} impl Element for $type {})* };
}
elements!(u8, u16, u32, i64, bf16, f16, f32);

/// The bytes of `elements`, in the host's order (little-endian on every machine with a GPU).
pub(crate) fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to types without padding, so all size_of_val bytes behind the pointer are initialised;
    // they are borrowed as long as `elements` is.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// The same, to be written.
pub(crate) fn bytes_of_mut<T: Element>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes_of`; every bit pattern is a valid T (`Element` is sealed to such), so writing bytes is sound.
    unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}
