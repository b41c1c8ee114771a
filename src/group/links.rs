//! What a group knows of the links between its devices: the machine's description, and a probe of it.

use std::sync::Arc;

use super::Probing;
use crate::driver::{Driver, Kind, Place};
use crate::error::{Error, Result};
use crate::probe::{Cached, LinkProbe, Probe, Progress, cache_folder};
use crate::topology::Topology;

#[derive(Debug)]
pub(super) struct Links {
    /// Where anybody describes the machine.
    topology: Option<Topology>,
    probe: Option<Probe>,
    notes: Vec<String>,
}

pub(super) fn topology(driver: &dyn Driver) -> Result<Topology> {
    driver.describe()?.ok_or_else(|| Error::Unavailable {
        what: "the machine's description".into(),
        reason: "its driver gives none".into(),
    })
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
            topology: driver.describe()?,
            probe: None,
            notes: Vec::new(),
        };
        let found = match (probing, driver.kind(), &links.topology) {
            _ if devices.len() < 2 => return Ok(links),
            (Probing::Never, ..) | (Probing::IfNeeded, Kind::Sim, _) => return Ok(links),
            (_, _, None) => {
                links
                    .notes
                    .push("the links were not tried: nobody describes the machine".into());
                return Ok(links);
            }
            (Probing::IfNeeded, Kind::Cuda, Some(topology)) => {
                let folder = cache_folder();
                Probe::cached(folder.as_deref(), driver, topology, &devices, &mut |_| {})?
            }
            (Probing::Always, _, Some(topology)) => probe(driver, topology, &devices, &mut |_| {})?,
        };
        links.probe = Some(found.probe);
        links.notes.extend(found.note);
        Ok(links)
    }

    /// The machine's own description.
    pub fn topology(&self) -> Option<&Topology> {
        self.topology.as_ref()
    }

    pub fn probe(&self) -> Option<&Probe> {
        self.probe.as_ref()
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The places that the memory of `owner` is mapped for: those that were found to reach it in some way; without a probe
    /// those that are told that they do.
    pub fn accessors(&self, driver: &dyn Driver, places: &[Place], owner: Place) -> Result<Vec<Place>> {
        let mut accessors = Vec::with_capacity(places.len());
        for place in places {
            if place.device == owner.device || self.reaches(driver, place.device, owner.device)? {
                accessors.push(*place);
            }
        }
        Ok(accessors)
    }

    fn reaches(&self, driver: &dyn Driver, from: usize, to: usize) -> Result<bool> {
        let Some(probe) = &self.probe else {
            return Ok(driver.peer_claim(from, to)?.access);
        };
        let gpu = |device| Ok::<_, Error>(probe.gpu(&driver.identity(device)?.uuid));
        let link = gpu(from)?.zip(gpu(to)?).and_then(|(from, to)| probe.link(from, to));
        Ok(link.is_some_and(LinkProbe::any_works))
    }
}
