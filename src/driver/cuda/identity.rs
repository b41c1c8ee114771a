//! Which device an ordinal stands for, and what the driver claims of pairs of them.

use cudarc::driver::sys;
use sys::CUdevice_attribute_enum as Attribute;

use super::device::{Facts, attribute};
use crate::driver::{Identity, PeerClaim};
use crate::error::Result;

pub(super) fn identity(facts: &Facts) -> Result<Identity> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: `uuid` outlives the call.
    unsafe { cu!(cuDeviceGetUuid_v2(&mut uuid, facts.device)) }?;
    let mut memory_bytes = 0;
    // SAFETY: `memory_bytes` outlives the call.
    unsafe { cu!(cuDeviceTotalMem_v2(&mut memory_bytes, facts.device)) }?;
    let of = |which| attribute(facts.device, which);
    let (domain, bus, device) = (
        of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
        of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
        of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
    );
    Ok(Identity {
        uuid: written(uuid.bytes.map(|byte| byte as u8)),
        pci: format!("{domain:08x}:{bus:02x}:{device:02x}.0"),
        memory_bytes: memory_bytes as u64,
    })
}

/// A device's UUID as NVML writes it. Of a MIG slice NVML's prefix is another; CUDA does not tell which it is.
fn written(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("GPU-{}", parts.join("-"))
}

pub(super) fn peer_claim(from: &Facts, to: &Facts) -> Result<PeerClaim> {
    use sys::CUdevice_P2PAttribute_enum as Peer;
    let claim = |which| -> Result<bool> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        unsafe { cu!(cuDeviceGetP2PAttribute(&mut value, which, from.device, to.device)) }?;
        Ok(value != 0)
    };
    Ok(PeerClaim {
        access: claim(Peer::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED)?,
        atomics: claim(Peer::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED)?,
    })
}

pub(super) fn multicast_claim(facts: &Facts) -> Result<bool> {
    Ok(attribute(facts.device, Attribute::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED)? != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_is_written_as_nvml_does() {
        let bytes = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(super::written(bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
