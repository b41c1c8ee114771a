//! Matrices in device memory whose gaps tell whether they were written.

use tileweave::{Buffer, DType, Mat, MatMut, Rank, Result, reference};

/// A matrix in device memory, with gaps between its rows that hold NaN.
pub struct Slab {
    pub buffer: Buffer,
    /// The first element.
    first: usize,
    rows: usize,
    cols: usize,
    ld: usize,
    dtype: DType,
}

/// What gaps and fresh outputs hold: NaN in every type, with a payload no kernel makes.
const SENTINEL: u8 = 0xfe;

impl Slab {
    pub fn new(
        rank: &Rank,
        rows: usize,
        cols: usize,
        gap: usize,
        dtype: DType,
        values: Option<&[f64]>,
    ) -> Result<Slab> {
        let (ld, size) = (cols + gap, dtype.size());
        let mut bytes = vec![SENTINEL; (rows * ld * size).max(16)];
        if let Some(values) = values {
            let encoded = reference::encode(dtype, values);
            for (r, row) in encoded.chunks_exact((cols * size).max(1)).enumerate().take(rows) {
                bytes[r * ld * size..][..cols * size].copy_from_slice(row);
            }
        }
        let mut buffer = rank.alloc(bytes.len())?;
        buffer.upload(&bytes)?;
        Ok(Slab {
            buffer,
            first: 0,
            rows,
            cols,
            ld,
            dtype,
        })
    }

    /// The same matrix from one element further on, where nothing is aligned to more.
    pub fn moved(self, rank: &Rank) -> Result<Slab> {
        let mut bytes = vec![SENTINEL; self.dtype.size()];
        bytes.extend(self.buffer.to_vec::<u8>(self.buffer.len())?);
        let mut buffer = rank.alloc(bytes.len())?;
        buffer.upload(&bytes)?;
        Ok(Slab {
            buffer,
            first: 1,
            ..self
        })
    }

    pub fn mat(&self) -> Result<Mat<'_>> {
        self.buffer
            .mat_at(self.first, self.rows, self.cols, self.ld, self.dtype)
    }

    pub fn mat_mut(&mut self) -> Result<MatMut<'_>> {
        self.buffer
            .mat_mut_at(self.first, self.rows, self.cols, self.ld, self.dtype)
    }

    /// The matrix's bytes without gaps; the gaps must be as they were.
    pub fn read(&self) -> Result<Vec<u8>> {
        let (ld, cols) = (self.ld * self.dtype.size(), self.cols * self.dtype.size());
        let first = self.first * self.dtype.size();
        let bytes = self.buffer.to_vec::<u8>(first + self.rows * ld)?;
        let mut out = Vec::with_capacity(self.rows * cols);
        for row in bytes[first..].chunks_exact(ld.max(1)).take(self.rows) {
            out.extend_from_slice(&row[..cols]);
            assert!(
                row[cols..].iter().all(|b| *b == SENTINEL),
                "a gap between rows was written"
            );
        }
        Ok(out)
    }
}
