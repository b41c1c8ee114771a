//! Physical memory that several devices map, for the symmetric heap: CUDA's virtual memory management.

use cudarc::driver::sys;

use super::device::{location, ordinal_of};
use crate::driver::{DevicePtr, Physical, Place};
use crate::error::Result;

/// What is shared between processes; on other systems memory stays in this one.
#[cfg(unix)]
pub(super) const HANDLE_TYPE: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
#[cfg(not(unix))]
pub(super) const HANDLE_TYPE: sys::CUmemAllocationHandleType = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE;

fn properties(ordinal: usize) -> sys::CUmemAllocationProp {
    // SAFETY: all-zero is a valid value: null pointers, integers, and enums that have a 0.
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = HANDLE_TYPE;
    properties.location = location(ordinal);
    properties
}

pub(super) fn granularity(place: Place) -> Result<usize> {
    let mut bytes = 0;
    let properties = properties(place.device);
    let which = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED;
    // SAFETY: both outlive the call.
    unsafe { cu!(cuMemGetAllocationGranularity(&mut bytes, &properties, which)) }?;
    Ok(bytes)
}

pub(super) fn create(place: Place, bytes: usize) -> Result<Physical> {
    let mut handle = 0;
    let properties = properties(place.device);
    // SAFETY: both outlive the call.
    unsafe { cu!(cuMemCreate(&mut handle, bytes, &properties, 0)) }?;
    Ok(Physical(handle))
}

pub(super) fn map(memory: Physical, bytes: usize, accessors: &[Place]) -> Result<DevicePtr> {
    // The owner may always touch it: that is how it is peeked at and poked.
    // SAFETY: all-zero is a valid value, as in `properties`, and the driver overwrites it.
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    // SAFETY: `properties` outlives the call; the driver checks the handle.
    unsafe { cu!(cuMemGetAllocationPropertiesFromHandle(&mut properties, memory.0)) }?;
    let owner = ordinal_of(&properties.location);
    let devices = std::iter::once(owner).chain(accessors.iter().map(|place| place.device));
    map_for(memory.0, bytes, devices.collect())
}

/// Maps physical memory, or a multicast object, for these devices.
pub(super) fn map_for(
    handle: sys::CUmemGenericAllocationHandle,
    bytes: usize,
    mut devices: Vec<usize>,
) -> Result<DevicePtr> {
    devices.sort_unstable();
    devices.dedup();
    let flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    let access: Vec<_> = devices
        .into_iter()
        .map(|device| sys::CUmemAccessDesc {
            location: location(device),
            flags,
        })
        .collect();

    let mut ptr = 0;
    // SAFETY: `ptr` outlives the call; size 0 alignment and address 0 leave both to the driver.
    unsafe { cu!(cuMemAddressReserve(&mut ptr, bytes, 0, 0, 0)) }?;
    // SAFETY: the range was reserved just now, with this length, and nothing is mapped there; on failure what was done is
    // undone in reverse order. `access` outlives the call.
    unsafe {
        cu!(cuMemMap(ptr, bytes, 0, handle, 0)).inspect_err(|_| drop(cu!(cuMemAddressFree(ptr, bytes))))?;
        cu!(cuMemSetAccess(ptr, bytes, access.as_ptr(), access.len())).inspect_err(|_| drop(unmap(ptr, bytes)))?;
    }
    Ok(ptr)
}

pub(super) fn unmap(ptr: DevicePtr, bytes: usize) -> Result<()> {
    // SAFETY: the driver checks that exactly this range is mapped; that no work touches it any more is the contract of
    // `Driver::physical_unmap`.
    unsafe {
        cu!(cuMemUnmap(ptr, bytes))?;
        cu!(cuMemAddressFree(ptr, bytes))
    }
}

pub(super) fn release(memory: Physical) -> Result<()> {
    // SAFETY: the driver checks the handle, and keeps the memory while it is mapped.
    unsafe { cu!(cuMemRelease(memory.0)) }
}

#[cfg(unix)]
pub(super) fn export(memory: Physical) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut fd: std::ffi::c_int = -1;
    // SAFETY: for this type of handle the driver writes an int, which outlives the call.
    unsafe {
        cu!(cuMemExportToShareableHandle(
            (&raw mut fd).cast(),
            memory.0,
            HANDLE_TYPE,
            0
        ))
    }?;
    // SAFETY: on success `fd` is a new descriptor that the caller must close.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

#[cfg(unix)]
pub(super) fn import(fd: std::os::fd::BorrowedFd<'_>) -> Result<Physical> {
    use std::os::fd::AsRawFd;
    let mut handle = 0;
    let descriptor = std::ptr::without_provenance_mut(fd.as_raw_fd() as usize);
    // SAFETY: for this type of handle the pointer is the descriptor's number itself; it is open, as it is borrowed, and
    // the driver takes no ownership.
    unsafe { cu!(cuMemImportFromShareableHandle(&mut handle, descriptor, HANDLE_TYPE)) }?;
    Ok(Physical(handle))
}
