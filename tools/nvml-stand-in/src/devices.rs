//! Which devices there are, and what each is.

use std::ffi::{c_char, c_int, c_uint, c_ulong};

use nvml_wrapper_sys::bindings as sys;
use sys::nvmlDevice_t;

use crate::answer::{Code, INVALID, LOST, NOT_FOUND, NOT_SUPPORTED, VERSION_MISMATCH, answer, put, put_text};
use crate::snapshot::{Device, Fabric};
use crate::system::text;

/// NVML's.
///
/// # Safety
/// `count` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlDeviceGetCount_v2", |m| unsafe { put(count, m.gpus as c_uint) })
}

/// NVML's.
///
/// # Safety
/// `device` is null or points to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> Code {
    answer("nvmlDeviceGetHandleByIndex_v2", |m| match index {
        lost if Some(lost) == m.lost => Err(LOST),
        // SAFETY: the caller's word.
        index if (index as usize) < m.gpus => unsafe { put(device, m.handle(index as usize)) },
        _ => Err(INVALID),
    })
}

/// NVML's.
///
/// # Safety
/// `uuid` is null or a string, `device` null or a pointer to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) -> Code {
    answer("nvmlDeviceGetHandleByUUID", |m| {
        // SAFETY: the caller's word.
        let uuid = unsafe { text(uuid) }?;
        let index = m
            .devices
            .iter()
            .position(|device| m.uuid(device) == uuid)
            .ok_or(NOT_FOUND)?;
        // SAFETY: the caller's word.
        unsafe { put(device, m.handle(index)) }
    })
}

/// NVML's.
///
/// # Safety
/// `pci` is null or a string, `device` null or a pointer to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(pci: *const c_char, device: *mut nvmlDevice_t) -> Code {
    answer("nvmlDeviceGetHandleByPciBusId_v2", |m| {
        // SAFETY: the caller's word.
        let pci = unsafe { text(pci) }?;
        let at = |device: &Device| m.snapshot.gpus[device.gpu()].pci.eq_ignore_ascii_case(pci);
        let index = m.devices[..m.gpus].iter().position(at).ok_or(NOT_FOUND)?;
        // SAFETY: the caller's word.
        unsafe { put(device, m.handle(index)) }
    })
}

/// NVML's.
///
/// # Safety
/// `uuid` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlDeviceGetUUID", |m| unsafe {
        put_text(uuid, length, m.uuid(m.device(device)?))
    })
}

/// NVML's.
///
/// # Safety
/// `name` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlDeviceGetName", |m| unsafe {
        put_text(name, length, &m.gpu(device)?.name)
    })
}

/// A bus id as NVML gives it: numbers, and texts with upper-case digits.
pub(crate) fn pci_info(pci: &str) -> sys::nvmlPciInfo_t {
    let part = |at: std::ops::Range<usize>| {
        pci.get(at)
            .and_then(|part| u32::from_str_radix(part, 16).ok())
            .unwrap_or(u32::MAX)
    };
    let mut info = sys::nvmlPciInfo_t {
        busIdLegacy: [0; 16],
        domain: part(0..8),
        bus: part(9..11),
        device: part(12..14),
        pciDeviceId: 0x2330_10de,
        pciSubSystemId: 0,
        busId: [0; 32],
    };
    let written = pci.to_uppercase();
    for (to, byte) in info.busId.iter_mut().zip(written.bytes()) {
        *to = byte as c_char;
    }
    for (to, byte) in info.busIdLegacy.iter_mut().zip(written.bytes().skip(4)) {
        *to = byte as c_char;
    }
    info
}

/// NVML's.
///
/// # Safety
/// `pci` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut sys::nvmlPciInfo_t) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlDeviceGetPciInfo_v3", |m| unsafe {
        put(pci, pci_info(&m.gpu(device)?.pci))
    })
}

/// NVML's.
///
/// # Safety
/// `major` and `minor` are null or point to integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> Code {
    answer("nvmlDeviceGetCudaComputeCapability", |m| {
        let (high, low) = m.gpu(device)?.compute_capability;
        // SAFETY: the caller's word.
        unsafe { put(major, high).and_then(|()| put(minor, low)) }
    })
}

/// NVML's.
///
/// # Safety
/// `memory` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut sys::nvmlMemory_t) -> Code {
    answer("nvmlDeviceGetMemoryInfo", |m| {
        let total = m.gpu(device)?.memory_bytes;
        // SAFETY: the caller's word.
        unsafe {
            put(
                memory,
                sys::nvmlMemory_t {
                    total,
                    free: total,
                    used: 0,
                },
            )
        }
    })
}

/// NVML's.
///
/// # Safety
/// `memory` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut sys::nvmlMemory_v2_t) -> Code {
    answer("nvmlDeviceGetMemoryInfo_v2", |m| {
        let total = m.gpu(device)?.memory_bytes;
        // SAFETY: the caller's word.
        let version = unsafe { memory.as_ref() }.ok_or(INVALID)?.version;
        if version != size_of::<sys::nvmlMemory_v2_t>() as u32 | 2 << 24 {
            return Err(VERSION_MISMATCH);
        }
        let told = sys::nvmlMemory_v2_t {
            version,
            total,
            reserved: 0,
            free: total,
            used: 0,
        };
        // SAFETY: the caller's word.
        unsafe { put(memory, told) }
    })
}

/// NVML's.
///
/// # Safety
/// `set` is null or has `words` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: nvmlDevice_t,
    words: c_uint,
    set: *mut c_ulong,
    _scope: c_uint,
) -> Code {
    answer("nvmlDeviceGetMemoryAffinity", |m| {
        let node = m.gpu(device)?.numa.ok_or(NOT_SUPPORTED)?;
        if set.is_null() {
            return Err(INVALID);
        }
        for word in 0..words {
            let bits = if word == node / c_ulong::BITS {
                1 << (node % c_ulong::BITS)
            } else {
                0
            };
            // SAFETY: `words` words are there by the caller's word.
            unsafe { set.add(word as usize).write(bits) };
        }
        Ok(())
    })
}

/// The state, status, cluster and clique that NVML would give.
fn fabric(fabric: &Fabric) -> Result<(u8, Code, [u8; 16], u32), Code> {
    let mut id = [0; 16];
    Ok(match fabric {
        Fabric::NotSupported | Fabric::Unknown => return Err(NOT_SUPPORTED),
        Fabric::NotStarted => (1, 0, id, 0),
        Fabric::InProgress => (2, 0, id, 0),
        Fabric::Completed {
            status,
            cluster,
            clique,
        } => {
            for (index, byte) in id.iter_mut().enumerate() {
                let digits = cluster.get(2 * index..2 * index + 2).ok_or(INVALID)?;
                *byte = u8::from_str_radix(digits, 16).map_err(|_| INVALID)?;
            }
            (3, *status, id, *clique)
        }
    })
}

/// NVML's.
///
/// # Safety
/// `info` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuFabricInfo(device: nvmlDevice_t, info: *mut sys::nvmlGpuFabricInfo_t) -> Code {
    answer("nvmlDeviceGetGpuFabricInfo", |m| {
        let (state, status, cluster, clique) = fabric(&m.whole(device)?.1.fabric)?;
        let told = sys::nvmlGpuFabricInfo_t {
            clusterUuid: cluster,
            status,
            cliqueId: clique,
            state,
        };
        // SAFETY: the caller's word.
        unsafe { put(info, told) }
    })
}

/// NVML's. No more is written than the size in the struct's version allows.
///
/// # Safety
/// `info` is null or points to the struct of the version that it names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGpuFabricInfoV(
    device: nvmlDevice_t,
    info: *mut sys::nvmlGpuFabricInfoV_t,
) -> Code {
    answer("nvmlDeviceGetGpuFabricInfoV", |m| {
        let (state, status, cluster, clique) = fabric(&m.whole(device)?.1.fabric)?;
        // Every field of the mask a no: nothing ails it.
        let health = 0xaa;
        let second = size_of::<sys::nvmlGpuFabricInfo_v2_t>() as u32 | 2 << 24;
        let third = size_of::<sys::nvmlGpuFabricInfo_v3_t>() as u32 | 3 << 24;
        if info.is_null() {
            return Err(INVALID);
        }
        // SAFETY: every version begins with its number.
        let version = unsafe { info.cast::<c_uint>().read() };
        if version == second && m.fabric >= 2 {
            let told = sys::nvmlGpuFabricInfo_v2_t {
                version,
                clusterUuid: cluster,
                status,
                cliqueId: clique,
                state,
                healthMask: health,
            };
            // SAFETY: the caller's struct is of this version.
            unsafe { put(info.cast(), told) }
        } else if version == third && m.fabric >= 3 {
            let told = sys::nvmlGpuFabricInfo_v3_t {
                version,
                clusterUuid: cluster,
                status,
                cliqueId: clique,
                state,
                healthMask: health,
                healthSummary: 1,
            };
            // SAFETY: the caller's struct is of this version.
            unsafe { put(info, told) }
        } else {
            Err(VERSION_MISMATCH)
        }
    })
}
