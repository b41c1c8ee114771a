//! Tensor maps for TMA: the driver library packs a matrix's shape into 128 bytes that only the hardware reads.

use cudarc::driver::sys;

use crate::abi::TwTensorMap;
use crate::driver::TensorMap;
use crate::dtype::DType;
use crate::error::Result;

/// Encodes a map that [`TensorMap::check`] has passed.
pub(super) fn encode(map: &TensorMap) -> Result<TwTensorMap> {
    let element = match map.dtype {
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        // Not the `_FTZ` kind: subnormals pass.
        DType::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    // Of the bindings' type, not ours: CUDA 13's cuda.h aligns it to 128, and the library may ask for what it declares.
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // No element is skipped.
    let element_strides = [1u32; 4];
    // SAFETY: `encoded` outlives the call; the arrays have at least `rank` elements, the strides `rank - 1`, since `rank` is
    // at most 4 (checked by the caller), and outlive it too. The address is encoded, not read.
    unsafe {
        cu!(cuTensorMapEncodeTiled(
            &mut encoded,
            element,
            map.rank as u32,
            std::ptr::with_exposed_provenance_mut(map.address as usize),
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.box_dims.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            // Operands are read by many CTAs: a miss fetches the neighbours that the next box needs.
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
        ))
    }?;
    Ok(TwTensorMap { opaque: encoded.opaque })
}
