//! Views of cust's device memory, and its streams (feature `cust`, cust 0.3.2).
//!
//! ```no_run
//! use cust::memory::DeviceBuffer;
//! use tileweave::{DType, Operands, Plan, Result, adapter};
//!
//! fn linear(plan: &Plan, x: &DeviceBuffer<u16>, weight: &DeviceBuffer<u16>, y: &mut DeviceBuffer<u16>) -> Result<()> {
//!     let (m, n, k) = (8, plan.spec().n, plan.spec().k);
//!     // SAFETY: whoever calls `linear` keeps the buffers until the stream has run dry.
//!     let (x, weight, y) = unsafe {
//!         (
//!             adapter::cust::mat(x, m, k, DType::Bf16)?,
//!             adapter::cust::mat(weight, n, k, DType::Bf16)?,
//!             adapter::cust::mat_mut(y, m, n, DType::Bf16)?,
//!         )
//!     };
//!     plan.launch(&Operands::gemm(m, x, weight, y))
//! }
//! ```
//!
//! The views are `unsafe`: a `DeviceBuffer` that is dropped frees its memory at once, not in the order of a stream, and
//! a `DeviceSlice` is a copy of an address that borrows nothing. cust has bfloat16 for neither; any element type of the size
//! will do.

use cust::memory::{DeviceCopy, DeviceSlice};

use crate::driver::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::memory::{Mat, MatMut};

/// The stream, for a rank's place. cust destroys it on drop, so it is kept until the last handle of the group is gone.
pub fn stream(stream: &cust::stream::Stream) -> Stream {
    Stream(stream.as_inner() as usize)
}

/// A contiguous `rows` x `cols` matrix at the start of a slice (or, by deref, a buffer).
///
/// # Errors
/// [`Error::BadArgument`] where `T` is not as large as an element of `dtype`, or the slice ends before the matrix.
///
/// # Safety
/// The memory can be read by the launching rank's device. It is not freed or written until the stream has run what was
/// launched with the view; where that was captured, until its graph is launched no more.
pub unsafe fn mat<T: DeviceCopy>(from: &DeviceSlice<T>, rows: usize, cols: usize, dtype: DType) -> Result<Mat<'_>> {
    check(from, rows, cols, dtype)?;
    // SAFETY: the slice holds as many elements as the matrix, so was checked; for the rest the caller answers.
    Ok(unsafe { Mat::from_raw(from.as_device_ptr().as_raw(), rows, cols, cols, dtype) })
}

/// As [`mat`], to be written.
///
/// # Errors
/// As [`mat`].
///
/// # Safety
/// As [`mat`]; besides, nothing else reads the memory until the stream has run what was launched with the view.
pub unsafe fn mat_mut<T: DeviceCopy>(
    to: &mut DeviceSlice<T>,
    rows: usize,
    cols: usize,
    dtype: DType,
) -> Result<MatMut<'_>> {
    check(to, rows, cols, dtype)?;
    // SAFETY: as in `mat`.
    Ok(unsafe { MatMut::from_raw(to.as_device_ptr().as_raw(), rows, cols, cols, dtype) })
}

fn check<T: DeviceCopy>(slice: &DeviceSlice<T>, rows: usize, cols: usize, dtype: DType) -> Result<()> {
    if size_of::<T>() != dtype.size() {
        let value = format!("one of elements of {} bytes", size_of::<T>());
        let expected = format!("{dtype}'s {} bytes", dtype.size());
        return Err(Error::bad_argument("slice", value, expected));
    }
    if rows.checked_mul(cols).is_none_or(|elements| elements > slice.len()) {
        let value = format!("[{rows}, {cols}] of {dtype}");
        let expected = format!("one that ends within the slice's {} elements", slice.len());
        return Err(Error::bad_argument("matrix", value, expected));
    }
    Ok(())
}
