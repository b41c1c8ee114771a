//! Random matrices in device memory, several of each, so that no launch finds its operands in the L2.

use tileweave::{Buffer, DType, Mat, MatMut, Rank};

use super::statistics::Draw;

/// The type that is measured.
pub const DTYPE: DType = DType::Bf16;
const ELEMENT: usize = DTYPE.size();

/// What an H200's L2 holds, as its driver tells (CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE): 60 MiB.
const L2_BYTES: usize = 60 << 20;
/// Sets of operands together have so many times the L2's bytes.
const L2_TIMES: usize = 4;
const MOST_SETS: usize = 64;

/// How many sets of operands of so many bytes take turns.
pub fn sets(bytes: usize, clocked: bool) -> usize {
    if !clocked {
        return 2;
    }
    (L2_TIMES * L2_BYTES).div_ceil(bytes.max(1)).clamp(2, MOST_SETS)
}

/// Random values, about standard normal, in the type that is measured: tensor cores draw less power, and clock higher, on
/// zeros or constants. Matrices are filled from one pool, each from another place on.
pub struct Pool(Vec<u8>);

impl Pool {
    /// `elements` values; the same for the same number.
    pub fn new(elements: usize) -> Pool {
        let mut draw = Draw(0x1234_5678_9abc_def1);
        let values: Vec<f64> = (0..elements)
            .map(|_| {
                // The sum of four uniform 16-bit numbers has a variance of 4 * 2^32 / 12.
                let word = draw.next();
                let sum: u64 = (0..4).map(|i| word >> (16 * i) & 0xffff).sum();
                (sum as f64 - 131_070.0) / 37_837.0
            })
            .collect();
        Pool(tileweave::reference::encode(DTYPE, &values))
    }
}

fn values(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .chunks_exact(ELEMENT)
        .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
}

/// The largest difference of two matrices over their largest magnitude; NaN counts as infinite.
pub fn difference(one: &[u8], two: &[u8]) -> f64 {
    let (mut apart, mut largest) = (0f32, f32::MIN_POSITIVE);
    for (a, b) in values(one).zip(values(two)) {
        let d = (a - b).abs();
        apart = apart.max(if d.is_nan() { f32::INFINITY } else { d });
        largest = largest.max(a.abs());
    }
    f64::from(apart / largest)
}

/// Matrices of one shape, one behind the other.
pub struct Rotating {
    buffer: Buffer,
    rows: usize,
    cols: usize,
    /// Elements from one to the next.
    stride: usize,
    sets: usize,
}

impl Rotating {
    /// Filled from a pool; `None`: to be written before they are read.
    pub fn new(rank: &Rank, rows: usize, cols: usize, sets: usize, pool: Option<&Pool>) -> tileweave::Result<Rotating> {
        // Whole kilobytes: every matrix begins as a fresh allocation would.
        let stride = (rows * cols).next_multiple_of(1024 / ELEMENT);
        let buffer = rank.alloc(stride * sets * ELEMENT)?;
        let node = rank.node();
        let (driver, stream) = (node.driver(), rank.stream());
        let mut at = 0;
        while let Some(Pool(values)) = pool.filter(|_| at < buffer.len()) {
            let part = &values[..values.len().min(buffer.len() - at)];
            driver.copy_in(buffer.ptr() + at as u64, part, stream)?;
            at += part.len();
        }
        Ok(Rotating {
            buffer,
            rows,
            cols,
            stride,
            sets,
        })
    }

    fn offset(&self, turn: usize) -> usize {
        turn % self.sets * self.stride
    }

    pub fn mat(&self, turn: usize) -> tileweave::Result<Mat<'_>> {
        self.buffer
            .mat_at(self.offset(turn), self.rows, self.cols, self.cols, DTYPE)
    }

    pub fn mat_mut(&mut self, turn: usize) -> tileweave::Result<MatMut<'_>> {
        let (offset, rows, cols) = (self.offset(turn), self.rows, self.cols);
        self.buffer.mat_mut_at(offset, rows, cols, cols, DTYPE)
    }

    /// The bytes of one, behind the work in the rank's stream.
    pub fn bytes(&self, turn: usize) -> tileweave::Result<Vec<u8>> {
        let mut bytes = vec![0; self.rows * self.cols * ELEMENT];
        let rank = self.buffer.rank();
        rank.node()
            .driver()
            .copy_out(&mut bytes, self.ptr(turn), rank.stream())?;
        Ok(bytes)
    }

    pub fn ptr(&self, turn: usize) -> u64 {
        self.buffer.ptr() + (self.offset(turn) * ELEMENT) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_sets_that_the_l2_does_not_hold_them() {
        for bytes in [1, 1 << 10, 16 << 20, 21 << 20, 1 << 30] {
            let sets = sets(bytes, true);
            assert!(
                sets >= 2 && (sets == MOST_SETS || sets * bytes >= L2_TIMES * L2_BYTES),
                "{bytes}"
            );
        }
        assert_eq!(sets(21 << 20, true), 12);
        assert_eq!(sets(1, false), 2);
    }

    #[test]
    fn differences() {
        let matrix = |values: &[f64]| tileweave::reference::encode(DTYPE, values);
        assert_eq!(difference(&matrix(&[1.0, -4.0]), &matrix(&[1.5, -4.0])), 0.125);
        assert_eq!(difference(&matrix(&[1.0, 2.0]), &matrix(&[1.0, 2.0])), 0.0);
        assert_eq!(
            difference(&matrix(&[1.0, 2.0]), &matrix(&[f64::NAN, 2.0])),
            f64::INFINITY
        );
    }

    #[test]
    fn values_are_about_standard_normal() {
        let pool = Pool::new(1 << 16);
        let values: Vec<f64> = values(&pool.0).map(f64::from).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
