//! Views of device memory as matrices: what an operation takes.

use std::marker::PhantomData;
use std::ops::Range;

use crate::driver::DevicePtr;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A row-major matrix in device memory, as plain values. Row `i` begins `i * ld` elements after `ptr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawMat {
    pub ptr: DevicePtr,
    pub rows: usize,
    pub cols: usize,
    pub ld: usize,
    pub dtype: DType,
    /// Group and rank whose buffer it is; `None` for memory that the crate does not know.
    pub owner: Option<(u64, usize)>,
}

impl RawMat {
    /// Bytes from the first element to behind the last; 0 for an empty matrix, `None` where they overflow.
    pub fn span(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        (self.rows - 1)
            .checked_mul(self.ld)?
            .checked_add(self.cols)?
            .checked_mul(self.dtype.size())
    }

    /// These rows and columns of it.
    fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Result<RawMat> {
        for (name, part, len) in [("rows", &rows, self.rows), ("cols", &cols, self.cols)] {
            if part.start > part.end || part.end > len {
                return Err(Error::bad_argument(
                    name,
                    format!("{part:?}"),
                    format!("a part of the matrix's 0..{len}"),
                ));
            }
        }
        // An empty part may begin where the matrix ends, or would overflow: any address does.
        let first = match rows.is_empty() || cols.is_empty() {
            true => Some(0),
            false => rows
                .start
                .checked_mul(self.ld)
                .and_then(|at| at.checked_add(cols.start)),
        };
        let at = first.and_then(|at| at.checked_mul(self.dtype.size()));
        let ptr = at.and_then(|at| self.ptr.checked_add(at as u64)).ok_or_else(|| {
            let value = format!("at {:#x}, of leading dimension {}", self.ptr, self.ld);
            Error::bad_argument("the matrix", value, "one whose bytes can be counted in 64 bits")
        })?;
        Ok(RawMat {
            ptr,
            rows: rows.len(),
            cols: cols.len(),
            ..*self
        })
    }

    /// Whether all elements lie one behind the other.
    pub fn is_contiguous(&self) -> bool {
        self.ld == self.cols || self.rows <= 1
    }

    /// Whether both name exactly the same elements.
    pub fn same(&self, other: &RawMat) -> bool {
        (self.ptr, self.rows, self.cols, self.dtype) == (other.ptr, other.rows, other.cols, other.dtype)
            && (self.ld == other.ld || self.rows <= 1)
    }

    /// Whether some byte belongs to both. Two column ranges of one matrix (equal row strides) are told apart; other
    /// interleaved views count as overlapping. Spans must not overflow.
    pub fn overlaps(&self, other: &RawMat) -> bool {
        let (first, second) = if self.ptr <= other.ptr {
            (self, other)
        } else {
            (other, self)
        };
        let (Some(first_span), Some(second_span)) = (first.span(), second.span()) else {
            return true;
        };
        let apart = second.ptr - first.ptr;
        if first_span == 0 || second_span == 0 || apart >= first_span as u64 {
            return false;
        }
        let stride = (first.ld * first.dtype.size()) as u64;
        if stride == 0 || stride != (second.ld * second.dtype.size()) as u64 {
            return true;
        }
        let (first_row, second_row) = (
            (first.cols * first.dtype.size()) as u64,
            (second.cols * second.dtype.size()) as u64,
        );
        let column = apart % stride;
        !(column >= first_row && column + second_row <= stride)
    }
}

/// A matrix in device memory that an operation reads: row-major, row `i` begins `i * ld` elements after `ptr`.
///
/// Made from a [`Buffer`](crate::Buffer), or from a raw address.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    pub(crate) raw: RawMat,
    pub(crate) memory: PhantomData<&'a [u8]>,
}

/// A matrix in device memory that an operation writes. As [`Mat`], borrowed exclusively.
#[derive(Debug)]
pub struct MatMut<'a> {
    pub(crate) raw: RawMat,
    pub(crate) memory: PhantomData<&'a mut [u8]>,
}

macro_rules! accessors {
    ($type:ident) => {
        impl $type<'_> {
            /// Device address of the first element.
            pub fn ptr(&self) -> u64 {
                self.raw.ptr
            }
            /// Rows.
            pub fn rows(&self) -> usize {
                self.raw.rows
            }
            /// Columns.
            pub fn cols(&self) -> usize {
                self.raw.cols
            }
            /// Elements from the start of a row to the start of the next.
            pub fn ld(&self) -> usize {
                self.raw.ld
            }
            /// Type of the elements.
            pub fn dtype(&self) -> DType {
                self.raw.dtype
            }
        }
    };
}
accessors!(Mat);
accessors!(MatMut);

impl<'a> Mat<'a> {
    /// A view of memory that the crate did not allocate. Nothing is checked before [`Plan::launch`](crate::Plan::launch).
    ///
    /// # Safety
    /// `ptr` is a device address that the launching rank's device can read; `(rows - 1) * ld + cols` elements of `dtype`
    /// from there stay allocated, and are not written, until the stream has run what was launched with the view. Freeing
    /// or writing them later in the order of that stream is enough.
    pub unsafe fn from_raw(ptr: u64, rows: usize, cols: usize, ld: usize, dtype: DType) -> Mat<'a> {
        Mat {
            raw: RawMat {
                ptr,
                rows,
                cols,
                ld,
                dtype,
                owner: None,
            },
            memory: PhantomData,
        }
    }

    /// A view of these rows and columns of it; nothing is copied.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for rows or columns that it has not.
    pub fn part(&self, rows: Range<usize>, cols: Range<usize>) -> Result<Mat<'a>> {
        Ok(Mat {
            raw: self.raw.part(rows, cols)?,
            memory: PhantomData,
        })
    }
}

impl<'a> MatMut<'a> {
    /// As [`Mat::from_raw`], to be written.
    ///
    /// # Safety
    /// As [`Mat::from_raw`]; besides, nothing else reads or writes the elements until the stream has run what was launched.
    pub unsafe fn from_raw(ptr: u64, rows: usize, cols: usize, ld: usize, dtype: DType) -> MatMut<'a> {
        MatMut {
            raw: RawMat {
                ptr,
                rows,
                cols,
                ld,
                dtype,
                owner: None,
            },
            memory: PhantomData,
        }
    }

    /// The same elements, lent on.
    pub fn reborrow(&mut self) -> MatMut<'_> {
        MatMut {
            raw: self.raw,
            memory: PhantomData,
        }
    }

    /// A view of these rows and columns of it; nothing is copied.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for rows or columns that it has not.
    pub fn part(self, rows: Range<usize>, cols: Range<usize>) -> Result<MatMut<'a>> {
        Ok(MatMut {
            raw: self.raw.part(rows, cols)?,
            memory: PhantomData,
        })
    }

    /// Its first `at` columns, and the others.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where it has fewer.
    pub fn split_columns(self, at: usize) -> Result<(MatMut<'a>, MatMut<'a>)> {
        let (rows, cols) = (self.raw.rows, self.raw.cols);
        let side = |cols| {
            Ok(MatMut {
                raw: self.raw.part(0..rows, cols)?,
                memory: PhantomData,
            })
        };
        // Two exclusive views of no common element: what one may write, the other does not name.
        Ok((side(0..at)?, side(at.min(cols)..cols)?))
    }

    /// The same elements, to be read.
    pub fn as_mat(&self) -> Mat<'_> {
        Mat {
            raw: self.raw,
            memory: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mat(ptr: u64, rows: usize, cols: usize, ld: usize) -> RawMat {
        RawMat {
            ptr,
            rows,
            cols,
            ld,
            dtype: DType::Bf16,
            owner: None,
        }
    }

    /// Byte by byte, what `overlaps` tells by arithmetic.
    fn bytes(m: &RawMat) -> std::collections::BTreeSet<u64> {
        let row = |r: usize| m.ptr + (r * m.ld * 2) as u64;
        (0..m.rows).flat_map(|r| row(r)..row(r) + 2 * m.cols as u64).collect()
    }

    #[test]
    fn overlap_of_equal_strides_is_exact() {
        let first = mat(1000, 3, 4, 10);
        for ptr in 960..1080 {
            for (rows, cols) in [(1, 1), (2, 3), (3, 10), (4, 7), (0, 5)] {
                let second = mat(ptr, rows, cols, 10);
                // A row that wraps around the stride is only told apart from whole rows.
                let truth = !bytes(&first).is_disjoint(&bytes(&second));
                assert_eq!(first.overlaps(&second), second.overlaps(&first));
                if (ptr - 960).is_multiple_of(2) && second.cols + (ptr as usize / 2 + 500) % 10 <= 10 {
                    assert!(first.overlaps(&second) || !truth, "{second:?}");
                }
                assert!(first.overlaps(&second) >= truth, "{second:?}");
            }
        }
        assert!(!mat(1000, 5, 4, 10).overlaps(&mat(1008, 5, 6, 10)));
        assert!(mat(1000, 5, 4, 10).overlaps(&mat(1006, 5, 6, 10)));
    }

    #[test]
    fn parts() {
        let whole = mat(1000, 5, 7, 10);
        let part = whole.part(1..3, 4..6).unwrap();
        assert_eq!(part, mat(1000 + 2 * (10 + 4), 2, 2, 10));
        assert_eq!(whole.part(5..5, 0..7).unwrap(), mat(1000, 0, 7, 10));
        let error = whole.part(0..6, 0..7).unwrap_err().to_string();
        assert_eq!(error, "rows is 0..6: expected a part of the matrix's 0..5");
        let error = whole.part(0..5, 8..8).unwrap_err().to_string();
        assert_eq!(error, "cols is 8..8: expected a part of the matrix's 0..7");
        assert!(mat(8, 3, 4, usize::MAX).part(2..3, 0..4).is_err());
        let whole = MatMut {
            raw: whole,
            memory: PhantomData,
        };
        let (left, right) = whole.split_columns(3).unwrap();
        assert_eq!((left.raw, right.raw), (mat(1000, 5, 3, 10), mat(1006, 5, 4, 10)));
        assert!(!left.raw.overlaps(&right.raw));
        assert!(left.split_columns(4).is_err());
    }

    #[test]
    fn other_overlaps() {
        assert!(mat(0, 4, 4, 4).overlaps(&mat(30, 4, 4, 4)));
        assert!(!mat(0, 4, 4, 4).overlaps(&mat(32, 4, 4, 4)));
        assert!(
            mat(0, 4, 4, 8).overlaps(&mat(8, 4, 4, 9)),
            "other strides: not told apart"
        );
        assert!(!mat(0, 0, 4, 8).overlaps(&mat(0, 4, 4, 9)));
    }

    #[test]
    fn spans() {
        assert_eq!(mat(0, 3, 4, 10).span(), Some(48));
        assert_eq!(mat(0, 0, 4, 10).span(), Some(0));
        assert_eq!(mat(0, usize::MAX, 4, 10).span(), None);
        assert!(mat(0, 1, 4, 10).same(&mat(0, 1, 4, 4)) && !mat(0, 2, 4, 10).same(&mat(0, 2, 4, 4)));
    }
}
