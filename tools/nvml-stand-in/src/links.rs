//! NVLinks, and what lies between two GPUs.

use std::ffi::{c_int, c_uint};

use nvml_wrapper_sys::bindings as sys;
use sys::nvmlDevice_t;

use crate::answer::{Code, INVALID, Machine, NOT_SUPPORTED, OK, answer, put};
use crate::devices::pci_info;
use crate::snapshot::{Device, NvLink, Remote};

impl Machine {
    /// A link by its number. Beyond the last it is no argument; a number that is left out is a link that the GPU lacks.
    fn nvlink(&self, handle: nvmlDevice_t, link: c_uint) -> Result<&NvLink, Code> {
        let (_, gpu) = self.whole(handle)?;
        match gpu.nvlinks.iter().find(|there| there.link == link) {
            Some(there) => Ok(there),
            None if gpu.nvlinks.last().is_none_or(|last| link < last.link) => Err(NOT_SUPPORTED),
            None => Err(INVALID),
        }
    }

    /// One that is up: the others' ends nobody knows.
    fn active(&self, handle: nvmlDevice_t, link: c_uint) -> Result<&NvLink, Code> {
        self.nvlink(handle, link)
            .and_then(|link| if link.active { Ok(link) } else { Err(NOT_SUPPORTED) })
    }
}

/// NVML's.
///
/// # Safety
/// `active` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    link: c_uint,
    active: *mut sys::nvmlEnableState_t,
) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlDeviceGetNvLinkState", |m| unsafe {
        put(active, u32::from(m.nvlink(device, link)?.active))
    })
}

/// NVML's: as misleading as it is on H100, whatever the GPU.
///
/// # Safety
/// `version` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link: c_uint, version: *mut c_uint) -> Code {
    answer("nvmlDeviceGetNvLinkVersion", |m| {
        m.active(device, link)?;
        // SAFETY: the caller's word.
        unsafe { put(version, sys::nvmlNvlinkVersion_enum_NVML_NVLINK_VERSION_5_0) }
    })
}

/// NVML's.
///
/// # Safety
/// `kind` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(
    device: nvmlDevice_t,
    link: c_uint,
    kind: *mut sys::nvmlIntNvLinkDeviceType_t,
) -> Code {
    answer("nvmlDeviceGetNvLinkRemoteDeviceType", |m| {
        let told = match m.active(device, link)?.remote {
            Remote::Gpu(_) => sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU,
            Remote::Switch => sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH,
            Remote::Other => sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_IBMNPU,
            Remote::Unknown => sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN,
        };
        // SAFETY: the caller's word.
        unsafe { put(kind, told) }
    })
}

/// NVML's. Switches have bus ids of their own; an end that is hidden has ones.
///
/// # Safety
/// `pci` is null or points to its struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: nvmlDevice_t,
    link: c_uint,
    pci: *mut sys::nvmlPciInfo_t,
) -> Code {
    answer("nvmlDeviceGetNvLinkRemotePciInfo_v2", |m| {
        let told = match &m.active(device, link)?.remote {
            Remote::Gpu(end) => pci_info(end),
            Remote::Switch => pci_info("00000000:f0:00.0"),
            Remote::Other => pci_info("00000004:00:00.0"),
            Remote::Unknown => pci_info("ffffffff:ff:1f.0"),
        };
        // SAFETY: the caller's word.
        unsafe { put(pci, told) }
    })
}

/// NVML's codes for a claim; where it has several, one or the other.
fn status(claim: &str, from: usize, to: usize) -> sys::nvmlGpuP2PStatus_t {
    let [even, odd] = match claim {
        "yes" => [sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_OK; 2],
        "no" => [
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_GPU_NOT_SUPPORTED,
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED,
        ],
        "disabled" => [
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED,
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_DISABLED_BY_REGKEY,
        ],
        _ => [
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_NOT_SUPPORTED,
            sys::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_UNKNOWN,
        ],
    };
    if (from + to).is_multiple_of(2) { even } else { odd }
}

/// NVML's.
///
/// # Safety
/// `told` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    from: nvmlDevice_t,
    to: nvmlDevice_t,
    which: sys::nvmlGpuP2PCapsIndex_t,
    told: *mut sys::nvmlGpuP2PStatus_t,
) -> Code {
    answer("nvmlDeviceGetP2PStatus", |m| {
        let ((from, _), (to, _)) = (m.whole(from)?, m.whole(to)?);
        let link = m.snapshot.link(from, to).ok_or(INVALID)?;
        let claim = match which {
            sys::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_READ => &link.read,
            sys::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_WRITE => &link.write,
            sys::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_ATOMICS => &link.atomics,
            sys::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK if link.nvlink.is_some() => "yes",
            sys::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_NVLINK => "unknown",
            _ => return Err(INVALID),
        };
        // SAFETY: the caller's word.
        unsafe { put(told, status(claim, from, to)) }
    })
}

/// NVML's.
///
/// # Safety
/// `level` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    from: nvmlDevice_t,
    to: nvmlDevice_t,
    level: *mut sys::nvmlGpuTopologyLevel_t,
) -> Code {
    answer("nvmlDeviceGetTopologyCommonAncestor", |m| {
        let (from, to) = (m.device(from)?, m.device(to)?);
        if matches!((from, to), (Device::Slice(_), _) | (_, Device::Slice(_))) {
            return Err(INVALID);
        }
        let told = match m.snapshot.link(from.gpu(), to.gpu()).ok_or(INVALID)?.ancestor.as_str() {
            "internal" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_INTERNAL,
            "single_switch" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_SINGLE,
            "multiple_switches" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_MULTIPLE,
            "host_bridge" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_HOSTBRIDGE,
            "node" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_NODE,
            "system" => sys::nvmlGpuLevel_enum_NVML_TOPOLOGY_SYSTEM,
            _ => return Err(NOT_SUPPORTED),
        };
        // SAFETY: the caller's word.
        unsafe { put(level, told) }
    })
}

/// NVML's, of which one field is known: the rate of a GPU's NVLinks, with the bits of the line's coding where it is the data sheet's.
///
/// # Safety
/// `values` is null or has `count` structs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut sys::nvmlFieldValue_t,
) -> Code {
    answer("nvmlDeviceGetFieldValues", |m| {
        if values.is_null() || count < 0 {
            return Err(INVALID);
        }
        let rate = m.whole(device).ok().and_then(|(index, _)| {
            let of =
                |link: &crate::snapshot::Link| link.nvlink.as_ref().map(|path| path.gb_per_s / f64::from(path.lanes));
            m.snapshot.links.iter().filter(|link| link.from == index).find_map(of)
        });
        for index in 0..count as usize {
            // SAFETY: `count` structs are there by the caller's word.
            let value = unsafe { &mut *values.add(index) };
            value.nvmlReturn = NOT_SUPPORTED;
            if let (sys::field_id::NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, Some(rate)) = (value.fieldId, rate) {
                let coded = if rate.fract() == 0.0 { rate * 1.0625 } else { rate };
                value.nvmlReturn = OK;
                value.valueType = sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
                value.value.uiVal = (coded * 1e3).round() as c_uint;
            }
        }
        Ok(())
    })
}
