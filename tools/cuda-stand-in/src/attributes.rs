//! What a device says of itself, by attribute. One that is not listed is an error, so that nobody goes by a number that
//! was made up.

use cudarc::driver::sys;
use sys::CUdevice_attribute_enum as Attribute;
use tileweave::driver::Driver;

use crate::answer::{Answer, INVALID, code_of};
use crate::machine::Machine;

macro_rules! table {
    ($which:ident: $($attribute:ident = $value:expr),* $(,)?) => {
        match $which {
            $(x if x == Attribute::$attribute as u32 => $value,)*
            _ => return Err(INVALID),
        }
    };
}

pub(crate) fn attribute(machine: &Machine, ordinal: usize, which: u32) -> Answer<i32> {
    let place = machine.whole(ordinal);
    let info = || machine.sim.place_info(place).map_err(code_of);
    // `00000000:18:00.0`
    let pci = |range: std::ops::Range<usize>| -> Answer<i32> {
        let identity = machine.sim.identity(place.device).map_err(code_of)?;
        let digits = identity.pci.get(range).ok_or(INVALID)?;
        i32::from_str_radix(digits, 16).map_err(|_| INVALID)
    };
    Ok(table!(which:
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1024,
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X = 1024,
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y = 1024,
        CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z = 64,
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = i32::MAX,
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 65535,
        CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 65535,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 48 << 10,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = info()?.shared_per_cta as i32,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 228 << 10,
        CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK = 1 << 10,
        CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK = 65536,
        CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR = 65536,
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 2048,
        CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR = 32,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = info()?.sms as i32,
        CU_DEVICE_ATTRIBUTE_WARP_SIZE = 32,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 9,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0,
        CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID = pci(0..8)?,
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID = pci(9..11)?,
        CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID = pci(12..14)?,
        CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS = 1,
        CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT = 2,
        CU_DEVICE_ATTRIBUTE_INTEGRATED = 0,
        CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 1,
        CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING = 1,
        CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY = 0,
        CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS = 0,
        CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED = 0,
        CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH = 0,
        CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH = 1,
        CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 1,
        CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 1,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED = 1,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED = 0,
        CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED = 1,
        CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED = machine.sim.multicast_claim(place.device).map_err(code_of)?.into(),
    ))
}
