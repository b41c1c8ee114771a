//! Multi-instance GPU.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings as sys;
use sys::nvmlDevice_t;

use crate::answer::{Code, INVALID, NOT_FOUND, NOT_SUPPORTED, answer, put};
use crate::snapshot::{Device, Mig};

/// Most slices of a GPU.
const MOST: u32 = 7;

/// NVML's.
///
/// # Safety
/// `current` and `pending` are null or point to integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Code {
    answer("nvmlDeviceGetMigMode", |m| {
        let mode = match m.device(device)? {
            Device::Divided(..) => 1,
            Device::Whole(index) if m.snapshot.gpus[*index].mig == Mig::On => 1,
            // Divisible from A100 on, GeForce and workstation cards aside.
            Device::Whole(index) => match m.snapshot.gpus[*index].compute_capability {
                (8, 0) | (9.., _) => 0,
                _ => return Err(NOT_SUPPORTED),
            },
            Device::Slice(_) => return Err(INVALID),
        };
        // SAFETY: the caller's word.
        unsafe { put(current, mode).and_then(|()| put(pending, mode)) }
    })
}

/// NVML's.
///
/// # Safety
/// `count` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> Code {
    answer("nvmlDeviceGetMaxMigDeviceCount", |m| {
        m.device(device)?;
        // SAFETY: the caller's word.
        unsafe { put(count, MOST) }
    })
}

/// NVML's. Slices are numbered with gaps, as NVML's are once some were destroyed.
///
/// # Safety
/// `slice` is null or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    slice: *mut nvmlDevice_t,
) -> Code {
    answer("nvmlDeviceGetMigDeviceHandleByIndex", |m| {
        if index >= MOST {
            return Err(INVALID);
        }
        let slices: &[usize] = match m.device(device)? {
            Device::Divided(_, slices) => slices,
            _ => &[],
        };
        let gap = index.is_multiple_of(2);
        let gpu = *slices.get(index as usize / 2).filter(|_| !gap).ok_or(NOT_FOUND)?;
        let at = m
            .devices
            .iter()
            .position(|device| *device == Device::Slice(gpu))
            .ok_or(NOT_FOUND)?;
        // SAFETY: the caller's word.
        unsafe { put(slice, m.handle(at)) }
    })
}

/// NVML's: of slices alone.
///
/// # Safety
/// `attributes` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAttributes_v2(
    device: nvmlDevice_t,
    attributes: *mut sys::nvmlDeviceAttributes_t,
) -> Code {
    answer("nvmlDeviceGetAttributes_v2", |m| {
        let Device::Slice(index) = m.device(device)? else {
            return Err(NOT_SUPPORTED);
        };
        let gpu = &m.snapshot.gpus[*index];
        let told = sys::nvmlDeviceAttributes_t {
            multiprocessorCount: gpu.sms.ok_or(NOT_SUPPORTED)?,
            sharedCopyEngineCount: 1,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: 1,
            computeInstanceSliceCount: 1,
            memorySizeMB: gpu.memory_bytes >> 20,
        };
        // SAFETY: the caller's word.
        unsafe { put(attributes, told) }
    })
}
