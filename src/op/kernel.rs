//! The kernels by name, and their tiles: the Rust side of `csrc/kernels/entries.h`.

use crate::abi;
use crate::driver::Launch;
use crate::dtype::DType;
use crate::op::Op;

/// The block of the output that one CTA computes at a time, and what a CTA of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tile {
    Small,
    Large,
    F32,
    Memory,
}

impl Tile {
    /// Rows and columns.
    pub const fn shape(self) -> (u64, u64) {
        let (rows, cols) = match self {
            Tile::Small => (abi::TW_TILE_64_M, abi::TW_TILE_64_N),
            Tile::Large => (abi::TW_TILE_128_M, abi::TW_TILE_128_N),
            Tile::F32 => (abi::TW_TILE_F32_M, abi::TW_TILE_F32_N),
            Tile::Memory => (abi::TW_TILE_MEMORY_M, abi::TW_TILE_MEMORY_N),
        };
        (rows as u64, cols as u64)
    }

    /// The code in `TwDescriptor`.
    pub const fn code(self) -> u32 {
        match self {
            Tile::Small => abi::TW_TILE_64,
            Tile::Large => abi::TW_TILE_128,
            Tile::F32 => abi::TW_TILE_F32,
            Tile::Memory => abi::TW_TILE_MEMORY,
        }
    }

    /// The tile of a GEMM: of M, N and the type alone. `n` is `None` where ranks may have different N (all-gather): they
    /// must agree without it.
    ///
    /// The large tile moves half the operand bytes per flop, the small one fills more SMs: it takes over once there are
    /// 64 large tiles, about half an H100's SMs.
    pub const fn of_gemm(m: u64, n: Option<u64>, dtype: DType) -> Tile {
        let (rows, cols) = Tile::Large.shape();
        let large = match n {
            Some(n) => m >= 256 && m.div_ceil(rows) * n.div_ceil(cols) >= 64,
            None => m >= 512,
        };
        match dtype {
            DType::F32 => Tile::F32,
            _ if large => Tile::Large,
            _ => Tile::Small,
        }
    }

    /// The size of a CTA; the grid is the caller's.
    pub const fn launch(self, grid: u32) -> Launch {
        let (threads, shared) = match self {
            Tile::Small => (abi::TW_TILE_64_THREADS, abi::TW_TILE_64_SHARED),
            Tile::Large => (abi::TW_TILE_128_THREADS, abi::TW_TILE_128_SHARED),
            Tile::F32 => (abi::TW_TILE_F32_THREADS, abi::TW_TILE_F32_SHARED),
            Tile::Memory => (abi::TW_TILE_MEMORY_THREADS, abi::TW_TILE_MEMORY_SHARED),
        };
        Launch {
            grid,
            threads,
            shared,
            cluster: 1,
        }
    }
}

/// What a kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    Gemm,
    GemmReduceScatter,
    GemmAllReduce,
    GemmAllReduceOneShot,
    AllGatherGemm,
    ReduceScatter,
    AllReduce,
    AllReduceOneShot,
    AllGather,
}

impl Family {
    const ALL: [Family; 9] = [
        Family::Gemm,
        Family::GemmReduceScatter,
        Family::GemmAllReduce,
        Family::GemmAllReduceOneShot,
        Family::AllGatherGemm,
        Family::ReduceScatter,
        Family::AllReduce,
        Family::AllReduceOneShot,
        Family::AllGather,
    ];

    /// The kernels of an operation in one launch.
    pub const fn of(op: Op, one_shot: bool) -> Family {
        match op {
            Op::GemmReduceScatter => Family::GemmReduceScatter,
            Op::GemmAllReduce if one_shot => Family::GemmAllReduceOneShot,
            Op::GemmAllReduce => Family::GemmAllReduce,
            Op::AllGatherGemm => Family::AllGatherGemm,
            Op::ReduceScatter => Family::ReduceScatter,
            Op::AllReduce if one_shot => Family::AllReduceOneShot,
            Op::AllReduce => Family::AllReduce,
            Op::AllGather => Family::AllGather,
        }
    }
}

/// An entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kernel {
    pub family: Family,
    /// Type of the output.
    pub dtype: DType,
    pub tile: Tile,
}

/// Names by family: bf16, f16, f32; of GEMMs bf16 and f16 on the small and on the large tile, then f32.
const fn names(family: Family) -> &'static [&'static str] {
    match family {
        Family::Gemm => &[
            "gemm_bf16_64",
            "gemm_f16_64",
            "gemm_f32",
            "gemm_bf16_128",
            "gemm_f16_128",
        ],
        Family::GemmReduceScatter => &[
            "gemm_rs_bf16_64",
            "gemm_rs_f16_64",
            "gemm_rs_f32",
            "gemm_rs_bf16_128",
            "gemm_rs_f16_128",
        ],
        Family::GemmAllReduce => &[
            "gemm_ar_bf16_64",
            "gemm_ar_f16_64",
            "gemm_ar_f32",
            "gemm_ar_bf16_128",
            "gemm_ar_f16_128",
        ],
        Family::GemmAllReduceOneShot => &["gemm_ar1_bf16_64", "gemm_ar1_f16_64", "gemm_ar1_f32"],
        Family::AllGatherGemm => &[
            "ag_gemm_bf16_64",
            "ag_gemm_f16_64",
            "ag_gemm_f32",
            "ag_gemm_bf16_128",
            "ag_gemm_f16_128",
        ],
        Family::ReduceScatter => &["reduce_scatter_bf16", "reduce_scatter_f16", "reduce_scatter_f32"],
        Family::AllReduce => &["all_reduce_bf16", "all_reduce_f16", "all_reduce_f32"],
        Family::AllReduceOneShot => &["all_reduce1_bf16", "all_reduce1_f16", "all_reduce1_f32"],
        Family::AllGather => &["all_gather_bf16", "all_gather_f16", "all_gather_f32"],
    }
}

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

impl Kernel {
    /// The name in `csrc/kernels/entries.h`.
    pub fn name(self) -> &'static str {
        let dtype = DTYPES.iter().position(|d| *d == self.dtype).unwrap_or(0);
        let large = if self.tile == Tile::Large { DTYPES.len() } else { 0 };
        let names = names(self.family);
        // One-shot kernels and collectives have no large tile; the choice of tiles never asks for one.
        names.get(dtype + large).copied().unwrap_or(names[dtype])
    }

    /// Every kernel there is.
    pub fn all() -> impl Iterator<Item = Kernel> {
        Family::ALL.into_iter().flat_map(|family| {
            let collective = names(family)[0].ends_with("bf16");
            (0..names(family).len()).map(move |i| {
                let dtype = DTYPES[i % DTYPES.len()];
                let tile = match dtype {
                    _ if collective => Tile::Memory,
                    DType::F32 => Tile::F32,
                    _ if i >= DTYPES.len() => Tile::Large,
                    _ => Tile::Small,
                };
                Kernel { family, dtype, tile }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_finds_its_own_name() {
        let all: Vec<_> = Kernel::all().collect();
        assert_eq!(all.len(), 4 * 5 + 3 + 4 * 3);
        let distinct: std::collections::HashSet<_> = all.iter().map(|k| k.name()).collect();
        assert_eq!(distinct.len(), all.len());
        for kernel in all {
            let name = kernel.name();
            assert!(name.contains(&kernel.dtype.to_string()), "{name}");
            assert_eq!(name.ends_with("_128"), kernel.tile == Tile::Large, "{name}");
            assert_eq!(name.ends_with("_64"), kernel.tile == Tile::Small, "{name}");
            assert_eq!(
                name.starts_with("gemm") || name.starts_with("ag_gemm"),
                kernel.tile != Tile::Memory,
                "{name}"
            );
        }
    }

    #[test]
    fn tile_choice() {
        use DType::*;
        assert_eq!(Tile::of_gemm(1 << 20, Some(1 << 20), F32), Tile::F32);
        for dtype in [Bf16, F16] {
            assert_eq!(Tile::of_gemm(255, Some(1 << 20), dtype), Tile::Small);
            assert_eq!(Tile::of_gemm(256, Some(32 * 128), dtype), Tile::Large);
            assert_eq!(Tile::of_gemm(256, Some(31 * 128), dtype), Tile::Small);
            assert_eq!(Tile::of_gemm(257, Some(21 * 128 + 1), dtype), Tile::Large);
            assert_eq!(Tile::of_gemm(0, Some(0), dtype), Tile::Small);
            assert_eq!(Tile::of_gemm(511, None, dtype), Tile::Small);
            assert_eq!(Tile::of_gemm(512, None, dtype), Tile::Large);
        }
    }
}
