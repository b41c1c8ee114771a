//! Buffers lent to cudarc: they are `DevicePtr`s, so that `nccl::Comm`, and copies, take them.

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use super::check_rank_stream;
use crate::error::{Error, Result};
use crate::memory::{Buffer, Element};

/// The start of a [`Buffer`], as `T`s. On another stream than its rank's it costs a wait of the host: see
/// [`Buffer::as_slice`].
#[derive(Debug, Clone, Copy)]
pub struct BufferSlice<'a, T> {
    ptr: u64,
    len: usize,
    stream: &'a Arc<CudaStream>,
    memory: PhantomData<&'a [T]>,
}

/// The same, to be written.
#[derive(Debug)]
pub struct BufferSliceMut<'a, T> {
    slice: BufferSlice<'a, T>,
    memory: PhantomData<&'a mut [T]>,
}

impl Buffer {
    /// Its first `count` elements, for whatever reads a [`DevicePtr`]. `stream` is its rank's.
    ///
    /// A buffer has no events. Work that another stream does with it begins behind all that is now in the rank's
    /// stream, and the host waits for it, in the moment that cudarc lets go of the slice. On the rank's own stream
    /// nothing is waited for.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the buffer has fewer, and for a stream that is not the rank's.
    pub fn as_slice<'a, T: Element>(&'a self, stream: &'a Arc<CudaStream>, count: usize) -> Result<BufferSlice<'a, T>> {
        check_rank_stream(self.rank(), stream)?;
        if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > self.len()) {
            let expected = format!("at most what the buffer's {} bytes hold", self.len());
            return Err(Error::bad_argument("count", count, expected));
        }
        Ok(BufferSlice {
            ptr: self.ptr(),
            len: count,
            stream,
            memory: PhantomData,
        })
    }

    /// The same, for whatever writes a [`DevicePtrMut`].
    ///
    /// # Errors
    /// As [`Buffer::as_slice`].
    pub fn as_slice_mut<'a, T: Element>(
        &'a mut self,
        stream: &'a Arc<CudaStream>,
        count: usize,
    ) -> Result<BufferSliceMut<'a, T>> {
        let slice = self.as_slice(stream, count)?;
        Ok(BufferSliceMut {
            slice,
            memory: PhantomData,
        })
    }
}

impl<T> BufferSlice<'_, T> {
    fn lend<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        if **self.stream == *stream {
            return (self.ptr, SyncOnDrop::Record(None));
        }
        // A stream that cannot be made to wait says so by its context, as cudarc has it.
        stream.context().record_err(stream.join(self.stream));
        (self.ptr, SyncOnDrop::sync_stream(stream))
    }
}

impl<T> DeviceSlice<T> for BufferSlice<'_, T> {
    fn len(&self) -> usize {
        self.len
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.stream
    }
}

impl<T> DevicePtr<T> for BufferSlice<'_, T> {
    fn device_ptr<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.lend(stream)
    }
}

impl<T> DeviceSlice<T> for BufferSliceMut<'_, T> {
    fn len(&self) -> usize {
        self.slice.len
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.slice.stream
    }
}

impl<T> DevicePtr<T> for BufferSliceMut<'_, T> {
    fn device_ptr<'s>(&'s self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.slice.lend(stream)
    }
}

impl<T> DevicePtrMut<T> for BufferSliceMut<'_, T> {
    fn device_ptr_mut<'s>(&'s mut self, stream: &'s CudaStream) -> (u64, SyncOnDrop<'s>) {
        self.slice.lend(stream)
    }
}
