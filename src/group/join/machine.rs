//! The machine that all ranks decide their routes by: one rank's word, so that equal inputs give equal routes.
//!
//! Rank 0 reads and probes it for all. Where it does not see every rank's device (`CUDA_VISIBLE_DEVICES` often leaves each
//! process its own alone) nobody could try the links: each rank then tells what it sees, NVML what lies between, and a probe counts that
//! was kept of exactly these GPUs.

use serde::{Deserialize, Serialize};

use super::super::Probing;
use super::super::links::Links;
use super::hall::{Given, Hall};
use super::places::Told;
use crate::driver::{Driver, Kind, Place};
use crate::error::Result;
use crate::probe::{Probe, cache_folder};
use crate::topology::{self, Topology};
use std::sync::Arc;

/// What rank 0 tells.
#[derive(Debug, Serialize, Deserialize)]
struct Word {
    topology: Topology,
    probe: Option<Probe>,
    notes: Vec<String>,
}

impl Word {
    fn of(links: &Links) -> Word {
        Word {
            topology: links.topology().clone(),
            probe: links.probe().cloned(),
            notes: links.notes().to_vec(),
        }
    }
}

/// The links between the ranks' devices, the same on every rank.
pub(super) fn agree(
    driver: &Arc<dyn Driver>,
    hall: &mut Hall,
    rank: usize,
    told: &[Told],
    probing: Probing,
) -> Result<Links> {
    let mine = match rank {
        0 => seen_by_one(driver, told, probing),
        _ => Ok(None),
    };
    let heard = hall.gather("machine", mine.map(|word| (word, Given::new())))?;
    if let Some(links) = first(heard) {
        return Ok(links);
    }
    let own = topology::read(&**driver).map(|topology| (Some(topology), Given::new()));
    let parts: Vec<Option<Topology>> = hall.gather("GPUs", own)?.into_iter().map(|(part, _)| part).collect();
    let mine = match rank {
        0 => Ok(Some(merged(&**driver, told, parts, probing))),
        _ => Ok(None),
    };
    let heard = hall.gather("machine of all", mine.map(|word| (word, Given::new())))?;
    let silent = || crate::Error::Aborted {
        why: "rank 0 does not tell what the machine is".to_string(),
    };
    first(heard).ok_or_else(silent)
}

fn first(heard: Vec<(Option<Word>, Vec<std::os::fd::OwnedFd>)>) -> Option<Links> {
    let (word, _) = heard.into_iter().next()?;
    word.map(|word| Links::told(word.topology, word.probe, word.notes))
}

/// The machine as one process sees it, where it sees all of it.
fn seen_by_one(driver: &Arc<dyn Driver>, told: &[Told], probing: Probing) -> Result<Option<Word>> {
    let mut places: Vec<Place> = Vec::with_capacity(told.len());
    for rank in told {
        match rank.here(&**driver)? {
            Some(place) => places.push(place),
            None => return Ok(None),
        }
    }
    Links::of(driver, &places, probing).map(|links| Some(Word::of(&links)))
}

fn merged(driver: &dyn Driver, told: &[Told], parts: Vec<Option<Topology>>, probing: Probing) -> Word {
    let parts = told.iter().zip(parts);
    let parts: Vec<_> = parts
        .filter_map(|(told, part)| Some((told.identity(), part?)))
        .collect();
    let nvml = topology::read_nvml();
    let topology = topology::merge(&parts, nvml.as_ref().ok());
    let mut notes = vec!["no process sees the devices of all ranks".to_string()];
    let kept = match (probing, driver.kind()) {
        (Probing::Never, _) | (_, Kind::Sim) => None,
        _ => cache_folder().and_then(|folder| Probe::kept(&folder, driver, &topology)),
    };
    match &kept {
        Some(kept) => notes.extend(kept.note.clone()),
        None if probing == Probing::Never => {}
        None => notes.push(
            "their links are not tried: `tileweave topo --probe` with all devices visible keeps what it finds"
                .to_string(),
        ),
    }
    Word {
        topology,
        probe: kept.map(|kept| kept.probe),
        notes,
    }
}
