//! Tensor maps, of the node's own encoding: 128-byte rows swizzled by 128 bytes, as tileweave's kernels read them.

use cudarc::driver::sys;
use tileweave::DType;
use tileweave::driver::{Driver, TensorMap};

use crate::answer::{INVALID, In, Out, UNSUPPORTED, code_of};
use crate::context::current_place;
use crate::machine::machine;

calls! {
    fn cuTensorMapEncodeTiled(
        map: Out<[u64; 16]>,
        element: u32,
        rank: u32,
        address: u64,
        dims: In<u64>,
        strides: In<u64>,
        box_dims: In<u32>,
        element_strides: In<u32>,
        interleave: u32,
        swizzle: u32,
        _promotion: u32,
        fill: u32,
    ) {
        use sys::CUtensorMapDataType_enum as Type;
        let machine = machine()?;
        let dtype = match element {
            x if x == Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 as u32 => DType::Bf16,
            x if x == Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16 as u32 => DType::F16,
            x if x == Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 as u32 => DType::F32,
            _ => return Err(UNSUPPORTED),
        };
        let rank = rank as usize;
        let swizzled = sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B as u32;
        if !(2..=4).contains(&rank) || interleave != 0 || swizzle != swizzled || fill != 0 {
            return Err(UNSUPPORTED);
        }
        if !map.addr().is_multiple_of(64) || element_strides.all(rank)?.iter().any(|stride| *stride != 1) {
            return Err(INVALID);
        }
        let mut described = TensorMap { address, dtype, rank, dims: [1; 4], strides: [0; 3], box_dims: [1; 4] };
        described.dims[..rank].copy_from_slice(&dims.all(rank)?);
        described.strides[..rank - 1].copy_from_slice(&strides.all(rank - 1)?);
        described.box_dims[..rank].copy_from_slice(&box_dims.all(rank)?);
        let place = current_place(machine)?;
        map.put(machine.sim.encode_tensor_map(place, &described).map_err(code_of)?.opaque)
    }
}
