//! The kernels by name, and their tiles: the Rust side of `csrc/kernels/entries.h`.

use crate::abi;
use crate::driver::Launch;
use crate::dtype::DType;
use crate::op::{Mainloop, Op};

/// The block of the output that one CTA computes at a time, and what a CTA of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Tile {
    Small,
    Large,
    Wide,
    Slim,
    F32,
    Memory,
}

impl Tile {
    /// Rows and columns.
    pub const fn shape(self) -> (u64, u64) {
        let (rows, cols) = match self {
            Tile::Small => (abi::TW_TILE_64_M, abi::TW_TILE_64_N),
            Tile::Large => (abi::TW_TILE_128_M, abi::TW_TILE_128_N),
            Tile::Wide => (abi::TW_TILE_256_M, abi::TW_TILE_256_N),
            Tile::Slim => (abi::TW_TILE_SLIM_M, abi::TW_TILE_SLIM_N),
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
            Tile::Wide => abi::TW_TILE_256,
            Tile::Slim => abi::TW_TILE_SLIM,
            Tile::F32 => abi::TW_TILE_F32,
            Tile::Memory => abi::TW_TILE_MEMORY,
        }
    }

    /// Threads of a CTA and its shared memory, in bytes.
    const fn needs(self, mainloop: Mainloop) -> (u32, u32) {
        match (self, mainloop) {
            (Tile::Slim, _) => (abi::TW_SM90_THREADS, abi::TW_SM90_SLIM_SHARED),
            (Tile::Large, Mainloop::Hopper) => (abi::TW_SM90_THREADS, abi::TW_SM90_128_SHARED),
            (_, Mainloop::Hopper) => (abi::TW_SM90_THREADS, abi::TW_SM90_256_SHARED),
            (Tile::Small, _) => (abi::TW_TILE_64_THREADS, abi::TW_TILE_64_SHARED),
            (Tile::Large, _) => (abi::TW_TILE_128_THREADS, abi::TW_TILE_128_SHARED),
            (Tile::Wide, _) => (abi::TW_TILE_256_THREADS, abi::TW_TILE_256_SHARED),
            (Tile::F32, _) => (abi::TW_TILE_F32_THREADS, abi::TW_TILE_F32_SHARED),
            (Tile::Memory, _) => (abi::TW_TILE_MEMORY_THREADS, abi::TW_TILE_MEMORY_SHARED),
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
    /// Of a kernel without a GEMM: portable.
    pub mainloop: Mainloop,
}

/// Every entry point of an operation: what it is, and its name.
macro_rules! table {
    ($($family:ident $name:literal: $($tile:ident $mainloop:ident $suffix:literal),*;)*) => {
        &[$($(
            (Family::$family, Tile::$tile, Mainloop::$mainloop, DType::Bf16, concat!($name, "_bf16", $suffix)),
            (Family::$family, Tile::$tile, Mainloop::$mainloop, DType::F16, concat!($name, "_f16", $suffix)),
        )*)*]
    };
}
type Row = (Family, Tile, Mainloop, DType, &'static str);
const HALVES: &[Row] = table! {
    Gemm "gemm": Small Portable "_64", Large Portable "_128", Slim Hopper "_64_sm90", Large Hopper "_128_sm90",
        Wide Hopper "_256_sm90";
    GemmReduceScatter "gemm_rs": Small Portable "_64", Large Portable "_128", Wide Portable "_256",
        Large Hopper "_128_sm90", Wide Hopper "_256_sm90";
    GemmAllReduce "gemm_ar": Small Portable "_64", Large Portable "_128", Wide Portable "_256",
        Large Hopper "_128_sm90", Wide Hopper "_256_sm90";
    AllGatherGemm "ag_gemm": Small Portable "_64", Large Portable "_128", Large Hopper "_128_sm90",
        Wide Hopper "_256_sm90";
    GemmAllReduceOneShot "gemm_ar1": Small Portable "_64", Slim Hopper "_64_sm90";
};
const fn f32(family: Family, tile: Tile, name: &'static str) -> Row {
    (family, tile, Mainloop::Portable, DType::F32, name)
}
const SINGLES: &[Row] = &[
    f32(Family::Gemm, Tile::F32, "gemm_f32"),
    f32(Family::GemmReduceScatter, Tile::F32, "gemm_rs_f32"),
    f32(Family::GemmAllReduce, Tile::F32, "gemm_ar_f32"),
    f32(Family::AllGatherGemm, Tile::F32, "ag_gemm_f32"),
    f32(Family::GemmAllReduceOneShot, Tile::F32, "gemm_ar1_f32"),
];
/// Plain collectives, one entry point for all types.
const PLAIN: &[(Family, &str)] = &[
    (Family::ReduceScatter, "reduce_scatter"),
    (Family::AllReduce, "all_reduce"),
    (Family::AllReduceOneShot, "all_reduce1"),
    (Family::AllGather, "all_gather"),
];

fn rows() -> impl Iterator<Item = Row> {
    let plain = |&(family, name): &(Family, &'static str)| {
        [DType::Bf16, DType::F16, DType::F32].map(|dtype| (family, Tile::Memory, Mainloop::Portable, dtype, name))
    };
    HALVES
        .iter()
        .chain(SINGLES)
        .copied()
        .chain(PLAIN.iter().flat_map(plain))
}

impl Kernel {
    /// The name in `csrc/kernels/entries.h`.
    pub fn name(self) -> &'static str {
        let is = |row: &Row| (row.0, row.1, row.2, row.3) == (self.family, self.tile, self.mainloop, self.dtype);
        // Choices are made among the rows; a test makes all of them.
        rows().find(is).map_or("none", |row| row.4)
    }

    /// Every kernel there is: those of plain collectives for each type.
    pub fn all() -> impl Iterator<Item = Kernel> {
        rows().map(|(family, tile, mainloop, dtype, _)| Kernel {
            family,
            dtype,
            tile,
            mainloop,
        })
    }

    /// Every kernel with every number of CTAs that it makes clusters of.
    pub fn all_clusters() -> impl Iterator<Item = (Kernel, u32)> {
        let sizes = |kernel: Kernel| match kernel.mainloop {
            Mainloop::Hopper => 1..=2,
            Mainloop::Portable => 1..=1,
        };
        Kernel::all().flat_map(move |kernel| sizes(kernel).map(move |cluster| (kernel, cluster)))
    }

    /// The kernel that does the same on operands that TMA cannot address, for blocks as peers expect them: gathers agree on a
    /// block's rows alone, a GEMM alone and one-shot packets on nothing.
    pub fn portable(self) -> Kernel {
        let narrow = matches!(self.family, Family::Gemm | Family::AllGatherGemm);
        Kernel {
            tile: match self.tile {
                Tile::Wide if narrow => Tile::Large,
                Tile::Slim => Tile::Small,
                tile => tile,
            },
            mainloop: Mainloop::Portable,
            ..self
        }
    }

    /// The size of a launch. `cluster`: CTAs that share what they load, of a Hopper kernel.
    pub const fn launch(self, grid: u32, cluster: u32) -> Launch {
        let (threads, shared) = self.tile.needs(self.mainloop);
        Launch {
            grid,
            threads,
            shared,
            cluster: match self.mainloop {
                Mainloop::Hopper => cluster,
                Mainloop::Portable => 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_finds_its_own_name() {
        let all: Vec<_> = Kernel::all().collect();
        let gemms = 2 * (5 + 5 + 5 + 4 + 2) + 5;
        assert_eq!(all.len(), gemms + 3 * PLAIN.len());
        let distinct: std::collections::HashSet<_> = all.iter().map(|k| k.name()).collect();
        assert_eq!(distinct.len(), gemms + PLAIN.len());
        for kernel in all {
            let name = kernel.name();
            let plain = kernel.tile == Tile::Memory;
            assert_ne!(name.contains(&kernel.dtype.to_string()), plain, "{name}");
            let by = name.trim_end_matches("_sm90");
            assert_eq!(name != by, kernel.mainloop == Mainloop::Hopper, "{name}");
            assert_eq!(by.ends_with("_256"), kernel.tile == Tile::Wide, "{name}");
            assert_eq!(by.ends_with("_128"), kernel.tile == Tile::Large, "{name}");
            assert_eq!(
                by.ends_with("_64"),
                matches!(kernel.tile, Tile::Small | Tile::Slim),
                "{name}"
            );
            assert_eq!(
                name.starts_with("gemm") || name.starts_with("ag_gemm"),
                !plain,
                "{name}"
            );
            assert_ne!(kernel.portable().name(), "none", "{name}");
            assert_eq!(kernel.portable().tile.shape().0, kernel.tile.shape().0, "{name}");
        }
    }
}
