//! The machine that a driver runs on, from whoever can describe it.
//!
//! A simulated node describes itself. On GPUs NVML tells what lies between them and the driver which of them are ours:
//! `CUDA_VISIBLE_DEVICES` hides and reorders devices, so the two lists are matched by UUID, and by PCI bus id where one of them
//! writes UUIDs in another way; never by ordinal. A slice's UUID begins with `MIG-` in NVML and is the same behind that. The driver adds
//! what NVML does not know (SMs, multicast) and has the last word on peer access, since it grants it. Without NVML it speaks alone.

use super::notes::Notes;
use super::{Fabric, Gpu, Link, Mig, Source, Status, Topology, VERSION};
use crate::driver::{Driver, Identity, PeerClaim, Place};
use crate::error::{Error, Result};

/// The machine under a driver: of its GPUs exactly those that the driver sees.
///
/// That NVML is missing, too old or silent is a note, not an error.
///
/// # Errors
/// The driver's own, and those of a description of itself that [contradicts itself](Topology::check).
pub fn read(driver: &dyn Driver) -> Result<Topology> {
    if let Some(topology) = driver.describe()? {
        topology.check()?;
        return Ok(topology);
    }
    let devices = (0..driver.device_count())
        .map(|device| Seen::of(driver, device))
        .collect::<Result<Vec<_>>>()?;
    let mut chosen = Vec::new();
    let told = nvml(&mut |gpus: &[Gpu]| {
        chosen = matched(&devices, gpus);
        let kept = (0..gpus.len())
            .map(|gpu| chosen.contains(&Some(gpu)))
            .collect::<Vec<_>>();
        // From now on among those that are kept.
        for gpu in chosen.iter_mut().flatten() {
            *gpu = kept[..*gpu].iter().filter(|kept| **kept).count();
        }
        kept
    });
    let told = match told {
        Ok(topology) => topology,
        Err(e) => {
            chosen = vec![None; devices.len()];
            let text = format!("{e}; NVLinks, switches and fabrics are unknown, and to be probed");
            silent(driver, vec![text])
        }
    };
    merge(driver, &devices, &chosen, told)
}

/// The machine as NVML alone tells of it: every GPU and MIG slice of it. Needs no CUDA.
///
/// # Errors
/// [`Error::Unavailable`] where there is no NVML that works (or no feature `nvml`).
pub fn read_nvml() -> Result<Topology> {
    nvml(&mut |gpus: &[Gpu]| vec![true; gpus.len()])
}

#[cfg(all(feature = "nvml", target_os = "linux"))]
fn nvml(keep: &mut dyn FnMut(&[Gpu]) -> Vec<bool>) -> Result<Topology> {
    let topology = super::nvml::read(keep)?;
    // What is built on a topology takes it to agree with itself.
    topology.check().map_err(|e| Error::Unavailable {
        what: "NVML".into(),
        reason: format!("it contradicts itself: {e}"),
    })?;
    Ok(topology)
}

#[cfg(not(all(feature = "nvml", target_os = "linux")))]
fn nvml(_keep: &mut dyn FnMut(&[Gpu]) -> Vec<bool>) -> Result<Topology> {
    Err(Error::Unavailable {
        what: "NVML".into(),
        reason: "this library was built without it (feature `nvml`, on Linux)".into(),
    })
}

/// A machine of which nobody tells but the driver.
fn silent(driver: &dyn Driver, notes: Vec<String>) -> Topology {
    Topology {
        version: VERSION,
        source: Source::Driver,
        driver: driver.version(),
        cuda: None,
        gpus: Vec::new(),
        links: Vec::new(),
        notes,
    }
}

impl Topology {
    /// For each device of a driver, by its ordinal, the index in [`Topology::gpus`].
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a device that this topology does not have, as that of another machine; the driver's.
    pub fn of_driver_order(&self, driver: &dyn Driver) -> Result<Vec<usize>> {
        let devices: Vec<Identity> = (0..driver.device_count())
            .map(|device| driver.identity(device))
            .collect::<Result<_>>()?;
        let found = find(&devices, &self.gpus);
        let index = |(device, found): (usize, Option<usize>)| {
            found.ok_or_else(|| {
                let Identity { uuid, pci, .. } = &devices[device];
                let value = format!("{uuid} at {pci}");
                Error::bad_argument(format!("device {device}"), value, "a GPU of the topology")
            })
        };
        found.into_iter().enumerate().map(index).collect()
    }
}

#[cfg(target_os = "linux")]
impl Topology {
    /// The index in [`Topology::gpus`] of a device.
    pub(crate) fn gpu_of(&self, device: &Identity) -> Option<usize> {
        find(std::slice::from_ref(device), &self.gpus)[0]
    }
}

/// A device, as the driver has it.
struct Seen {
    identity: Identity,
    name: String,
    compute_capability: (u32, u32),
    sms: u32,
    multicast: bool,
}

impl Seen {
    fn of(driver: &dyn Driver, device: usize) -> Result<Seen> {
        let info = driver.place_info(Place {
            device,
            share: 0,
            shares: 1,
        })?;
        Ok(Seen {
            identity: driver.identity(device)?,
            name: info.name,
            compute_capability: info.compute_capability,
            sms: info.sms,
            multicast: driver.multicast_claim(device)?,
        })
    }

    /// Adds what NVML does not know, and what it did not say.
    fn complete(&self, gpu: &mut Gpu) {
        gpu.sms = Some(self.sms);
        gpu.multicast = if self.multicast { Status::Yes } else { Status::No };
        if gpu.name.is_empty() {
            gpu.name.clone_from(&self.name);
        }
        if gpu.compute_capability == (0, 0) {
            gpu.compute_capability = self.compute_capability;
        }
        if gpu.memory_bytes == 0 {
            gpu.memory_bytes = self.identity.memory_bytes;
        }
    }

    /// What is known of it without NVML.
    fn gpu(&self) -> Gpu {
        Gpu {
            uuid: self.identity.uuid.clone(),
            pci: self.identity.pci.clone(),
            name: self.name.clone(),
            compute_capability: self.compute_capability,
            sms: None,
            memory_bytes: self.identity.memory_bytes,
            numa: None,
            mig: Mig::Off,
            fabric: Fabric::Unknown,
            multicast: Status::Unknown,
            nvlinks: Vec::new(),
        }
    }
}

fn matched(devices: &[Seen], gpus: &[Gpu]) -> Vec<Option<usize>> {
    let identities: Vec<Identity> = devices.iter().map(|seen| seen.identity.clone()).collect();
    find(&identities, gpus)
}

/// Which of `gpus` each device is. No two devices are one.
fn find(devices: &[Identity], gpus: &[Gpu]) -> Vec<Option<usize>> {
    let by_uuid = |device: &Identity| gpus.iter().position(|gpu| same_uuid(&gpu.uuid, &device.uuid));
    let mut found: Vec<Option<usize>> = devices.iter().map(by_uuid).collect();
    for device in 0..devices.len() {
        let pci = &devices[device].pci;
        if found[device].is_some() || devices.iter().filter(|other| other.pci == *pci).count() > 1 {
            continue;
        }
        // A bus id tells a GPU apart, but not the slices of one; and a divided GPU is no device.
        let mut there = (0..gpus.len()).filter(|gpu| gpus[*gpu].pci == *pci);
        let (first, second) = (there.next(), there.next());
        if let (Some(gpu), None) = (first, second)
            && gpus[gpu].mig != Mig::On
            && !found.contains(&Some(gpu))
            && !(matches!(gpus[gpu].mig, Mig::SliceOf(_)) && plain(&gpus[gpu].uuid).is_some())
        {
            found[device] = Some(gpu);
        }
    }
    found
}

/// Whether two UUIDs are of one GPU or slice: NVML writes `GPU-` or `MIG-`, CUDA gives the bytes alone and we write `GPU-`
/// before them.
pub(crate) fn same_uuid(a: &str, b: &str) -> bool {
    a == b || matches!((plain(a), plain(b)), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

/// What follows the prefix, where it is a UUID: `MIG-GPU-.../1/0` of drivers before 470 is none.
fn plain(uuid: &str) -> Option<&str> {
    let rest = uuid.strip_prefix("GPU-").or_else(|| uuid.strip_prefix("MIG-"))?;
    (rest.len() == 36 && rest.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())).then_some(rest)
}

/// NVML's word and the driver's in one. `chosen` gives for each device its index in `told`.
fn merge(driver: &dyn Driver, devices: &[Seen], chosen: &[Option<usize>], mut told: Topology) -> Result<Topology> {
    let mut notes = Notes::default();
    for note in std::mem::take(&mut told.notes) {
        notes.say(note);
    }
    // (GPU, its index in `told`, its ordinal), in the order that they get.
    let mut gpus: Vec<(Gpu, Option<usize>, usize)> = Vec::new();
    for (ordinal, (seen, chosen)) in devices.iter().zip(chosen).enumerate() {
        let mut gpu = match chosen {
            Some(index) => told.gpus[*index].clone(),
            None => {
                if told.source == Source::Nvml {
                    notes.say_of(
                        "NVML does not list a device of the driver, which speaks alone for it",
                        &seen.identity.pci,
                    );
                }
                seen.gpu()
            }
        };
        seen.complete(&mut gpu);
        gpus.push((gpu, *chosen, ordinal));
    }
    gpus.sort_by(|(a, ..), (b, ..)| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
    for shared in gpus
        .chunk_by_mut(|(a, ..), (b, ..)| a.pci == b.pci)
        .filter(|shared| shared.len() > 1)
    {
        divide(shared.iter_mut().map(|(gpu, ..)| gpu).collect());
    }

    let mut links = Vec::new();
    for from in 0..gpus.len() {
        for to in (0..gpus.len()).filter(|to| *to != from) {
            let ((a, a_told, a_ordinal), (b, b_told, b_ordinal)) = (&gpus[from], &gpus[to]);
            let known = a_told.zip(*b_told).and_then(|(a, b)| told.link(a, b)).cloned();
            let mut link = known.unwrap_or(Link::unknown(from, to));
            (link.from, link.to) = (from, to);
            if a.mig != Mig::Off || b.mig != Mig::Off {
                link.nvlink = None;
            }
            let claim = driver.peer_claim(*a_ordinal, *b_ordinal)?;
            if overrule(&mut link, claim) {
                notes.say_of(
                    format!(
                        "NVML and the driver differ on peer access to {}: the driver, which grants it, is taken at its word",
                        b.pci
                    ),
                    &a.pci,
                );
            }
            links.push(link);
        }
    }
    if told.driver.is_empty() {
        told.driver = driver.version();
    }
    told.gpus = gpus.into_iter().map(|(gpu, ..)| gpu).collect();
    told.links = links;
    told.notes = notes.finish();
    Ok(told)
}

/// Devices at one bus id are slices of one GPU, whose UUID the driver does not tell.
fn divide(slices: Vec<&mut Gpu>) {
    let known = slices
        .iter()
        .find(|gpu| matches!(gpu.mig, Mig::SliceOf(_)))
        .map(|gpu| gpu.mig.clone());
    for gpu in slices {
        if !matches!(gpu.mig, Mig::SliceOf(_)) {
            gpu.mig = known
                .clone()
                .unwrap_or_else(|| Mig::SliceOf(format!("the GPU at {}", gpu.pci)));
            gpu.nvlinks.clear();
        }
    }
}

/// Puts the driver's word over NVML's; whether it contradicts it. The driver's no leaves NVML's reason for it.
fn overrule(link: &mut Link, claim: PeerClaim) -> bool {
    let mut differ = false;
    let claims = [
        (&mut link.read, claim.access),
        (&mut link.write, claim.access),
        (&mut link.atomics, claim.atomics),
    ];
    for (status, yes) in claims {
        differ |= matches!(
            (&status, yes),
            (Status::Yes, false) | (Status::No | Status::Disabled, true)
        );
        *status = match (*status, yes) {
            (_, true) => Status::Yes,
            (Status::Yes | Status::Unknown, false) => Status::No,
            (no, false) => no,
        };
    }
    differ
}
