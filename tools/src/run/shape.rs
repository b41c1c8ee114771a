//! The sizes of a problem, and what of it each rank holds.

use std::ops::Range;

use tileweave::reference::chunk;
use tileweave::{Op, Wire};

/// Global sizes. `k` is 0 for the plain collectives, whose `m` and `n` are those of one rank's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub op: Op,
    pub ranks: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A block of a row-major matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

impl Block {
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    pub fn cols(&self) -> usize {
        self.cols.len()
    }

    pub fn elements(&self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// The block's bytes, packed, out of a matrix of `ld` columns.
    pub fn cut(&self, matrix: &[u8], ld: usize, element: usize) -> Vec<u8> {
        let mut packed = Vec::with_capacity(self.elements() * element);
        for row in self.rows.clone() {
            let start = (row * ld + self.cols.start) * element;
            packed.extend_from_slice(&matrix[start..start + self.cols() * element]);
        }
        packed
    }
}

impl Shape {
    fn whole(&self, rows: usize, cols: usize) -> Block {
        Block {
            rows: 0..rows,
            cols: 0..cols,
        }
    }

    /// Dimensions of the tensors in a file, in the order of the program's contract.
    pub fn x_dims(&self) -> Vec<usize> {
        if self.op.has_gemm() {
            vec![self.m, self.k]
        } else {
            vec![self.ranks, self.m, self.n]
        }
    }

    pub fn addend_dims(&self) -> Vec<usize> {
        vec![self.ranks, self.m, self.n]
    }

    /// Whether partials are summed over ranks after a GEMM: what an addend and a wire type are for.
    pub fn reduces_gemm(&self) -> bool {
        matches!(self.op, Op::GemmReduceScatter | Op::GemmAllReduce)
    }

    /// The wire that is used where `asked` is asked for: what no GEMM left in f32 travels in its own type.
    pub fn wire(&self, asked: Wire) -> Wire {
        if self.ranks > 1 && !self.reduces_gemm() {
            Wire::Output
        } else {
            asked
        }
    }

    /// Rank `rank`'s block of `x` (of its own matrix for the plain collectives).
    pub fn x_of(&self, rank: usize) -> Block {
        match self.op {
            Op::GemmReduceScatter | Op::GemmAllReduce => Block {
                rows: 0..self.m,
                cols: chunk(self.k, self.ranks, rank),
            },
            Op::AllGatherGemm => Block {
                rows: chunk(self.m, self.ranks, rank),
                cols: 0..self.k,
            },
            _ => self.whole(self.m, self.n),
        }
    }

    /// Rank `rank`'s block of `weight`; `None` for the plain collectives.
    pub fn weight_of(&self, rank: usize) -> Option<Block> {
        match self.op {
            Op::GemmReduceScatter | Op::GemmAllReduce => Some(Block {
                rows: 0..self.n,
                cols: chunk(self.k, self.ranks, rank),
            }),
            Op::AllGatherGemm => Some(Block {
                rows: chunk(self.n, self.ranks, rank),
                cols: 0..self.k,
            }),
            _ => None,
        }
    }

    /// Rows and columns of the global result.
    pub fn result(&self) -> (usize, usize) {
        if self.op == Op::AllGather {
            (self.ranks * self.m, self.n)
        } else {
            (self.m, self.n)
        }
    }

    /// Where rank `rank`'s result stands in the global one.
    pub fn result_of(&self, rank: usize) -> Block {
        let (rows, cols) = self.result();
        match self.op {
            Op::GemmReduceScatter | Op::ReduceScatter => Block {
                rows: chunk(rows, self.ranks, rank),
                cols: 0..cols,
            },
            Op::AllGatherGemm => Block {
                rows: 0..rows,
                cols: chunk(cols, self.ranks, rank),
            },
            _ => self.whole(rows, cols),
        }
    }

    /// Whether all ranks end with the same result.
    pub fn result_is_replicated(&self) -> bool {
        matches!(self.op, Op::GemmAllReduce | Op::AllReduce | Op::AllGather)
    }

    /// A generous count of the bytes that a checked run holds at once, on the host and on a simulated node.
    pub fn footprint(&self, element: usize, addend: bool, tail: bool) -> u128 {
        let wide = |values: &[usize]| values.iter().map(|value| *value as u128).product::<u128>();
        let operands = if self.op.has_gemm() {
            let addends = if addend { wide(&[self.ranks, self.m, self.n]) } else { 0 };
            wide(&[self.m, self.k]) + wide(&[self.n, self.k]) + addends
        } else {
            wide(&[self.ranks, self.m, self.n])
        };
        let copies = match self.op {
            Op::AllGather => self.ranks * self.ranks,
            Op::GemmAllReduce | Op::AllReduce => self.ranks,
            _ => 1,
        };
        // With a tail, what it makes of a residual is a result, too.
        let results = wide(&[copies, self.m, self.n]) * if tail { 2 } else { 1 };
        let (rows, cols) = self.result();
        // Operands: as read, on the device, in f64. Results: two routes, each on the device, as downloaded, in f64.
        // Staging: two halves of partials on every rank. The reference: value and bound, twice.
        let staging = 2 * wide(&[self.ranks, self.m, self.n]);
        operands * (2 * element as u128 + 8)
            + results * (4 * element as u128 + 8)
            + staging * 4
            + wide(&[rows, cols]) * 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(op: Op, ranks: usize) -> Shape {
        Shape {
            op,
            ranks,
            m: 10,
            n: 7,
            k: if op.has_gemm() { 5 } else { 0 },
        }
    }

    #[test]
    fn blocks_of_every_op_cover_the_operands_and_the_result() {
        for op in Op::ALL {
            for ranks in 1..=16 {
                let shape = shape(op, ranks);
                let count = |block: fn(&Shape, usize) -> Option<Block>| -> usize {
                    (0..ranks)
                        .filter_map(|rank| block(&shape, rank))
                        .map(|block| block.elements())
                        .sum()
                };
                let x: usize = shape.x_dims().iter().product();
                assert_eq!(count(|shape, rank| Some(shape.x_of(rank))), x, "{op:?} x");
                assert_eq!(
                    count(Shape::weight_of),
                    if op.has_gemm() { 35 } else { 0 },
                    "{op:?} weight"
                );
                let (rows, cols) = shape.result();
                let copies = if shape.result_is_replicated() { ranks } else { 1 };
                assert_eq!(
                    count(|shape, rank| Some(shape.result_of(rank))),
                    rows * cols * copies,
                    "{op:?} result"
                );
            }
        }
    }

    #[test]
    fn ragged_splits_are_those_of_torch() {
        let rows = |op, rank| shape(op, 4).result_of(rank).rows;
        assert_eq!(
            (rows(Op::GemmReduceScatter, 0), rows(Op::ReduceScatter, 3)),
            (0..3, 9..10)
        );
        assert_eq!(
            shape(Op::AllGatherGemm, 4).result_of(3),
            Block {
                rows: 0..10,
                cols: 6..7
            }
        );
        assert_eq!(
            shape(Op::GemmAllReduce, 4).x_of(2),
            Block {
                rows: 0..10,
                cols: 4..5
            }
        );
        assert_eq!(
            shape(Op::GemmAllReduce, 4).x_of(3),
            Block {
                rows: 0..10,
                cols: 5..5
            }
        );
    }

    #[test]
    fn a_block_is_cut_out_packed() {
        let matrix: Vec<u8> = (0..24).collect(); // 3 rows of 4 two-byte elements
        let block = Block { rows: 1..3, cols: 1..3 };
        assert_eq!(block.cut(&matrix, 4, 2), [10, 11, 12, 13, 18, 19, 20, 21]);
        assert!(Block { rows: 0..3, cols: 4..4 }.cut(&matrix, 4, 2).is_empty());
    }

    #[test]
    fn footprints_do_not_overflow() {
        let most = crate::cli::MAX_DIMENSION;
        for op in Op::ALL {
            let shape = Shape {
                op,
                ranks: 16,
                m: most,
                n: most,
                k: most,
            };
            assert!(shape.footprint(4, true, true) > u128::from(u64::MAX), "{op:?}");
        }
    }
}
