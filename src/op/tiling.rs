//! What a kernel works on: a matrix cut into tiles, and what its elements weigh.

use super::kernel::{Kernel, Tile};
use super::staging::{Staging, TileBytes, padded};
use super::{Axis, Op, OpSpec};
use crate::abi;
use crate::dtype::DType;

/// Bytes of a block of a plain all-gather, unless one row has more: four 16-byte vectors a thread, so that the word that
/// publishes a block is small change, and a few rows already keep several CTAs busy.
const GATHER_BYTES: u64 = 16 << 10;

/// Bytes of a piece of an all-gather + GEMM, if rows are short: a heap has a signal for so many.
const PIECE_BYTES: u64 = 4 << 10;

/// Rows of a block that a plain all-gather pushes at a time, where every rank has at most `chunk` rows of `row` bytes. It
/// never falls as `chunk` grows, nor does what is staged with it: a plan and a heap's size count on that.
fn gather_rows(chunk: u64, row: u64) -> u64 {
    (GATHER_BYTES / row.max(1))
        .clamp(1, abi::TW_GATHER_ROWS as u64)
        .min(chunk.max(1))
}

/// Elements of one tile where an all-reduce takes its operands as one row.
const FLAT_TILE: (u64, u64) = (1, (abi::TW_TILE_MEMORY_M * abi::TW_TILE_MEMORY_N) as u64);

/// What a communicating kernel works on: a matrix cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiling {
    pub rows: u64,
    pub cols: u64,
    pub tile: (u64, u64),
    /// Neighbours of a column of tiles that are taken together: 1 or 2.
    pub cluster: u64,
}

impl Tiling {
    /// Of `kernel` on an [m, n] matrix. A plain all-reduce that may ignore the rows takes everything as one.
    pub fn of(op: Op, kernel: Kernel, cluster: u32, m: u64, n: u64, flat: bool, world: usize) -> Tiling {
        let cluster = cluster as u64;
        let tile = kernel.tile.shape();
        match (op, kernel.tile) {
            (Op::AllReduce, Tile::Memory) if m == 1 || (flat && m * n < 1 << 31) => Tiling {
                rows: 1,
                cols: m * n,
                tile: FLAT_TILE,
                cluster,
            },
            (Op::AllGather, _) => Tiling {
                rows: m,
                cols: n,
                // Whole rows.
                tile: (
                    gather_rows(m.div_ceil(world as u64), row_bytes(n, kernel.dtype)),
                    n.max(1),
                ),
                cluster,
            },
            _ => Tiling {
                rows: m,
                cols: n,
                tile,
                cluster,
            },
        }
    }

    /// Of a GEMM by `kernel` with an [m, n] output.
    pub fn of_gemm(kernel: Kernel, cluster: u32, m: u64, n: u64) -> Tiling {
        Tiling {
            rows: m,
            cols: n,
            tile: kernel.tile.shape(),
            cluster: cluster as u64,
        }
    }

    pub fn tiles(&self) -> u64 {
        self.paired(self.rows) * self.cols.div_ceil(self.tile.1)
    }

    /// Rows of tiles over `rows` rows, in whole pairs where they are taken in pairs.
    fn paired(&self, rows: u64) -> u64 {
        rows.div_ceil(self.tile.0).next_multiple_of(self.cluster)
    }

    /// Rows of a gathered row block, of `row` bytes each, that are pushed and signalled together: 8, or 4 KiB at least, so
    /// that a heap's signals suffice whatever K is.
    pub fn piece(&self, op: Op, row: u64) -> u64 {
        match op {
            Op::AllGatherGemm => PIECE_BYTES
                .div_ceil(row.max(1))
                .next_power_of_two()
                .clamp(abi::TW_GATHER_PIECE as u64, self.tile.0),
            _ => self.tile.0,
        }
    }

    /// Bytes of one rank's one-shot message: its rows, each padded to `TW_PACKET_COLUMNS`.
    pub fn message(&self, wire: DType) -> u64 {
        let row = self.cols.next_multiple_of(abi::TW_PACKET_COLUMNS as u64) * wire.size() as u64;
        self.rows.saturating_mul(row)
    }

    fn chunk(&self, world: usize) -> u64 {
        self.rows.div_ceil(world as u64)
    }

    /// Rows of blocks where every rank's rows begin new ones.
    fn block_rows(&self, world: usize) -> u64 {
        world as u64 * self.paired(self.chunk(world))
    }

    /// Blocks where every rank's rows begin new ones: of what is scattered, or gathered.
    pub fn blocks_by_rank(&self, world: usize) -> u64 {
        self.block_rows(world).saturating_mul(self.cols.div_ceil(self.tile.1))
    }

    /// CTAs that have something to do, at least one cluster. Equal on every rank: where columns differ (AG+GEMM) they do not count.
    pub fn work(&self, op: Op, world: usize) -> u64 {
        match op {
            Op::GemmAllReduce | Op::AllReduce => self.tiles(),
            Op::GemmReduceScatter | Op::ReduceScatter => self.blocks_by_rank(world),
            Op::AllGatherGemm => u64::MAX,
            Op::AllGather => self.block_rows(world),
        }
        .max(self.cluster)
    }

    /// What `op` stages with this many CTAs. `row` is the bytes of a gathered row.
    pub fn staging(&self, op: Op, world: usize, grid: u32, bytes: TileBytes, row: u64) -> Staging {
        let world_u64 = world as u64;
        match op {
            Op::GemmAllReduce | Op::AllReduce => Staging::waves(self.tiles(), grid as u64, world_u64, bytes),
            Op::GemmReduceScatter | Op::ReduceScatter => {
                Staging::scatter(self.chunk(world), self.cols, world_u64, self.tile, self.cluster, bytes)
            }
            Op::AllGatherGemm | Op::AllGather => Staging::gather(
                self.chunk(world),
                world_u64,
                self.tile.0,
                self.tile.0.div_ceil(self.piece(op, row)),
                row,
            ),
        }
    }
}

/// Bytes of a gathered row: whole 16-byte vectors.
fn row_bytes(cols: u64, dtype: DType) -> u64 {
    let element = dtype.size() as u64;
    padded(cols, element) * element
}

/// The sizes an operation deals in, once the world is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub wire: DType,
    /// Bytes of a row of the gathered x.
    pub row: u64,
}

impl Sizes {
    pub fn of(spec: &OpSpec, world: usize) -> Sizes {
        let gathered = match spec.axis {
            Axis::Columns => spec.n.div_ceil(world),
            Axis::Rows if spec.op == Op::AllGather => spec.n,
            Axis::Rows => spec.k,
        };
        Sizes {
            wire: spec.wire_dtype(world),
            row: row_bytes(gathered as u64, spec.dtype),
        }
    }

    pub fn tile(&self, tile: (u64, u64), output: DType) -> TileBytes {
        let elements = tile.0 * tile.1;
        TileBytes {
            wire: elements * self.wire.size() as u64,
            output: elements * output.size() as u64,
        }
    }

    /// Bytes of scratch that the unfused path keeps between its kernels.
    pub fn scratch(&self, spec: &OpSpec, m: u64) -> u64 {
        match spec.op {
            Op::AllGatherGemm => m.saturating_mul(self.row),
            _ if !spec.op.has_gemm() => 0,
            _ => {
                let element = self.wire.size() as u64;
                m.saturating_mul(
                    padded(spec.n as u64, element)
                        .max(spec.n as u64)
                        .saturating_mul(element),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mainloop;
    use super::super::kernel::Family;
    use super::*;

    #[test]
    fn flat_where_the_elements_can_be_counted() {
        let kernel = Kernel {
            family: Family::AllReduce,
            dtype: DType::Bf16,
            tile: Tile::Memory,
            mainloop: Mainloop::Portable,
        };
        assert_eq!(
            Tiling::of(Op::AllReduce, kernel, 1, 1 << 20, 1 << 20, true, 2).rows,
            1 << 20
        );
        assert_eq!(Tiling::of(Op::AllReduce, kernel, 1, 3, 5, true, 2).cols, 15);
    }

    #[test]
    fn blocks_of_a_gather_are_16_kib_or_a_row() {
        let rows = |chunk, row| gather_rows(chunk, row);
        assert_eq!((rows(1000, 16), rows(1000, 256), rows(1000, 257)), (64, 64, 63));
        assert_eq!((rows(1000, 8192), rows(1000, 8193), rows(1000, 1 << 27)), (2, 1, 1));
        assert_eq!((rows(0, 0), rows(0, 16), rows(1, 16), rows(63, 16)), (1, 1, 1, 63));
        for row in [0, 16, 48, 1024, 5000, 64128] {
            let staged = |chunk: u64| (rows(chunk, row), chunk.div_ceil(rows(chunk, row)) * rows(chunk, row));
            for chunk in 0..300 {
                let (now, next) = (staged(chunk), staged(chunk + 1));
                assert!(now.0 <= next.0 && now.1 <= next.1, "{row} {chunk}");
                assert!(now.1 < chunk.max(1) + now.0, "{row} {chunk}");
            }
        }
    }
}
