//! What TMA is told of a launch's matrices.
//!
//! x and the output are new at every call, so their maps are encoded for every launch (on CUDA a few hundred nanoseconds
//! each); the weight's is kept by the plan as long as the same weight comes.

use super::kernel::Kernel;
use crate::abi::{self, TwParams};
use crate::driver::TensorMap;
use crate::dtype::DType;

/// Bytes of a box's rows: what a swizzle covers.
const ROW_BYTES: u32 = 128;
/// Rows of a box of the output.
const OUT_ROWS: u32 = 64;
/// TMA addresses and strides are multiples of this.
const ALIGN: u64 = 16;

/// Whether TMA can address a matrix of rows of `k` values, `pitch` bytes apart; else what it would take.
pub(super) fn addressable(ptr: u64, pitch: u64, k: u64) -> Result<(), String> {
    let aligned = ptr.is_multiple_of(ALIGN) && pitch.is_multiple_of(ALIGN);
    if k == 0 {
        return Err("K of at least 1 for the Hopper mainloop".into());
    }
    if !aligned || pitch >= 1 << 40 {
        return Err("an address and a distance of rows that are multiples of 16 bytes, for the Hopper mainloop".into());
    }
    Ok(())
}

fn matrix(ptr: u64, dtype: DType, rows: u32, cols: u32, ld: u64, box_rows: u32) -> Option<TensorMap> {
    let element = dtype.size() as u64;
    // Without elements there is nothing to load, and no map of it.
    (rows != 0 && cols != 0).then(|| TensorMap {
        address: ptr,
        dtype,
        rank: 2,
        dims: [cols as u64, rows as u64, 1, 1],
        strides: [ld * element, 0, 0],
        box_dims: [ROW_BYTES / element as u32, box_rows, 1, 1],
    })
}

/// The maps of a Hopper kernel with these parameters, in their order; sets what the kernel must know of them.
pub(super) fn of(kernel: Kernel, p: &mut TwParams) -> [Option<TensorMap>; 4] {
    let dtype = kernel.dtype;
    let (tile_m, tile_n) = (kernel.tile.shape().0 as u32, kernel.tile.shape().1 as u32);
    let gathers = p.desc.op == abi::TW_ALL_GATHER_GEMM;
    let rank = p.group.rank as u64;
    let x_rows = if gathers {
        let begin = (rank * p.chunk as u64).min(p.m as u64);
        (p.m as u64 - begin).min(p.chunk as u64) as u32
    } else {
        p.m
    };
    let x = matrix(p.x, dtype, x_rows, p.k, p.x_ld, tile_m);
    let weight = matrix(p.weight, dtype, p.n, p.k, p.weight_ld, tile_n / 2);
    let gathered = (gathers && p.k != 0).then(|| {
        let element = dtype.size() as u64;
        let row = (p.k as u64 * element).next_multiple_of(ALIGN);
        let panel = p.slots as u64 * tile_m as u64;
        TensorMap {
            address: p.group.heap[rank as usize] + p.group.staging,
            dtype,
            rank: 4,
            dims: [p.k as u64, panel, p.group.world as u64, 2],
            strides: [row, panel * row, p.group.staging_half],
            box_dims: [ROW_BYTES / element as u32, tile_m, 1, 1],
        }
    });
    // Partials leave for staging, and who reduces them stores by itself; SwiGLU's halves leave their threads as vectors.
    let stores = (gathers || p.desc.op == abi::TW_GEMM) && p.desc.epilogue != abi::TW_EPILOGUE_SWIGLU;
    let out_type = DType::from_code(p.desc.wire).unwrap_or(dtype);
    let boxes = stores && addressable(p.out, p.out_ld * out_type.size() as u64, 1).is_ok();
    let out = boxes
        .then(|| matrix(p.out, out_type, p.m, p.n, p.out_ld, OUT_ROWS))
        .flatten();
    p.out_boxes = out.is_some() as u32;
    [x, weight, gathered, out]
}
