//! Devices as the node describes them.

use std::ffi::c_char;

use cudarc::driver::sys;
use tileweave::driver::Driver;

use crate::answer::{Answer, Code, INVALID, Out, code_of};
use crate::attributes::attribute;
use crate::machine::{Machine, machine};

/// Bytes of a device's memory: what of the node's addresses is a device's.
pub(crate) const MEMORY_BYTES: usize = 64 << 30;

/// The 16 bytes of `GPU-xxxxxxxx-xxxx-...`.
fn uuid_bytes(text: &str) -> [u8; 16] {
    let hex: Vec<u8> = text.bytes().skip_while(|c| *c != b'-').filter(|c| *c != b'-').collect();
    let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
    std::array::from_fn(|i| match hex.get(2 * i..2 * i + 2) {
        Some(pair) => digit(pair[0]) << 4 | digit(pair[1]),
        None => 0,
    })
}

fn put_uuid(uuid: &Out<sys::CUuuid>, device: sys::CUdevice) -> Answer {
    let machine = machine()?;
    let ordinal = machine.ordinal(device)?;
    let identity = machine.sim.identity(ordinal).map_err(code_of)?;
    uuid.put(sys::CUuuid {
        bytes: uuid_bytes(&identity.uuid).map(|byte| byte as c_char),
    })
}

fn put_text(to: &Out<c_char>, room: i32, text: &str) -> Answer {
    let room = usize::try_from(room).map_err(|_| INVALID)?;
    if room == 0 {
        return Err(INVALID);
    }
    let kept = text.bytes().take(room - 1).chain([0]);
    kept.enumerate().try_for_each(|(i, byte)| to.put_at(i, byte as c_char))
}

fn claim(machine: &Machine, from: sys::CUdevice, to: sys::CUdevice) -> Answer<tileweave::driver::PeerClaim> {
    let (from, to) = (machine.ordinal(from)?, machine.ordinal(to)?);
    if from == to {
        return Err(Code::CUDA_ERROR_INVALID_DEVICE);
    }
    machine.sim.peer_claim(from, to).map_err(code_of)
}

calls! {
    fn cuDeviceGetCount(count: Out<i32>) {
        count.put(machine()?.devices as i32)
    }

    fn cuDeviceGet(device: Out<sys::CUdevice>, ordinal: i32) {
        machine()?.ordinal(ordinal)?;
        device.put(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: i32, device: sys::CUdevice) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        put_text(&name, room, &format!("simulated device {}", ordinal))
    }

    fn cuDeviceGetAttribute(value: Out<i32>, which: u32, device: sys::CUdevice) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        value.put(attribute(machine, ordinal, which)?)
    }

    fn cuDeviceGetUuid(uuid: Out<sys::CUuuid>, device: sys::CUdevice) {
        put_uuid(&uuid, device)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<sys::CUuuid>, device: sys::CUdevice) {
        put_uuid(&uuid, device)
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: sys::CUdevice) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        let identity = machine.sim.identity(ordinal).map_err(code_of)?;
        put_text(&id, room, &identity.pci)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: sys::CUdevice) {
        machine()?.ordinal(device)?;
        bytes.put(MEMORY_BYTES)
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, which: u32, from: sys::CUdevice, to: sys::CUdevice) {
        let claim = claim(machine()?, from, to)?;
        use sys::CUdevice_P2PAttribute_enum as Peer;
        const ACCESS: u32 = Peer::CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED as u32;
        const ATOMICS: u32 = Peer::CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED as u32;
        match which {
            ACCESS => value.put(claim.access.into()),
            ATOMICS => value.put(claim.atomics.into()),
            // Rank among links, and arrays, of which there are none.
            1 | 4 => value.put(0),
            _ => Err(INVALID),
        }
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, from: sys::CUdevice, to: sys::CUdevice) {
        can.put(claim(machine()?, from, to)?.access.into())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_uuid_comes_back_as_bytes() {
        let bytes = super::uuid_bytes("GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(bytes, std::array::from_fn(|i| i as u8 * 17));
    }
}
