//! What a group knows of the links between its devices: the machine's description, and a probe of it.

use std::sync::Arc;

use super::Probing;
use crate::driver::{Driver, Kind, Place};
use crate::error::Result;
use crate::probe::{Cached, LinkProbe, Outcome, Probe, Progress, cache_folder};
use crate::route::Machine;
#[cfg(target_os = "linux")]
use crate::topology::Status;
use crate::topology::{self, Topology};

#[derive(Debug)]
pub(super) struct Links {
    topology: Topology,
    probe: Option<Probe>,
    notes: Vec<String>,
}

/// A new probe, kept for later but where it is of a simulated node: two of them have the same names.
pub(super) fn probe(
    driver: &Arc<dyn Driver>,
    topology: &Topology,
    devices: &[usize],
    progress: &mut dyn FnMut(Progress),
) -> Result<Cached> {
    match driver.kind() {
        Kind::Sim => Ok(Cached {
            probe: Probe::run(driver, topology, devices, progress)?,
            from: None,
            note: None,
        }),
        Kind::Cuda => Probe::renewed(cache_folder().as_deref(), driver, topology, devices, progress),
    }
}

impl Links {
    /// Before anything is mapped. Ranks on one device have no link between them.
    pub fn of(driver: &Arc<dyn Driver>, places: &[Place], probing: Probing) -> Result<Links> {
        let mut devices: Vec<usize> = places.iter().map(|place| place.device).collect();
        devices.sort_unstable();
        devices.dedup();
        let mut links = Links {
            topology: topology::read(&**driver)?,
            probe: None,
            notes: Vec::new(),
        };
        let found = match (probing, driver.kind()) {
            _ if devices.len() < 2 => return Ok(links),
            (Probing::Never, _) | (Probing::IfNeeded, Kind::Sim) => return Ok(links),
            (Probing::IfNeeded, Kind::Cuda) => {
                let folder = cache_folder();
                Probe::cached(folder.as_deref(), driver, &links.topology, &devices, &mut |_| {})?
            }
            (Probing::Always, _) => probe(driver, &links.topology, &devices, &mut |_| {})?,
        };
        links.probe = Some(found.probe);
        links.notes.extend(found.note);
        Ok(links)
    }

    /// As another rank found them.
    #[cfg(target_os = "linux")]
    pub fn told(topology: Topology, probe: Option<Probe>, notes: Vec<String>) -> Links {
        Links { topology, probe, notes }
    }

    /// [`Links::machine`], of ranks on the GPUs of the topology with these indices.
    #[cfg(target_os = "linux")]
    pub fn machine_on(&self, gpus: &[usize]) -> Machine {
        Machine::of(&self.topology, self.probe.as_ref(), gpus)
    }

    /// Whether the first GPU was found to reach the second in some way; without a probe, whether anybody says so; `None`: nobody knows.
    #[cfg(target_os = "linux")]
    pub fn reaches(&self, from: usize, to: usize) -> Option<bool> {
        let Some(probe) = &self.probe else {
            let link = self.topology.link(from, to)?;
            return match (link.read, link.write) {
                (Status::Yes, _) | (_, Status::Yes) => Some(true),
                (Status::Unknown, _) | (_, Status::Unknown) => None,
                _ => Some(false),
            };
        };
        let gpu = |index: usize| probe.gpu(&self.topology.gpus.get(index)?.uuid);
        let link = gpu(from).zip(gpu(to)).and_then(|(from, to)| probe.link(from, to));
        Some(link.is_some_and(LinkProbe::any_works))
    }

    /// Whether the first GPU could map the second's memory, where nobody knew before.
    #[cfg(target_os = "linux")]
    pub fn found(&mut self, from: usize, to: usize, reached: bool) {
        let mut links = self.topology.links.iter_mut();
        if let Some(link) = links.find(|link| (link.from, link.to) == (from, to)) {
            let found = if reached { Status::Yes } else { Status::No };
            for status in [&mut link.read, &mut link.write, &mut link.atomics] {
                if *status == Status::Unknown {
                    *status = found;
                }
            }
        }
    }

    /// What routes are decided by: a function of topology, probe and places alone.
    pub fn machine(&self, driver: &dyn Driver, places: &[Place]) -> Result<Machine> {
        let gpus = self.topology.of_driver_order(driver)?;
        // A device that the driver does not have was refused before; so it would be here.
        let gpu = |place: &Place| gpus.get(place.device).copied().unwrap_or(self.topology.gpus.len());
        let ranks: Vec<usize> = places.iter().map(gpu).collect();
        Ok(Machine::of(&self.topology, self.probe.as_ref(), &ranks))
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub fn probe(&self) -> Option<&Probe> {
        self.probe.as_ref()
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds to what a person may want to know.
    pub fn say(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Whether sums in the switch are not ruled out by what was found: an object can be made on a switch that adds wrongly.
    pub fn multicast(&self) -> Result<(), String> {
        match self.probe.as_ref().map(|probe| &probe.multicast) {
            Some(Outcome::Failed(reason)) => Err(format!("the probe of multicast failed: {reason}")),
            _ => Ok(()),
        }
    }

    /// The places that the memory of `owner` is mapped for: those that were found to reach it in some way; without a
    /// probe those that are told that they do.
    pub fn accessors(&self, driver: &dyn Driver, places: &[Place], owner: Place) -> Result<Vec<Place>> {
        let found = self
            .probe
            .as_ref()
            .map(|probe| Ok((probe, self.topology.of_driver_order(driver)?)));
        let found: Option<(&Probe, Vec<usize>)> = found.transpose()?;
        let reaches = |from: usize, to: usize| -> Result<bool> {
            let Some((probe, gpus)) = &found else {
                return Ok(driver.peer_claim(from, to)?.access);
            };
            let gpu = |device: usize| probe.gpu(&self.topology.gpus.get(*gpus.get(device)?)?.uuid);
            let link = gpu(from).zip(gpu(to)).and_then(|(from, to)| probe.link(from, to));
            Ok(link.is_some_and(LinkProbe::any_works))
        };
        let mut accessors = Vec::with_capacity(places.len());
        for place in places {
            if place.device == owner.device || reaches(place.device, owner.device)? {
                accessors.push(*place);
            }
        }
        Ok(accessors)
    }
}
