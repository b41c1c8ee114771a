//! NVML's calls that `nvml-wrapper` 0.13 lacks or has wrong.

use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper_sys::bindings as sys;

use super::{Asked, symbol};
use crate::topology::Fabric;

/// The end of an NVLink by its kind.
pub(super) enum End {
    Gpu,
    Switch,
    Other,
    Unknown,
}

impl Asked<'_> {
    /// The wrapper's `remote_device_type` writes the answer into a temporary and always returns `Unknown`.
    pub(super) fn remote_kind(&self, link: u32) -> Result<End, NvmlError> {
        let call = symbol(&self.nvml.lib().nvmlDeviceGetNvLinkRemoteDeviceType)?;
        let mut kind = sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_UNKNOWN;
        // SAFETY: the handle is of the library that the call is of, which `self` keeps open and started; `kind` outlives the call.
        nvml_try(unsafe { call(self.device.handle(), link, &mut kind) })?;
        Ok(match kind {
            sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_GPU => End::Gpu,
            sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_SWITCH => End::Switch,
            sys::nvmlIntNvLinkDeviceType_enum_NVML_NVLINK_DEVICE_TYPE_IBMNPU => End::Other,
            _ => End::Unknown,
        })
    }

    /// Memory in all, where the library is older than the wrapper's `nvmlDeviceGetMemoryInfo_v2` (driver 510).
    pub(super) fn memory_v1(&self) -> Result<u64, NvmlError> {
        let call = symbol(&self.nvml.lib().nvmlDeviceGetMemoryInfo)?;
        let mut memory = sys::nvmlMemory_t {
            total: 0,
            free: 0,
            used: 0,
        };
        // SAFETY: as in `remote_kind`; `memory` is the struct of this version of the call and outlives it.
        nvml_try(unsafe { call(self.device.handle(), &mut memory) })?;
        Ok(memory.total)
    }

    /// The state of the GPU's fabric and what is wrong with it while it works, by the newest call that the library has.
    pub(super) fn fabric(&self) -> Result<(Fabric, Vec<&'static str>), NvmlError> {
        match self.fabric_versioned(3, size_of::<sys::nvmlGpuFabricInfo_v3_t>()) {
            Err(e) if too_old_for(&e) => {}
            told => return told,
        }
        match self.fabric_versioned(2, size_of::<sys::nvmlGpuFabricInfo_v2_t>()) {
            Err(e) if too_old_for(&e) => self.fabric_unversioned(),
            told => told,
        }
    }

    fn fabric_versioned(&self, version: u32, bytes: usize) -> Result<(Fabric, Vec<&'static str>), NvmlError> {
        let call = symbol(&self.nvml.lib().nvmlDeviceGetGpuFabricInfoV)?;
        let mut info = sys::nvmlGpuFabricInfo_v3_t {
            version: bytes as u32 | version << 24,
            clusterUuid: [0; 16],
            status: 0,
            cliqueId: 0,
            state: 0,
            healthMask: 0,
            healthSummary: 0,
        };
        // SAFETY: as in `remote_kind`; `info` is of version 3, which begins as version 2 does, and outlives the call, which
        // writes no more than the size that `info.version` states.
        nvml_try(unsafe { call(self.device.handle(), &mut info) })?;
        let told = fabric(u32::from(info.state), info.status, &info.clusterUuid, info.cliqueId);
        Ok((told, ailments(info.healthMask)))
    }

    fn fabric_unversioned(&self) -> Result<(Fabric, Vec<&'static str>), NvmlError> {
        let call = symbol(&self.nvml.lib().nvmlDeviceGetGpuFabricInfo)?;
        let mut info = sys::nvmlGpuFabricInfo_t {
            clusterUuid: [0; 16],
            status: 0,
            cliqueId: 0,
            state: 0,
        };
        // SAFETY: as in `remote_kind`; `info` outlives the call.
        nvml_try(unsafe { call(self.device.handle(), &mut info) })?;
        let told = fabric(u32::from(info.state), info.status, &info.clusterUuid, info.cliqueId);
        Ok((told, Vec::new()))
    }
}

/// Whether an older form of the call may be answered.
fn too_old_for(e: &NvmlError) -> bool {
    match e {
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound | NvmlError::InvalidArg => true,
        NvmlError::UnexpectedVariant(code) => *code == sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        _ => false,
    }
}

fn fabric(state: u32, status: u32, cluster: &[u8; 16], clique: u32) -> Fabric {
    match state {
        sys::NVML_GPU_FABRIC_STATE_NOT_SUPPORTED => Fabric::NotSupported,
        sys::NVML_GPU_FABRIC_STATE_NOT_STARTED => Fabric::NotStarted,
        sys::NVML_GPU_FABRIC_STATE_IN_PROGRESS => Fabric::InProgress,
        sys::NVML_GPU_FABRIC_STATE_COMPLETED => Fabric::Completed {
            status,
            cluster: cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
            clique,
        },
        _ => Fabric::Unknown,
    }
}

/// What a fabric's health mask says yes to: fields of two bits, of which 1 is yes.
fn ailments(mask: u32) -> Vec<&'static str> {
    let fields = [
        (
            sys::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
            "its NVLink bandwidth is degraded",
        ),
        (
            sys::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY,
            "its NVLink routes are being recovered",
        ),
        (
            sys::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY,
            "an NVLink route of it is unhealthy",
        ),
        (
            sys::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY,
            "it recovers from an NVLink access timeout",
        ),
    ];
    fields
        .into_iter()
        .filter(|(shift, _)| mask >> shift & 3 == 1)
        .map(|(_, text)| text)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_mask_in_words() {
        assert_eq!(ailments(0), Vec::<&str>::new());
        // Every field a no, as healthy machines have it.
        assert_eq!(ailments(0xaa), Vec::<&str>::new());
        assert_eq!(ailments(0xa9), ["its NVLink bandwidth is degraded"]);
        assert_eq!(ailments(0x55).len(), 4);
    }

    #[test]
    fn a_state_that_is_new_is_unknown() {
        assert_eq!(fabric(17, 0, &[0; 16], 0), Fabric::Unknown);
    }
}
