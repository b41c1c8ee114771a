//! Ordinary memory and copies.
//!
//! A copy never makes the host wait for more than its contract says, and never needs a stream that a kernel may hold up:
//! - peek and poke go through page-locked memory on a stream of their own, so they work under a running kernel;
//! - a copy in is poked into a temporary, then copied on the device behind the stream's work: the source is read now, the
//!   host does not wait, and the temporary is freed in stream order;
//! - a copy out waits for the stream with no lock held, then peeks: ranks that wait for each other do not meet in a lock.

use cudarc::driver::sys;

use super::device::{Current, Device, STAGING, lock};
use crate::driver::DevicePtr;
use crate::error::Result;

impl Device {
    pub(super) fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let _current = Current::push(self.context)?;
        let (pool, stream) = (self.pool.0, self.alloc_stream.0);
        let mut ptr = 0;
        // SAFETY: `ptr` outlives the call; pool and stream are this device's. The pool takes no empty allocations.
        unsafe { cu!(cuMemAllocFromPoolAsync(&mut ptr, bytes.max(1), pool, stream)) }?;
        // The stream holds nothing but allocations: this waits for no kernel.
        // SAFETY: the stream is alive.
        unsafe { cu!(cuStreamSynchronize(stream)) }?;
        Ok(ptr)
    }

    /// Copies to the device through the staging memory, a piece at a time.
    pub(super) fn poke(&self, dst: DevicePtr, src: &[u8]) -> Result<()> {
        let _current = Current::push(self.context)?;
        let copier = lock(&self.copier);
        let (staging, stream) = (copier.staging.0, copier.stream.0);
        for (index, piece) in src.chunks(STAGING).enumerate() {
            let to = dst + (index * STAGING) as u64;
            // SAFETY: the staging memory holds STAGING bytes, no less than the piece; the lock keeps others off it, and
            // it is not touched again before the copy is done. That `dst` is valid for the length is the caller's word,
            // and the driver checks it.
            unsafe {
                staging.copy_from_nonoverlapping(piece.as_ptr(), piece.len());
                cu!(cuMemcpyHtoDAsync_v2(to, staging.cast(), piece.len(), stream))?;
                cu!(cuStreamSynchronize(stream))?;
            }
        }
        Ok(())
    }

    /// Copies from the device through the staging memory, a piece at a time.
    pub(super) fn peek(&self, dst: &mut [u8], src: DevicePtr) -> Result<()> {
        let _current = Current::push(self.context)?;
        let copier = lock(&self.copier);
        let (staging, stream) = (copier.staging.0, copier.stream.0);
        for (index, piece) in dst.chunks_mut(STAGING).enumerate() {
            let from = src + (index * STAGING) as u64;
            // SAFETY: as in `poke`, the other way round; the bytes are read after the copy is done.
            unsafe {
                cu!(cuMemcpyDtoHAsync_v2(staging.cast(), from, piece.len(), stream))?;
                cu!(cuStreamSynchronize(stream))?;
                staging.copy_to_nonoverlapping(piece.as_mut_ptr(), piece.len());
            }
        }
        Ok(())
    }

    pub(super) fn copy_in(&self, dst: DevicePtr, src: &[u8], stream: sys::CUstream) -> Result<()> {
        if src.is_empty() {
            return Ok(());
        }
        let temporary = self.alloc(src.len())?;
        let copied = self.poke(temporary, src).and_then(|()| {
            // SAFETY: `temporary` holds the length; `dst` is the caller's word, and the driver checks it.
            unsafe { cu!(cuMemcpyDtoDAsync_v2(dst, temporary, src.len(), stream)) }
        });
        // SAFETY: from the pool, freed once, behind the only work that reads it.
        let freed = unsafe { cu!(cuMemFreeAsync(temporary, stream)) };
        copied.and(freed)
    }
}

/// One address space for all devices: the same call copies within a device and between two. (`cuMemcpyPeerAsync` wants a
/// context for each end, which virtual memory has none of: what its mapping grants is what counts.)
pub(super) fn copy_device(dst: DevicePtr, src: DevicePtr, bytes: usize, stream: sys::CUstream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: that both are valid for the length is the caller's word, and the driver checks it.
    unsafe { cu!(cuMemcpyDtoDAsync_v2(dst, src, bytes, stream)) }
}

pub(super) fn fill(dst: DevicePtr, byte: u8, bytes: usize, stream: sys::CUstream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: that `dst` is valid for the length is the caller's word, and the driver checks it.
    unsafe { cu!(cuMemsetD8Async(dst, byte, bytes, stream)) }
}

/// The ordinal of the device whose memory `ptr` points into.
pub(super) fn device_of(ptr: DevicePtr) -> Result<usize> {
    let mut ordinal = 0i32;
    let which = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
    // SAFETY: the attribute is an int (cuda.h) and `ordinal` outlives the call; the driver checks `ptr`.
    unsafe { cu!(cuPointerGetAttribute((&raw mut ordinal).cast(), which, ptr)) }?;
    Ok(ordinal as usize)
}
