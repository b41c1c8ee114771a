//! The probe itself: every ordered pair of the devices that are named, one after the other.
//!
//! What one pair cannot do is that pair's outcome, and the next one is tried. Only when a device no longer answers (on CUDA an
//! error that ends its context, on a simulated node a fault) is the rest left, with that reason.

use std::sync::Arc;

use super::bench::Bench;
use super::pair::{Fault, Measured, Pair};
use super::team::multicast;
use super::{LinkProbe, Outcome, Probe, WayProbe};
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::topology::{Status, Topology};

/// How far a probe is: for a bar, or a line on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Ordered pairs that are done.
    pub done: usize,
    /// All of them.
    pub pairs: usize,
    /// The pair that is tried next, as ordinals of devices; `None`: all are done.
    pub next: Option<(usize, usize)>,
}

/// A device that is probed.
struct Subject {
    device: usize,
    /// Index in the topology.
    gpu: usize,
    bench: Result<Bench, String>,
}

impl Probe {
    /// Tries every ordered pair of `devices` (ordinals of `driver`; one that comes twice counts once). Takes seconds on a
    /// machine of eight GPUs, and less than 100 MiB on each; `progress` hears of every pair. Nothing else should use the
    /// devices meanwhile: it would be measured, too, and what holds one for seconds makes words late that are not lost.
    ///
    /// What fails is in the probe. On CUDA a GPU that faults on a peer's memory ends this process's use of it: probe in a
    /// process of its own where a machine is not trusted that far.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a device that is not there, or not in the topology.
    pub fn run(
        driver: &Arc<dyn Driver>,
        topology: &Topology,
        devices: &[usize],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Probe> {
        Probe::run_whole(driver, topology, devices, progress).map(|(probe, _)| probe)
    }

    /// As [`Probe::run`]; with why it should not be kept, where something may be no fault of a link.
    pub(super) fn run_whole(
        driver: &Arc<dyn Driver>,
        topology: &Topology,
        devices: &[usize],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Probe, Option<&'static str>)> {
        let mut subjects = Vec::new();
        for (device, gpu) in indices(&**driver, topology, devices)? {
            let bench =
                Bench::new(driver, device).map_err(|error| format!("device {device} cannot be probed: {error}"));
            subjects.push(Subject { device, gpu, bench });
        }
        let count = subjects.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        let mut tried = Tries {
            driver,
            topology,
            subjects: &subjects,
            lost: None,
            late: false,
        };
        let mut links = Vec::with_capacity(pairs.len());
        for (done, &(from, to)) in pairs.iter().enumerate() {
            progress(Progress {
                done,
                pairs: pairs.len(),
                next: Some((subjects[from].device, subjects[to].device)),
            });
            links.push(tried.link(from, to));
        }
        progress(Progress {
            done: pairs.len(),
            pairs: pairs.len(),
            next: None,
        });
        let multicast = tried.multicast();
        let unfinished = tried.lost.is_some() || subjects.iter().any(|subject| subject.bench.is_err());
        let passing = if unfinished {
            Some("it could not be finished")
        } else {
            tried
                .late
                .then_some("words were late, which a busy GPU may be the reason of")
        };
        let probe = Probe {
            gpus: subjects.iter().map(|s| topology.gpus[s.gpu].uuid.clone()).collect(),
            links,
            multicast,
            ..Probe::unknown(&**driver, topology)
        };
        Ok((probe, passing))
    }

    /// A probe of no GPU.
    pub(super) fn unknown(driver: &dyn Driver, topology: &Topology) -> Probe {
        Probe {
            crate_version: env!("CARGO_PKG_VERSION").into(),
            driver: match topology.driver.is_empty() {
                true => driver.version(),
                false => topology.driver.clone(),
            },
            gpus: Vec::new(),
            links: Vec::new(),
            multicast: Outcome::Skipped("no GPU".into()),
        }
    }
}

/// Ordinals with their indices in the topology, in its order and each once.
pub(super) fn indices(driver: &dyn Driver, topology: &Topology, devices: &[usize]) -> Result<Vec<(usize, usize)>> {
    // The topology's own matching: where UUIDs cannot be compared it goes by the bus id.
    let gpus = topology.of_driver_order(driver)?;
    let mut found = Vec::with_capacity(devices.len());
    for &device in devices {
        let gpu = gpus.get(device).copied();
        let expected = || format!("below {}", gpus.len());
        found.push((
            device,
            gpu.ok_or_else(|| Error::bad_argument("device", device, expected()))?,
        ));
    }
    found.sort_by_key(|(_, gpu)| *gpu);
    found.dedup();
    Ok(found)
}

struct Tries<'a> {
    driver: &'a Arc<dyn Driver>,
    topology: &'a Topology,
    subjects: &'a [Subject],
    /// Why nothing more can be tried.
    lost: Option<String>,
    /// Whether time was up somewhere, which a busy GPU may be the reason of.
    late: bool,
}

fn all(from: usize, to: usize, outcome: &Outcome) -> LinkProbe {
    LinkProbe {
        from,
        to,
        store: WayProbe::of(outcome.clone()),
        load: WayProbe::of(outcome.clone()),
        copy: WayProbe::of(outcome.clone()),
        atomics: outcome.clone(),
    }
}

impl Tries<'_> {
    fn link(&mut self, from: usize, to: usize) -> LinkProbe {
        if let Some(lost) = &self.lost {
            return all(from, to, &Outcome::Skipped(lost.clone()));
        }
        let (near, far) = (&self.subjects[from], &self.subjects[to]);
        let benches = match (&near.bench, &far.bench) {
            (Ok(near), Ok(far)) => (near, far),
            (Err(reason), _) | (_, Err(reason)) => return all(from, to, &Outcome::Skipped(reason.clone())),
        };
        let claim = match self.claim(near, far) {
            Ok(claim) => claim,
            Err(error) => return all(from, to, &Outcome::Failed(format!("no claim can be had: {error}"))),
        };
        if !claim.access {
            let reason = "neither the driver nor NVML claims access".into();
            return all(from, to, &Outcome::Skipped(reason));
        }
        let there = match benches.1.map_for(benches.0) {
            Ok(mapping) => mapping,
            Err(error) => {
                let outcome = Outcome::Failed(format!("access is claimed, but its memory cannot be mapped: {error}"));
                self.look_for_life();
                return all(from, to, &outcome);
            }
        };
        let pair = Pair {
            driver: self.driver,
            from: benches.0,
            to: benches.1,
            there,
            // Without a way back there is no echo; that pair's own turn says why.
            here: benches.0.map_for(benches.1).ok(),
            seed: (from as u64) << 32 | to as u64,
        };
        LinkProbe {
            from,
            to,
            store: self.way(|| pair.store()),
            load: self.way(|| pair.load()),
            copy: self.way(|| pair.copy()),
            atomics: match claim.atomics {
                false => Outcome::Skipped("the driver claims none".into()),
                true => self.way(|| pair.atomics().map(|()| Measured::default())).outcome,
            },
        }
    }

    /// What is worth a try: what anybody claims.
    fn claim(&self, near: &Subject, far: &Subject) -> Result<crate::driver::PeerClaim> {
        let mut claim = self.driver.peer_claim(near.device, far.device)?;
        if let Some(link) = self.topology.link(near.gpu, far.gpu) {
            claim.access |= link.read == Status::Yes || link.write == Status::Yes;
        }
        Ok(claim)
    }

    fn way(&mut self, attempt: impl FnOnce() -> Result<Measured, Fault>) -> WayProbe {
        if let Some(lost) = &self.lost {
            return WayProbe::of(Outcome::Skipped(lost.clone()));
        }
        match attempt() {
            Ok(measured) => measured.way(),
            Err(Fault::Found(what)) => WayProbe::of(Outcome::Failed(what)),
            Err(Fault::Late(what)) => {
                self.late = true;
                WayProbe::of(Outcome::Failed(what))
            }
            Err(Fault::Call(error)) => {
                self.look_for_life();
                WayProbe::of(Outcome::Failed(error.to_string()))
            }
        }
    }

    /// After a call has failed: whether every device still answers.
    fn look_for_life(&mut self) {
        for subject in self.subjects {
            if let Ok(Err(error)) = subject.bench.as_ref().map(Bench::alive) {
                let device = subject.device;
                self.lost = Some(format!(
                    "device {device} was lost while another way or pair was tried: {error}"
                ));
                return;
            }
        }
    }

    fn multicast(&mut self) -> Outcome {
        if self.subjects.len() < 2 {
            return Outcome::Skipped("it takes two GPUs".into());
        }
        for Subject { device, .. } in self.subjects {
            match self.driver.multicast_claim(*device) {
                Ok(true) => {}
                Ok(false) => return Outcome::Skipped(format!("device {device} claims none")),
                Err(error) => return Outcome::Failed(format!("device {device}: no claim can be had: {error}")),
            }
        }
        let mut benches = Vec::with_capacity(self.subjects.len());
        for subject in self.subjects {
            match &subject.bench {
                Ok(bench) => benches.push(bench),
                Err(reason) => return Outcome::Skipped(reason.clone()),
            }
        }
        self.way(|| multicast(self.driver, &benches).map(|()| Measured::default()))
            .outcome
    }
}
