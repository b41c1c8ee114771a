//! Which elements have a type here.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::memory::Element;

/// An element of matrices: `f32`, [`half::f16`], [`half::bf16`]. (For the latter two, cudarc's own calls need its
/// feature `f16`.)
pub trait SliceElement: Element {
    /// What it is called here.
    const DTYPE: DType;
}

impl SliceElement for f32 {
    const DTYPE: DType = DType::F32;
}

impl SliceElement for f16 {
    const DTYPE: DType = DType::F16;
}

impl SliceElement for bf16 {
    const DTYPE: DType = DType::Bf16;
}
