//! One address for the heaps of ranks in several processes: whether there can be one, and the steps to it.

use std::os::fd::{AsFd, OwnedFd};

use super::super::Numerics;
use super::super::links::Links;
use super::hall::{Given, Hall};
use super::places::Told;
use super::processes::{Joiner, Offer};
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::memory::multicast::SharedHeaps;

impl Joiner<'_> {
    /// The bytes that heaps are multiples of so that a multicast object can hold them, or why there is none.
    pub(super) fn multicast(&self, offers: &[Offer], told: &[Told], links: &Links) -> Result<usize, String> {
        if self.config.numerics == Numerics::Exact {
            return Err("it was not asked of the group (GroupConfig::numerics, Numerics::InSwitch)".to_string());
        }
        links.multicast()?;
        for (b, two) in told.iter().enumerate() {
            if let Some(a) = told[..b].iter().position(|one| one.shares_device(two)) {
                let device = &two.uuid;
                return Err(format!(
                    "ranks {a} and {b} share {device}, and each rank of a multicast team needs a device of its own"
                ));
            }
        }
        let parts = offers.iter().enumerate();
        let parts = parts.map(|(rank, offer)| offer.multicast.clone().map_err(|why| format!("rank {rank}: {why}")));
        parts
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| parts.into_iter().max().unwrap_or(1))
    }

    /// One address for all heaps, in four steps that no rank is ahead in. What fails on one rank is nobody's then.
    pub(super) fn share(&self, hall: &mut Hall, heaps: &[Heap], world: usize) -> Result<Result<SharedHeaps, String>> {
        let (driver, place) = (self.driver, self.at.place);
        let Some(heap) = heaps.get(self.rank) else {
            return Ok(Err("this rank has no heap".to_string()));
        };
        let bytes = heap.bytes();
        let mut given = Given::new();
        let mut shared = match self.rank {
            0 => driver
                .multicast_create(world, bytes)
                .map(|object| SharedHeaps::around(driver, object, bytes))
                .map(Some),
            _ => Ok(None),
        };
        if let Ok(Some(object)) = &shared {
            match object.export() {
                Ok(fd) => given.push((None, fd)),
                Err(error) => shared = Err(error),
            }
        }
        let mut fds = match agree(
            hall,
            "multicast object",
            shared.as_ref().map(drop).map_err(Error::to_string),
            given,
        )? {
            Ok(fds) => fds,
            Err(reason) => return Ok(Err(reason)),
        };
        let joined = shared.and_then(|shared| match (shared, fds.pop()) {
            (Some(shared), _) => Ok(shared),
            (None, Some(fd)) => Ok(SharedHeaps::around(driver, driver.multicast_import(fd.as_fd())?, bytes)),
            (None, None) => Err(Error::bad_argument(
                "the multicast object from rank 0",
                "none",
                "a descriptor",
            )),
        });
        let joined = joined.and_then(|shared| shared.add(place).map(|()| shared));
        let step = |hall: &mut Hall, phase, done: &Result<SharedHeaps>| {
            let said = done.as_ref().map(drop).map_err(Error::to_string);
            agree(hall, phase, said, Given::new())
        };
        if let Err(reason) = step(hall, "multicast devices", &joined)? {
            return Ok(Err(reason));
        }
        let bound = joined.and_then(|mut shared| shared.bind(place, heap).map(|()| shared));
        if let Err(reason) = step(hall, "multicast binding", &bound)? {
            return Ok(Err(reason));
        }
        let mapped = bound.and_then(|mut shared| shared.map(&[place]).map(|()| shared));
        if let Err(reason) = step(hall, "multicast mapping", &mapped)? {
            return Ok(Err(reason));
        }
        mapped.map(Ok)
    }
}

/// Whether all ranks have done a step that need not succeed: what rank 0 gave this rank, else the first reason against it.
pub(super) fn agree(
    hall: &mut Hall,
    phase: &str,
    mine: Result<(), String>,
    given: Given,
) -> Result<Result<Vec<OwnedFd>, String>> {
    let heard = hall.gather(phase, Ok((mine, given)))?;
    let mut first = Vec::new();
    for (rank, (said, fds)) in heard.into_iter().enumerate() {
        if let Err(why) = said {
            return Ok(Err(format!("rank {rank}: {why}")));
        }
        if rank == 0 {
            first = fds;
        }
    }
    Ok(Ok(first))
}
