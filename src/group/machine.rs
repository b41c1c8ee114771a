//! A group's machine, for routes: the driver's own description or what it claims of the group's devices.

use crate::driver::{Driver, Kind, Place};
use crate::error::Result;
use crate::route::{Alternative, Machine};
use crate::topology::{Ancestor, Fabric, Gpu, Link, Mig, Source, Status, Topology, VERSION};

/// The machine under ranks at `places`.
pub(super) fn of(driver: &dyn Driver, places: &[Place]) -> Result<Machine> {
    let mut devices: Vec<Place> = Vec::new();
    for place in places {
        if devices.iter().all(|known| known.device != place.device) {
            devices.push(*place);
        }
    }
    let uuids = devices
        .iter()
        .map(|place| Ok(driver.identity(place.device)?.uuid))
        .collect::<Result<Vec<_>>>()?;
    let topology = topology(driver, &devices)?;
    // By UUID: ordinals are the process's own. A device that is not described is beyond the last.
    let index = |place: &Place| {
        let device = devices.iter().position(|known| known.device == place.device);
        let uuid = device.and_then(|device| uuids.get(device));
        let gpu = topology.gpus.iter().position(|gpu| Some(&gpu.uuid) == uuid);
        gpu.unwrap_or(topology.gpus.len())
    };
    Ok(Machine::of(
        &topology,
        None,
        &places.iter().map(index).collect::<Vec<_>>(),
    ))
}

/// The driver's own description, or what it claims of `devices`.
pub(super) fn topology(driver: &dyn Driver, devices: &[Place]) -> Result<Topology> {
    driver.describe()?.map_or_else(|| claimed(driver, devices), Ok)
}

/// Who could stand in: nobody on the simulated node, nor for ranks that share a GPU, which NCCL refuses by default.
pub(super) fn alternative(driver: &dyn Driver, machine: &Machine, asked: Alternative) -> Alternative {
    if driver.kind() == Kind::Sim || machine.gpus < machine.world {
        return Alternative::Nobody;
    }
    asked
}

/// The devices by their driver's word alone: no lanes, no switch, no fabric.
fn claimed(driver: &dyn Driver, devices: &[Place]) -> Result<Topology> {
    let claim = |yes: bool| if yes { Status::Yes } else { Status::No };
    let mut gpus = Vec::with_capacity(devices.len());
    let mut links = Vec::new();
    for (from, place) in devices.iter().enumerate() {
        let (identity, info) = (driver.identity(place.device)?, driver.place_info(*place)?);
        gpus.push(Gpu {
            uuid: identity.uuid,
            pci: identity.pci,
            name: info.name,
            compute_capability: info.compute_capability,
            sms: Some(info.sms * place.shares as u32),
            memory_bytes: identity.memory_bytes,
            numa: None,
            mig: Mig::Off,
            fabric: Fabric::Unknown,
            multicast: claim(driver.multicast_claim(place.device)?),
            nvlinks: Vec::new(),
        });
        for (to, other) in devices.iter().enumerate().filter(|(to, _)| *to != from) {
            let claims = driver.peer_claim(place.device, other.device)?;
            links.push(Link {
                from,
                to,
                nvlink: None,
                ancestor: Ancestor::Unknown,
                read: claim(claims.access),
                write: claim(claims.access),
                atomics: claim(claims.atomics),
            });
        }
    }
    Ok(Topology {
        version: VERSION,
        source: Source::Driver,
        driver: driver.version(),
        cuda: None,
        gpus,
        links,
        notes: Vec::new(),
    })
}
