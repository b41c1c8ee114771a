//! Element types.

use crate::abi;

/// Type of an operand's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// bfloat16: 8 significand bits.
    Bf16,
    /// IEEE half: 11 significand bits.
    F16,
    /// IEEE single: 24 significand bits.
    F32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::Bf16 | DType::F16 => 2,
            DType::F32 => 4,
        }
    }

    /// Unit roundoff of round to nearest: half the distance from 1 to the next number.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            DType::Bf16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            DType::F32 => 1.0 / 16777216.0,
        }
    }

    /// The code in `TwDescriptor`.
    pub(crate) const fn code(self) -> u32 {
        match self {
            DType::Bf16 => abi::TW_BF16,
            DType::F16 => abi::TW_F16,
            DType::F32 => abi::TW_F32,
        }
    }

    /// The inverse of [`DType::code`].
    pub(crate) const fn from_code(code: u32) -> Option<DType> {
        match code {
            abi::TW_BF16 => Some(DType::Bf16),
            abi::TW_F16 => Some(DType::F16),
            abi::TW_F32 => Some(DType::F32),
            _ => None,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::F32 => "f32",
        })
    }
}

/// The type in which partials travel between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Wire {
    /// The output's type: each partial is rounded once (half the bytes for 16-bit types).
    #[default]
    Output,
    /// f32: partials are not rounded.
    F32,
}

impl Wire {
    /// The element type on the wire for an output of `dtype`.
    pub const fn dtype(self, dtype: DType) -> DType {
        match self {
            Wire::Output => dtype,
            Wire::F32 => DType::F32,
        }
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wire::Output => "output",
            Wire::F32 => "f32",
        })
    }
}
