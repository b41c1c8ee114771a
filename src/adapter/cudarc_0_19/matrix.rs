//! Slices as matrices. Nothing is asked of the device before the launch.

use cudarc::driver::{DevicePtr, DevicePtrMut};

use super::element::SliceElement;
use crate::error::{Error, Result};
use crate::memory::RawMat;

/// Where a matrix lies in a slice: row `i` begins `offset + i * ld` elements behind its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    offset: usize,
    rows: usize,
    cols: usize,
    ld: usize,
}

impl Shape {
    /// One that ends within `len` elements.
    fn new<T: SliceElement>(len: usize, offset: usize, rows: usize, cols: usize, ld: usize) -> Result<Shape> {
        if ld < cols {
            return Err(Error::bad_argument("ld", ld, format!("at least the {cols} columns")));
        }
        let shape = Shape { offset, rows, cols, ld };
        let bytes = len.checked_mul(size_of::<T>());
        let start = offset.checked_mul(size_of::<T>());
        let end = start.and_then(|start| shape.at::<T>(0).span()?.checked_add(start));
        if end.is_none_or(|end| bytes.is_none_or(|bytes| end > bytes)) {
            return Err(Error::bad_argument(
                "matrix",
                format!("[{rows}, {cols}] of {}, ld {ld}, offset {offset}", T::DTYPE),
                format!("one that ends within the slice's {len} elements"),
            ));
        }
        Ok(shape)
    }

    /// The matrix, of a slice that begins at `ptr`.
    pub fn at<T: SliceElement>(&self, ptr: u64) -> RawMat {
        RawMat {
            ptr: ptr + (self.offset * size_of::<T>()) as u64,
            rows: self.rows,
            cols: self.cols,
            ld: self.ld,
            dtype: T::DTYPE,
            owner: None,
        }
    }
}

/// A row-major matrix of a slice, to be read.
pub struct Matrix<'a, T> {
    pub(super) slice: &'a dyn DevicePtr<T>,
    pub(super) shape: Shape,
}

/// A row-major matrix of a slice, to be written.
pub struct MatrixMut<'a, T> {
    pub(super) slice: &'a mut dyn DevicePtrMut<T>,
    pub(super) shape: Shape,
}

impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Matrix<'_, T> {}

impl<T> std::fmt::Debug for Matrix<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Matrix").field(&self.shape).finish()
    }
}

impl<T> std::fmt::Debug for MatrixMut<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MatrixMut").field(&self.shape).finish()
    }
}

/// Matrices of anything that cudarc reads from: `CudaSlice`, `CudaView`, [`BufferSlice`](super::BufferSlice).
pub trait SliceExt<T: SliceElement>: DevicePtr<T> + Sized {
    /// A contiguous `rows` x `cols` matrix at its start.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the slice ends before the matrix.
    fn mat(&self, rows: usize, cols: usize) -> Result<Matrix<'_, T>> {
        self.mat_at(0, rows, cols, cols)
    }

    /// A matrix whose first element is element `offset`, and whose rows begin `ld` elements apart.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the slice ends before the matrix, or `ld < cols`.
    fn mat_at(&self, offset: usize, rows: usize, cols: usize, ld: usize) -> Result<Matrix<'_, T>> {
        let shape = Shape::new::<T>(self.len(), offset, rows, cols, ld)?;
        Ok(Matrix { slice: self, shape })
    }
}

impl<T: SliceElement, S: DevicePtr<T>> SliceExt<T> for S {}

/// Matrices of anything that cudarc writes to: `CudaSlice`, `CudaViewMut`, [`BufferSliceMut`](super::BufferSliceMut).
pub trait SliceMutExt<T: SliceElement>: DevicePtrMut<T> + Sized {
    /// As [`SliceExt::mat`], to be written.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the slice ends before the matrix.
    fn mat_mut(&mut self, rows: usize, cols: usize) -> Result<MatrixMut<'_, T>> {
        self.mat_mut_at(0, rows, cols, cols)
    }

    /// As [`SliceExt::mat_at`], to be written.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the slice ends before the matrix, or `ld < cols`.
    fn mat_mut_at(&mut self, offset: usize, rows: usize, cols: usize, ld: usize) -> Result<MatrixMut<'_, T>> {
        let shape = Shape::new::<T>(self.len(), offset, rows, cols, ld)?;
        Ok(MatrixMut { slice: self, shape })
    }
}

impl<T: SliceElement, S: DevicePtrMut<T>> SliceMutExt<T> for S {}
