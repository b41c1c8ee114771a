//! Memory pools: which device an allocation is of. Memory is had at once and given back in the order of the stream;
//! nothing is kept, so what a pool is told of keeping and reusing is noted and of no effect.

use std::collections::BTreeMap;
use std::ffi::c_void;

use cudarc::driver::sys;
use tileweave::driver::Driver;

use crate::answer::{Answer, Code, INVALID, In, Out, code_of};
use crate::handles::pointer;
use crate::machine::{Machine, machine};
use crate::memory::allocate;
use crate::stream;
use crate::virtual_memory::ordinal_in;

#[derive(Debug)]
pub(crate) struct Pool {
    ordinal: usize,
    /// The device's own, which is not destroyed.
    default: bool,
    attributes: BTreeMap<u32, u64>,
}

/// Those that are a u64; the others are an int.
const WIDE: std::ops::RangeInclusive<u32> = 4..=8;
const RELEASE_THRESHOLD: u32 = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD as u32;

fn default_of(machine: &Machine, device: sys::CUdevice) -> Answer<usize> {
    let ordinal = machine.ordinal(device)?;
    let mut tables = machine.lock();
    let own = tables
        .pools
        .all()
        .find(|(_, pool)| pool.default && pool.ordinal == ordinal);
    if let Some((handle, _)) = own {
        return Ok(handle);
    }
    let attributes = BTreeMap::new();
    Ok(tables.pools.add(Pool {
        ordinal,
        default: true,
        attributes,
    }))
}

/// On a stream that captures it is refused: an allocation would become the graph's.
fn from(ordinal: usize, ptr: &Out<u64>, bytes: usize, stream: sys::CUstream) -> Answer {
    let machine = machine()?;
    let found = stream::find_current(machine, stream)?;
    if machine.sim.stream_is_capturing(found.lane.stream).map_err(code_of)? {
        return Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if bytes == 0 {
        return ptr.put(0);
    }
    ptr.put(allocate(machine, ordinal, machine.whole(ordinal), bytes)?)
}

calls! {
    fn cuMemPoolCreate(pool: Out<sys::CUmemoryPool>, properties: In<sys::CUmemPoolProps>) {
        let machine = machine()?;
        let words = properties.cast::<i32>();
        if words.at(0)? != 1 {
            return Err(INVALID);
        }
        let ordinal = ordinal_in(machine, &properties.cast(), std::mem::offset_of!(sys::CUmemPoolProps, location))?;
        let attributes = BTreeMap::new();
        pool.put(pointer(machine.lock().pools.add(Pool { ordinal, default: false, attributes })))
    }

    /// What was allocated from it stays until it is freed.
    fn cuMemPoolDestroy(pool: sys::CUmemoryPool) {
        let mut tables = machine()?.lock();
        if tables.pools.get(pool.addr())?.default {
            return Err(INVALID);
        }
        tables.pools.remove(pool.addr()).map(drop)
    }

    fn cuMemPoolSetAttribute(pool: sys::CUmemoryPool, which: u32, value: *mut c_void) {
        let mut tables = machine()?.lock();
        let value = match which {
            1..=3 => Out::<u32>::at(value).get()?.into(),
            _ if WIDE.contains(&which) => Out::<u64>::at(value).get()?,
            _ => return Err(INVALID),
        };
        tables.pools.get_mut(pool.addr())?.attributes.insert(which, value);
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: sys::CUmemoryPool, which: u32, value: *mut c_void) {
        let tables = machine()?.lock();
        let pool = tables.pools.get(pool.addr())?;
        // Reuse is allowed unless it is forbidden; nothing is kept unless it is asked for.
        let default = u64::from(which < RELEASE_THRESHOLD);
        let known = pool.attributes.get(&which).copied().unwrap_or(default);
        match which {
            1..=3 => Out::at(value).put(known as u32),
            _ if WIDE.contains(&which) => Out::at(value).put(known),
            _ => Err(INVALID),
        }
    }

    fn cuMemPoolTrimTo(pool: sys::CUmemoryPool, _keep: usize) {
        machine()?.lock().pools.get(pool.addr()).map(drop)
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<sys::CUmemoryPool>, device: sys::CUdevice) {
        pool.put(pointer(default_of(machine()?, device)?))
    }

    fn cuDeviceGetMemPool(pool: Out<sys::CUmemoryPool>, device: sys::CUdevice) {
        pool.put(pointer(default_of(machine()?, device)?))
    }

    fn cuMemAllocAsync(ptr: Out<u64>, bytes: usize, stream: sys::CUstream) {
        let ordinal = crate::memory::current_ordinal(machine()?)?;
        from(ordinal, &ptr, bytes, stream)
    }

    fn cuMemAllocFromPoolAsync(ptr: Out<u64>, bytes: usize, pool: sys::CUmemoryPool, stream: sys::CUstream) {
        let ordinal = machine()?.lock().pools.get(pool.addr())?.ordinal;
        if bytes == 0 {
            return Err(INVALID);
        }
        from(ordinal, &ptr, bytes, stream)
    }
}
