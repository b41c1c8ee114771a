//! Ordinary memory of devices, and page-locked memory of the host: which address is whose.

use std::ffi::c_void;

use cudarc::driver::sys;
use tileweave::driver::{Driver, Place};

use crate::answer::{Answer, Code, INVALID, Out, UNSUPPORTED, code_of};
use crate::context::{current, current_place, synchronize};
use crate::device::MEMORY_BYTES;
use crate::machine::{Machine, Tables, machine};
use crate::{order, stream};

/// What lies at an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub bytes: usize,
    /// Of the device that it is on, or for which it was locked.
    pub ordinal: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    Host,
    /// Through virtual memory.
    Mapped,
}

impl Tables {
    /// The memory that an address lies in.
    pub fn memory_at(&self, ptr: u64) -> Option<(u64, Memory)> {
        let (start, memory) = self.memory.range(..=ptr).next_back()?;
        (ptr - start < memory.bytes.max(1) as u64).then_some((*start, *memory))
    }

    /// Whether `bytes` from a host's address are locked memory of this library's.
    pub fn is_locked(&self, ptr: usize, bytes: usize) -> bool {
        let at = self.memory_at(ptr as u64);
        at.is_some_and(|(start, memory)| {
            memory.kind == Kind::Host && ptr as u64 - start + bytes as u64 <= memory.bytes as u64
        })
    }

    /// Bytes of a device that are taken.
    fn taken(&self, ordinal: usize) -> usize {
        let own = self
            .memory
            .values()
            .filter(|memory| memory.ordinal == ordinal && memory.kind != Kind::Mapped);
        let physical = self.named.values().filter(|named| named.ordinal == Some(ordinal));
        own.map(|memory| memory.bytes).sum::<usize>() + physical.map(|named| named.bytes).sum::<usize>()
    }
}

/// Memory of a device, at once.
pub(crate) fn allocate(machine: &Machine, ordinal: usize, place: Place, bytes: usize) -> Answer<u64> {
    let ptr = machine.sim.alloc(place, bytes).map_err(code_of)?;
    let kind = Kind::Device;
    machine.lock().memory.insert(ptr, Memory { bytes, ordinal, kind });
    Ok(ptr)
}

/// Takes an allocation out of the table, and nothing else.
fn take(machine: &Machine, ptr: u64, kind: Kind) -> Answer<Memory> {
    let mut tables = machine.lock();
    match tables.memory.get(&ptr) {
        Some(memory) if memory.kind == kind => tables.memory.remove(&ptr).ok_or(INVALID),
        _ => Err(INVALID),
    }
}

fn host_alloc(to: &Out<*mut c_void>, bytes: usize) -> Answer {
    let machine = machine()?;
    if bytes == 0 {
        return Err(INVALID);
    }
    let (place, ordinal) = (current_place(machine)?, current_ordinal(machine)?);
    let ptr = machine.sim.host_memory(place, bytes).map_err(code_of)?;
    let kind = Kind::Host;
    machine.lock().memory.insert(ptr, Memory { bytes, ordinal, kind });
    to.put(std::ptr::with_exposed_provenance_mut(ptr as usize))
}

pub(crate) fn current_ordinal(machine: &Machine) -> Answer<usize> {
    let tables = machine.lock();
    Ok(tables.contexts.get(current(&tables)?)?.ordinal)
}

calls! {
    fn cuMemAlloc_v2(ptr: Out<u64>, bytes: usize) {
        let machine = machine()?;
        if bytes == 0 {
            return Err(INVALID);
        }
        let (place, ordinal) = (current_place(machine)?, current_ordinal(machine)?);
        ptr.put(allocate(machine, ordinal, place, bytes)?)
    }

    /// As CUDA's, it waits for the device before the memory goes.
    fn cuMemFree_v2(ptr: u64) {
        let machine = machine()?;
        if ptr == 0 {
            return Ok(());
        }
        synchronize(machine)?;
        take(machine, ptr, Kind::Device)?;
        let lane = stream::find(machine, std::ptr::null_mut())?.lane;
        machine.sim.free_async(ptr, lane.stream).map_err(code_of)
    }

    /// In whatever context: cudarc's slices do not enter theirs when they are dropped.
    fn cuMemFreeAsync(ptr: u64, stream: sys::CUstream) {
        let machine = machine()?;
        if ptr == 0 {
            return Ok(());
        }
        let found = stream::find(machine, stream)?;
        order::before(machine, &found)?;
        // In a capture it is refused, and the memory stays.
        if machine.sim.stream_is_capturing(found.lane.stream).map_err(code_of)? {
            return machine.sim.free_async(ptr, found.lane.stream).map_err(code_of);
        }
        take(machine, ptr, Kind::Device)?;
        machine.sim.free_async(ptr, found.lane.stream).map_err(code_of)
    }

    fn cuMemHostAlloc(ptr: Out<*mut c_void>, bytes: usize, flags: u32) {
        if flags & !(sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_WRITECOMBINED) != 0 {
            return Err(INVALID);
        }
        host_alloc(&ptr, bytes)
    }

    fn cuMemAllocHost_v2(ptr: Out<*mut c_void>, bytes: usize) {
        host_alloc(&ptr, bytes)
    }

    /// As CUDA's, it waits for the device: kernels may still write there.
    fn cuMemFreeHost(ptr: *mut c_void) {
        let machine = machine()?;
        if current(&machine.lock()).is_ok() {
            synchronize(machine)?;
        }
        take(machine, ptr.addr() as u64, Kind::Host)?;
        machine.sim.host_memory_free(ptr.addr() as u64).map_err(code_of)
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, ptr: *mut c_void, flags: u32) {
        if flags != 0 || !machine()?.lock().is_locked(ptr.addr(), 1) {
            return Err(INVALID);
        }
        device.put(ptr.addr() as u64)
    }

    fn cuMemHostRegister_v2(_ptr: *mut c_void, _bytes: usize, _flags: u32) {
        Err(UNSUPPORTED)
    }

    fn cuMemHostUnregister(_ptr: *mut c_void) {
        Err(UNSUPPORTED)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let machine = machine()?;
        let ordinal = current_ordinal(machine)?;
        let taken = machine.lock().taken(ordinal);
        free.put_if_wanted(MEMORY_BYTES.saturating_sub(taken));
        total.put_if_wanted(MEMORY_BYTES);
        Ok(())
    }

    fn cuPointerGetAttribute(value: *mut c_void, which: u32, ptr: u64) {
        let (_, memory) = machine()?.lock().memory_at(ptr).ok_or(INVALID)?;
        use sys::CUpointer_attribute_enum as Attribute;
        const TYPE: u32 = Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE as u32;
        const ORDINAL: u32 = Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as u32;
        const DEVICE: u32 = Attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER as u32;
        const HOST: u32 = Attribute::CU_POINTER_ATTRIBUTE_HOST_POINTER as u32;
        let host = memory.kind == Kind::Host;
        match which {
            // What each attribute is written as is cuda.h's.
            TYPE => Out::at(value).put(if host { 1u32 } else { 2 }),
            ORDINAL => Out::at(value).put(memory.ordinal as i32),
            DEVICE => Out::at(value).put(ptr),
            HOST if host => Out::at(value).put(ptr),
            _ => Err(INVALID),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, ptr: u64) {
        let (start, memory) = machine()?.lock().memory_at(ptr).ok_or(Code::CUDA_ERROR_NOT_FOUND)?;
        base.put_if_wanted(start);
        bytes.put_if_wanted(memory.bytes);
        Ok(())
    }
}
