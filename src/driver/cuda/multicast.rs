//! Multicast objects (NVLS). Handles, maps and access rights are those of virtual memory; the rest is calls of their own,
//! which drivers before CUDA 12.1 lack: `Library::multicast` says whether they are there.

use cudarc::driver::sys;

use super::device::Facts;
use super::virtual_memory::HANDLE_TYPE;
use crate::driver::{Multicast, Physical};
use crate::error::Result;

fn properties(devices: usize, bytes: usize) -> sys::CUmulticastObjectProp {
    sys::CUmulticastObjectProp {
        numDevices: devices as u32,
        size: bytes,
        handleTypes: HANDLE_TYPE.0.into(),
        flags: 0,
    }
}

/// The least that sizes and offsets are multiples of. What is recommended beyond it is for speed, and would round a heap up
/// to hundreds of MiB on some machines; memory of whole allocation granules serves, by the same words of the manual.
pub(super) fn granularity(devices: usize) -> Result<usize> {
    let mut bytes = 0;
    let properties = properties(devices, 0);
    let which = sys::CUmulticastGranularity_flags::CU_MULTICAST_GRANULARITY_MINIMUM;
    // SAFETY: both outlive the call.
    unsafe { cu!(cuMulticastGetGranularity(&mut bytes, &properties, which)) }?;
    Ok(bytes)
}

pub(super) fn create(devices: usize, bytes: usize) -> Result<Multicast> {
    let mut handle = 0;
    let properties = properties(devices, bytes);
    // SAFETY: both outlive the call.
    unsafe { cu!(cuMulticastCreate(&mut handle, &properties)) }?;
    Ok(Multicast(handle))
}

pub(super) fn add_device(object: Multicast, facts: &Facts) -> Result<()> {
    // SAFETY: the driver checks the handle.
    unsafe { cu!(cuMulticastAddDevice(object.0, facts.device)) }
}

/// The memory tells its device.
pub(super) fn bind(object: Multicast, memory: Physical, offset: usize, bytes: usize) -> Result<()> {
    // SAFETY: the driver checks both handles, and keeps the memory while it is bound. 0 is the only flag there is.
    unsafe { cu!(cuMulticastBindMem(object.0, offset, memory.0, 0, bytes, 0)) }
}

pub(super) fn unbind(object: Multicast, facts: &Facts, offset: usize, bytes: usize) -> Result<()> {
    // SAFETY: the driver checks that this was bound; that no work touches it any more is the contract of the call.
    unsafe { cu!(cuMulticastUnbind(object.0, facts.device, offset, bytes)) }
}
