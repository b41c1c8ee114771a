//! Elements as bytes and as f64.

use half::{bf16, f16};

use crate::dtype::DType;

/// Little-endian elements of `dtype` as f64, exactly. Bytes that do not fill an element are ignored.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|raw| bf16::from_le_bytes(*raw).to_f64())
            .collect(),
        DType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|raw| f16::from_le_bytes(*raw).to_f64())
            .collect(),
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|raw| f64::from(f32::from_le_bytes(*raw)))
            .collect(),
    }
}

/// Rounds to `dtype`, to nearest even, as little-endian bytes.
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values
            .iter()
            .flat_map(|value| bf16::from_f32(to_odd(*value)).to_le_bytes())
            .collect(),
        DType::F16 => values
            .iter()
            .flat_map(|value| f16::from_f32(to_odd(*value)).to_le_bytes())
            .collect(),
        DType::F32 => values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect(),
    }
}

/// Rounds to an f32 whose last bit is set if anything was lost. Rounding that to nearest in 16 bits equals rounding the
/// f64 there; rounding twice to nearest, as `half` does where the processor converts f32 alone, does not.
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    let outwards = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(outwards)) | 1)
}

/// The smallest magnitude that rounds to infinity: half a unit above the largest number.
pub fn overflow(dtype: DType) -> f64 {
    let exponent_end = if dtype == DType::F16 { 16 } else { 128 };
    2f64.powi(exponent_end) * (1.0 - dtype.unit_roundoff() / 2.0)
}

/// The most that rounding to `dtype` moves a number below the normal range: half the smallest subnormal.
pub(super) fn underflow(dtype: DType) -> f64 {
    let smallest_normal_exponent = if dtype == DType::F16 { -14 } else { -126 };
    2f64.powi(smallest_normal_exponent) * dtype.unit_roundoff()
}
