//! Multicast objects.

use cudarc::driver::sys;
use tileweave::driver::{Driver, Multicast, Physical, Place};

use crate::answer::{Answer, BAD_HANDLE, Code, INVALID, In, Out, UNSUPPORTED, code_of};
use crate::machine::{Machine, machine};
use crate::virtual_memory::{Named, name, named};

/// A multicast object's description.
fn object(machine: &Machine, handle: u64) -> Answer<Named> {
    named(machine, handle).and_then(|what| match what.ordinal {
        None => Ok(what),
        Some(_) => Err(BAD_HANDLE),
    })
}

fn properties(raw: &In<sys::CUmulticastObjectProp>) -> Answer<sys::CUmulticastObjectProp> {
    let properties = raw.get()?;
    if properties.flags != 0 || properties.handleTypes & !1 != 0 {
        return Err(UNSUPPORTED);
    }
    Ok(properties)
}

calls! {
    fn cuMulticastGetGranularity(bytes: Out<usize>, raw: In<sys::CUmulticastObjectProp>, which: u32) {
        let machine = machine()?;
        let properties = properties(&raw)?;
        if which > 1 || properties.numDevices == 0 {
            return Err(INVALID);
        }
        bytes.put(machine.sim.multicast_granularity(&[machine.whole(0)]).map_err(code_of)?)
    }

    fn cuMulticastCreate(handle: Out<u64>, raw: In<sys::CUmulticastObjectProp>) {
        let machine = machine()?;
        let properties = properties(&raw)?;
        let (devices, bytes) = (properties.numDevices as usize, properties.size);
        let made = machine.sim.multicast_create(devices, bytes).map_err(code_of)?;
        machine.lock().named.insert(made.0, Named { bytes, ordinal: None, team: Vec::new() });
        name(made.0);
        handle.put(made.0)
    }

    fn cuMulticastAddDevice(handle: u64, device: sys::CUdevice) {
        let machine = machine()?;
        object(machine, handle)?;
        let place = machine.whole(machine.ordinal(device)?);
        machine.sim.multicast_add_device(Multicast(handle), place).map_err(code_of)?;
        if let Some(what) = machine.lock().named.get_mut(&handle) {
            what.team.push(place);
        }
        name(handle);
        Ok(())
    }

    fn cuMulticastBindMem(handle: u64, offset: usize, memory: u64, within: usize, bytes: usize, flags: u64) {
        let machine = machine()?;
        object(machine, handle)?;
        let ordinal = named(machine, memory)?.ordinal.ok_or(BAD_HANDLE)?;
        if flags != 0 || within != 0 || ordinal >= machine.devices {
            return Err(UNSUPPORTED);
        }
        let place: Place = machine.whole(ordinal);
        let bound = machine.sim.multicast_bind(Multicast(handle), place, Physical(memory), offset, bytes);
        bound.map_err(|error| match code_of(error) {
            // Not all devices have joined.
            INVALID if !complete(machine, handle) => Code::CUDA_ERROR_SYSTEM_NOT_READY,
            code => code,
        })?;
        name(handle);
        Ok(())
    }

    fn cuMulticastUnbind(handle: u64, device: sys::CUdevice, offset: usize, bytes: usize) {
        let machine = machine()?;
        object(machine, handle)?;
        let place = machine.whole(machine.ordinal(device)?);
        machine.sim.multicast_unbind(Multicast(handle), place, offset, bytes).map_err(code_of)
    }
}

/// Whether a device could be asked for its memory by now: all have joined.
fn complete(machine: &Machine, handle: u64) -> bool {
    // One more than all is refused.
    let joined = object(machine, handle).map_or(0, |what| what.team.len());
    joined == machine.devices
}
