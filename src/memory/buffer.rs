//! Ordinary device memory of one rank.

use std::marker::PhantomData;

use super::element::{Element, bytes_of, bytes_of_mut};
use super::ids::{Ids, RawIds};
use super::mat::{Mat, MatMut, RawMat};
use crate::driver::DevicePtr;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::group::Rank;

/// Ordinary memory on a rank's device. Everything done with it is in the order of the rank's stream, freeing included: it
/// may be dropped as soon as the last launch that uses it has returned; where launches were captured, once their graph is
/// launched no more. Fresh memory holds nothing in particular.
#[derive(Debug)]
pub struct Buffer {
    rank: Rank,
    ptr: DevicePtr,
    bytes: usize,
}

impl Buffer {
    pub(crate) fn new(rank: &Rank, bytes: usize) -> Result<Buffer> {
        // Address 0 tells kernels that an operand is absent, so an empty buffer has one too.
        let ptr = rank.driver().alloc(rank.place(), bytes.max(1))?;
        Ok(Buffer {
            rank: rank.clone(),
            ptr,
            bytes,
        })
    }

    /// Device address.
    pub fn ptr(&self) -> u64 {
        self.ptr
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The rank whose memory it is.
    pub fn rank(&self) -> &Rank {
        &self.rank
    }

    /// Copies `src` to the start of the buffer, behind the work in the rank's stream. `src` is read before this returns.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where `src` is larger than the buffer.
    pub fn upload<T: Element>(&mut self, src: &[T]) -> Result<()> {
        let src = bytes_of(src);
        self.covers("src", src.len())?;
        if src.is_empty() {
            return Ok(());
        }
        self.rank.driver().copy_in(self.ptr, src, self.rank.stream())
    }

    /// Copies the start of the buffer into `dst`, behind the work in the rank's stream; blocks until it is there.
    /// Whether that work went well is for [`Rank::synchronize`] to say.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where `dst` is larger than the buffer; [`Error::Driver`] where work of NCCL's is not done within the
    /// group's deadline.
    pub fn download<T: Element>(&self, dst: &mut [T]) -> Result<()> {
        let dst = bytes_of_mut(dst);
        self.covers("dst", dst.len())?;
        if dst.is_empty() {
            return Ok(());
        }
        self.rank.finish_nccl()?;
        self.rank.driver().copy_out(dst, self.ptr, self.rank.stream())
    }

    /// Its first `count` elements, downloaded.
    pub fn to_vec<T: Element>(&self, count: usize) -> Result<Vec<T>> {
        self.covers("count", count.saturating_mul(size_of::<T>()))?;
        let mut elements = vec![T::default(); count];
        self.download(&mut elements)?;
        Ok(elements)
    }

    fn covers(&self, name: &str, bytes: usize) -> Result<()> {
        if bytes > self.bytes {
            return Err(Error::bad_argument(
                name,
                format!("{bytes} bytes"),
                format!("at most the buffer's {} bytes", self.bytes),
            ));
        }
        Ok(())
    }

    /// Fills the buffer with one byte, behind the work in the rank's stream.
    pub fn fill(&mut self, byte: u8) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.rank.driver().fill(self.ptr, byte, self.bytes, self.rank.stream())
    }

    /// A contiguous `rows` x `cols` matrix at its start.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before the matrix.
    pub fn mat(&self, rows: usize, cols: usize, dtype: DType) -> Result<Mat<'_>> {
        self.mat_at(0, rows, cols, cols, dtype)
    }

    /// A matrix whose first element is element `offset`, and whose rows begin `ld` elements apart.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before the matrix, or `ld < cols`.
    pub fn mat_at(&self, offset: usize, rows: usize, cols: usize, ld: usize, dtype: DType) -> Result<Mat<'_>> {
        Ok(Mat {
            raw: self.raw(offset, rows, cols, ld, dtype)?,
            memory: PhantomData,
        })
    }

    /// As [`Buffer::mat`], to be written.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before the matrix.
    pub fn mat_mut(&mut self, rows: usize, cols: usize, dtype: DType) -> Result<MatMut<'_>> {
        self.mat_mut_at(0, rows, cols, cols, dtype)
    }

    /// As [`Buffer::mat_at`], to be written.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before the matrix, or `ld < cols`.
    pub fn mat_mut_at(
        &mut self,
        offset: usize,
        rows: usize,
        cols: usize,
        ld: usize,
        dtype: DType,
    ) -> Result<MatMut<'_>> {
        Ok(MatMut {
            raw: self.raw(offset, rows, cols, ld, dtype)?,
            memory: PhantomData,
        })
    }

    /// `count` numbers of words, [`i64`], at its start.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before them.
    pub fn ids(&self, count: usize) -> Result<Ids<'_>> {
        self.ids_at(0, count)
    }

    /// `count` numbers of words from the one at `offset` on.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer ends before them.
    pub fn ids_at(&self, offset: usize, count: usize) -> Result<Ids<'_>> {
        let end = offset
            .checked_add(count)
            .and_then(|end| end.checked_mul(size_of::<i64>()));
        if end.is_none_or(|end| end > self.bytes) {
            return Err(Error::bad_argument(
                "ids",
                format!("{count} from number {offset} on"),
                format!("such that end within the buffer's {} bytes", self.bytes),
            ));
        }
        Ok(Ids {
            raw: RawIds {
                ptr: self.ptr + (offset * size_of::<i64>()) as u64,
                count,
                owner: Some(self.rank.identity()),
            },
            memory: PhantomData,
        })
    }

    fn raw(&self, offset: usize, rows: usize, cols: usize, ld: usize, dtype: DType) -> Result<RawMat> {
        if ld < cols {
            return Err(Error::bad_argument("ld", ld, format!("at least the {cols} columns")));
        }
        let start = offset.saturating_mul(dtype.size());
        let raw = RawMat {
            ptr: 0,
            rows,
            cols,
            ld,
            dtype,
            owner: Some(self.rank.identity()),
        };
        let end = raw.span().and_then(|span| span.checked_add(start));
        if end.is_none_or(|end| end > self.bytes) {
            return Err(Error::bad_argument(
                "matrix",
                format!("[{rows}, {cols}] of {dtype}, ld {ld}, offset {offset}"),
                format!("one that ends within the buffer's {} bytes", self.bytes),
            ));
        }
        Ok(RawMat {
            ptr: self.ptr + start as u64,
            ..raw
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A failure to free has nobody to go to; the group's own failure, if there is one, is reported elsewhere.
        let _ = self.rank.retire(self.ptr);
    }
}
