//! Virtual memory: physical memory by handles, and addresses for it.
//!
//! On the node an address tells its device, and physical memory has one address however often it is mapped. CUDA's
//! calls ask for the address before they say of what. So a reservation takes what the thread has *named* last: made,
//! imported, bound, or asked the properties of. It is the node's mapping for nobody; `cuMemMap` checks that it is of
//! that, and `cuMemSetAccess` maps it for the devices.

use std::cell::Cell;

use cudarc::driver::sys;
use tileweave::driver::{Driver, Multicast, Physical, Place};

use crate::answer::{Answer, BAD_HANDLE, INVALID, In, Out, UNSUPPORTED, code_of};
use crate::machine::{Machine, machine};
use crate::memory::{Kind, Memory};

const PINNED: i32 = 1;
const DEVICE: i32 = 1;
pub(crate) const POSIX: u32 = 1;
const READ_WRITE: u32 = 3;

/// What a `CUmemGenericAllocationHandle` stands for, which is the node's own number.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub bytes: usize,
    /// Of physical memory; `None`: a multicast object.
    pub ordinal: Option<usize>,
    /// Devices of the node that have joined a multicast object.
    pub team: Vec<Place>,
}

/// Addresses, reserved once for each mapping of the same memory.
#[derive(Debug)]
pub(crate) struct Reservation {
    bytes: usize,
    of: u64,
    reserved: u32,
    mapped: u32,
    /// How often the node has mapped it: when it was reserved, and for whom it was opened.
    times: u32,
}

thread_local! {
    static NAMED: Cell<u64> = const { Cell::new(0) };
}

pub(crate) fn name(handle: u64) {
    NAMED.set(handle);
}

/// The ordinal in a `CUmemLocation`: two ints lead it in every version of cuda.h, the type and the number.
pub(crate) fn ordinal_in(machine: &Machine, ints: &In<i32>, offset: usize) -> Answer<usize> {
    if ints.at(offset / 4)? != DEVICE {
        return Err(UNSUPPORTED);
    }
    machine.ordinal(ints.at(offset / 4 + 1)?)
}

fn owner_of(properties: &In<sys::CUmemAllocationProp>) -> Answer<usize> {
    let ints = properties.cast::<i32>();
    if ints.at(0)? != PINNED || ints.at(1)? as u32 & !POSIX != 0 {
        return Err(UNSUPPORTED);
    }
    ordinal_in(
        machine()?,
        &ints,
        std::mem::offset_of!(sys::CUmemAllocationProp, location),
    )
}

pub(crate) fn named(machine: &Machine, handle: u64) -> Answer<Named> {
    machine.lock().named.get(&handle).cloned().ok_or(BAD_HANDLE)
}

/// Maps it for `accessors`, and once more each time.
fn map(machine: &Machine, handle: u64, what: &Named, accessors: &[Place]) -> Answer<u64> {
    let mapped = match what.ordinal {
        Some(_) => machine.sim.physical_map(Physical(handle), what.bytes, accessors),
        // Once, for all that have joined.
        None => machine.sim.multicast_map(Multicast(handle), what.bytes, &what.team),
    };
    mapped.map_err(code_of)
}

/// Undoes `times` of the node's mappings.
fn unmap(machine: &Machine, ptr: u64, reservation: &Reservation, times: u32) -> Answer {
    let multicast = named(machine, reservation.of).is_ok_and(|what| what.ordinal.is_none());
    for _ in 0..times {
        let unmapped = match multicast {
            true => machine.sim.multicast_unmap(ptr, reservation.bytes),
            false => machine.sim.physical_unmap(ptr, reservation.bytes),
        };
        unmapped.map_err(code_of)?;
    }
    Ok(())
}

calls! {
    fn cuMemGetAllocationGranularity(bytes: Out<usize>, properties: In<sys::CUmemAllocationProp>, which: u32) {
        let machine = machine()?;
        let place = machine.whole(owner_of(&properties)?);
        if which > 1 {
            return Err(INVALID);
        }
        bytes.put(machine.sim.physical_granularity(place).map_err(code_of)?)
    }

    fn cuMemCreate(handle: Out<u64>, bytes: usize, properties: In<sys::CUmemAllocationProp>, flags: u64) {
        let machine = machine()?;
        let ordinal = owner_of(&properties)?;
        if flags != 0 {
            return Err(INVALID);
        }
        let memory = machine.sim.physical_create(machine.whole(ordinal), bytes).map_err(code_of)?;
        let what = Named { bytes, ordinal: Some(ordinal), team: Vec::new() };
        machine.lock().named.insert(memory.0, what);
        name(memory.0);
        handle.put(memory.0)
    }

    /// Physical memory or a multicast object. Mapped or bound, the node keeps it until it is not.
    fn cuMemRelease(handle: u64) {
        let machine = machine()?;
        let what = named(machine, handle)?;
        let released = match what.ordinal {
            Some(_) => machine.sim.physical_release(Physical(handle)),
            None => machine.sim.multicast_release(Multicast(handle)),
        };
        released.map_err(code_of)?;
        // Memory that came back through its own descriptor has a handle more.
        let mut tables = machine.lock();
        let imported = tables.imports.get_mut(&handle).filter(|times| **times > 0);
        match imported {
            Some(times) => *times -= 1,
            None => drop(tables.named.remove(&handle)),
        }
        Ok(())
    }

    fn cuMemGetAllocationPropertiesFromHandle(properties: Out<sys::CUmemAllocationProp>, handle: u64) {
        let machine = machine()?;
        let ordinal = named(machine, handle)?.ordinal.ok_or(BAD_HANDLE)?;
        // SAFETY: all-zero is a valid value: null pointers, integers, and enums that have a 0.
        let mut filled: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
        filled.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        filled.requestedHandleTypes = sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        filled.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        // SAFETY: the ordinal is the second int of a location, in all versions of cuda.h.
        unsafe { (&raw mut filled.location).cast::<i32>().add(1).write(ordinal as i32) };
        name(handle);
        properties.put(filled)
    }

    fn cuMemAddressReserve(ptr: Out<u64>, bytes: usize, _alignment: usize, _hint: u64, flags: u64) {
        let machine = machine()?;
        if flags != 0 {
            return Err(INVALID);
        }
        let of = NAMED.get();
        let Ok(what) = named(machine, of) else { return Err(UNSUPPORTED) };
        if what.bytes != bytes {
            return Err(UNSUPPORTED);
        }
        let start = map(machine, of, &what, &[])?;
        let mut tables = machine.lock();
        let fresh = Reservation { bytes, of, reserved: 0, mapped: 0, times: 0 };
        let reservation = tables.reservations.entry(start).or_insert(fresh);
        (reservation.reserved, reservation.times) = (reservation.reserved + 1, reservation.times + 1);
        ptr.put(start)
    }

    fn cuMemAddressFree(ptr: u64, bytes: usize) {
        let machine = machine()?;
        let (reservation, times) = {
            let mut tables = machine.lock();
            let found = tables.reservations.get_mut(&ptr).ok_or(INVALID)?;
            if found.bytes != bytes || found.mapped >= found.reserved {
                return Err(INVALID);
            }
            found.reserved -= 1;
            found.times -= 1;
            match found.reserved {
                0 => {
                    let gone = tables.reservations.remove(&ptr).ok_or(INVALID)?;
                    let times = gone.times + 1;
                    (gone, times)
                }
                _ => (Reservation { ..*found }, 1),
            }
        };
        unmap(machine, ptr, &reservation, times)
    }

    fn cuMemMap(ptr: u64, bytes: usize, offset: usize, handle: u64, flags: u64) {
        let machine = machine()?;
        let what = named(machine, handle)?;
        if flags != 0 || offset != 0 {
            return Err(UNSUPPORTED);
        }
        let mut tables = machine.lock();
        let reservation = tables.reservations.get_mut(&ptr).ok_or(INVALID)?;
        if reservation.bytes != bytes || reservation.mapped >= reservation.reserved {
            return Err(INVALID);
        }
        // Addresses of another device, or of other memory.
        if reservation.of != handle {
            return Err(UNSUPPORTED);
        }
        reservation.mapped += 1;
        if let Some(ordinal) = what.ordinal {
            tables.memory.insert(ptr, Memory { bytes, ordinal, kind: Kind::Mapped });
        }
        Ok(())
    }

    fn cuMemSetAccess(ptr: u64, bytes: usize, access: In<sys::CUmemAccessDesc>, count: usize) {
        let machine = machine()?;
        let of = {
            let tables = machine.lock();
            let reservation = tables.reservations.get(&ptr).ok_or(INVALID)?;
            if reservation.bytes != bytes || reservation.mapped == 0 || count == 0 {
                return Err(INVALID);
            }
            reservation.of
        };
        let (size, flags) = (size_of::<sys::CUmemAccessDesc>(), std::mem::offset_of!(sys::CUmemAccessDesc, flags));
        let ints = access.cast::<i32>();
        let mut places = Vec::with_capacity(count);
        for index in 0..count {
            if ints.at((index * size + flags) / 4)? as u32 != READ_WRITE {
                return Err(UNSUPPORTED);
            }
            places.push(machine.whole(ordinal_in(machine, &ints, index * size)?));
        }
        let what = named(machine, of)?;
        if what.ordinal.is_none() {
            let joined = |place: &Place| what.team.iter().any(|member| member.device == place.device);
            return if places.iter().all(joined) { Ok(()) } else { Err(INVALID) };
        }
        map(machine, of, &what, &places)?;
        let mut tables = machine.lock();
        tables.reservations.get_mut(&ptr).ok_or(INVALID)?.times += 1;
        Ok(())
    }

    fn cuMemUnmap(ptr: u64, bytes: usize) {
        let machine = machine()?;
        let mut tables = machine.lock();
        let reservation = tables.reservations.get_mut(&ptr).ok_or(INVALID)?;
        if reservation.bytes != bytes || reservation.mapped == 0 {
            return Err(INVALID);
        }
        reservation.mapped -= 1;
        if reservation.mapped == 0 {
            tables.memory.remove(&ptr);
        }
        Ok(())
    }
}
