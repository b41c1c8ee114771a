//! What was found, kept: one file for each set of GPUs, driver and version of this crate.
//!
//! The folder is `$TILEWEAVE_CACHE`, else `$XDG_CACHE_HOME/tileweave`, else `~/.cache/tileweave` (on Windows
//! `%LOCALAPPDATA%\tileweave`). A file is written beside its place and renamed, so that whoever reads sees all of one or
//! none. What cannot be read, or is of anything else than it should be, counts as not there; a folder that cannot be written is
//! told in a note, and the probe is made anew the next time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Probe;
use super::run::{Progress, indices};
use crate::driver::Driver;
use crate::error::Result;
use crate::topology::Topology;

/// A probe, perhaps one that was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// What was found, now or then.
    pub probe: Probe,
    /// The file it came from; `None`: it was made now.
    pub from: Option<PathBuf>,
    /// Why it could not be kept, or that pairs are excluded by what was found then; for a person.
    pub note: Option<String>,
}

/// Where probes are kept, unless there is no such place.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // The XDG specification ignores relative paths; the crate's own variable is the user's word.
    let absolute = |path: &PathBuf| path.is_absolute();
    set("TILEWEAVE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME").filter(absolute)?.join("tileweave")))
        .or_else(|| match cfg!(windows) {
            true => Some(set("LOCALAPPDATA").filter(absolute)?.join("tileweave")),
            false => Some(set("HOME").filter(absolute)?.join(".cache/tileweave")),
        })
}

impl Probe {
    /// The probe of these devices that is kept in `folder` (usually [`cache_folder`]), else a new one, which is kept.
    ///
    /// A probe during which a device was lost, could not be prepared, or had words come late, is not kept: it says little of
    /// the machine.
    ///
    /// # Errors
    /// As [`Probe::run`]. Nothing that becomes of files is an error.
    pub fn cached(
        folder: Option<&Path>,
        driver: &Arc<dyn Driver>,
        topology: &Topology,
        devices: &[usize],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Cached> {
        let mut wanted = Probe::unknown(&**driver, topology);
        let gpus = indices(&**driver, topology, devices)?;
        wanted.gpus = gpus.iter().map(|(_, gpu)| topology.gpus[*gpu].uuid.clone()).collect();
        let place = folder.map(|folder| folder.join(wanted.file_name()));
        if let Some(kept) = place.and_then(|place| kept_at(place, &wanted, topology)) {
            return Ok(kept);
        }
        Probe::renewed(folder, driver, topology, devices, progress)
    }

    /// The probe of all of a topology's GPUs that is kept in `folder`, whether this process sees them or not.
    #[cfg(target_os = "linux")]
    pub(crate) fn kept(folder: &Path, driver: &dyn Driver, topology: &Topology) -> Option<Cached> {
        let mut wanted = Probe::unknown(driver, topology);
        wanted.gpus = topology.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        kept_at(folder.join(wanted.file_name()), &wanted, topology)
    }

    /// A new probe of these devices, which takes the place of what `folder` held.
    ///
    /// # Errors
    /// As [`Probe::cached`].
    pub fn renewed(
        folder: Option<&Path>,
        driver: &Arc<dyn Driver>,
        topology: &Topology,
        devices: &[usize],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Cached> {
        let (probe, passing) = Probe::run_whole(driver, topology, devices, progress)?;
        let note = match (folder, passing) {
            (None, _) => Some("the probe is not kept: neither TILEWEAVE_CACHE nor HOME is set".to_string()),
            (Some(_), Some(why)) => Some(format!("the probe is not kept: {why}")),
            (Some(folder), None) => probe.keep(folder).err(),
        };
        Ok(Cached {
            probe,
            from: None,
            note,
        })
    }

    /// `probe-<digest>.json`, of what makes a probe that of a machine.
    fn file_name(&self) -> String {
        // FNV-1a. Two machines of one name only take each other's place: what is read is compared.
        let mut digest = 0xcbf2_9ce4_8422_2325u64;
        for part in [&self.crate_version, &self.driver].into_iter().chain(&self.gpus) {
            for byte in part.bytes().chain([0]) {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        format!("probe-{digest:016x}.json")
    }

    /// Writes it into `folder`; an error says why not.
    fn keep(&self, folder: &Path) -> Result<(), String> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let failed = |path: &Path, error| format!("the probe is not kept: {}: {error}", path.display());
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
        let place = folder.join(self.file_name());
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let part = folder.join(format!("{}.{}-{number}", self.file_name(), std::process::id()));
        let written = std::fs::File::create(&part)
            .and_then(|mut file| file.write_all(self.to_json().as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&part, &place));
        written.map_err(|error| {
            let _ = std::fs::remove_file(&part);
            failed(&place, error)
        })
    }
}

/// The probe in a file, with what a person should know of it.
fn kept_at(path: PathBuf, wanted: &Probe, topology: &Topology) -> Option<Cached> {
    let probe = load(&path, wanted, topology)?;
    let excluded = probe.excluded().len();
    // A link may have been repaired since.
    let note = (excluded > 0).then(|| {
        format!(
            "{excluded} of {} ordered pairs are excluded by the probe kept in {}; `tileweave topo --probe` tries again",
            probe.links.len(),
            path.display()
        )
    });
    let from = Some(path);
    Some(Cached { probe, from, note })
}

/// The probe in a file, where it is one, and of these GPUs, this driver and this version.
fn load(path: &Path, wanted: &Probe, topology: &Topology) -> Option<Probe> {
    let probe = Probe::from_json(&std::fs::read_to_string(path).ok()?).ok()?;
    let same =
        (&probe.crate_version, &probe.driver, &probe.gpus) == (&wanted.crate_version, &wanted.driver, &wanted.gpus);
    (same && probe.check(topology).is_ok()).then_some(probe)
}
