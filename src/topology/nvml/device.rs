//! One GPU, or one MIG slice, by NVML's word.

use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON;
use nvml_wrapper::{Device, Nvml};

use super::raw::End;
use super::{Asked, ask};
use crate::error::{Error, Result};
use crate::topology::notes::Notes;
use crate::topology::{Fabric, Gpu, Mig, NvLink, Remote, Status, nvlink_gb_per_s};

/// More NVLinks than any GPU has; NVML says where the last is.
const MOST_NVLINKS: u32 = 64;

/// NUMA nodes that an answer has room for, in words of 64.
const NUMA_WORDS: usize = 16;

/// Something a process can run on.
pub(super) struct Unit<'nvml> {
    pub gpu: Gpu,
    /// The GPU, of a slice the one it is a slice of.
    pub whole: Asked<'nvml>,
    /// Payload rate of one NVLink in one direction, GB/s.
    pub gb_per_s: f64,
}

/// All of them, in NVML's order. Of a divided GPU its slices, and itself where it has none yet.
pub(super) fn units<'nvml>(nvml: &'nvml Nvml, notes: &mut Notes) -> Result<Vec<Unit<'nvml>>> {
    let count = nvml.device_count().map_err(|e| Error::Unavailable {
        what: "NVML".into(),
        reason: format!("nvmlDeviceGetCount_v2: {}", super::why(&e)),
    })?;
    let mut units = Vec::new();
    for index in 0..count {
        // One that has fallen off the bus, or belongs to others.
        let name = format!("GPU {index}");
        let found = ask(
            notes,
            &name,
            "nvmlDeviceGetHandleByIndex_v2",
            nvml.device_by_index(index),
        );
        let Some(asked) = found.map(|device| Asked { nvml, device }) else {
            continue;
        };
        let Some(unit) = asked.whole(&name, notes) else {
            continue;
        };
        let slices = if unit.gpu.mig == Mig::On {
            slices(&unit, notes)
        } else {
            Vec::new()
        };
        if slices.is_empty() {
            units.push(unit);
        }
        units.extend(slices);
    }
    Ok(units)
}

impl<'nvml> Asked<'nvml> {
    fn whole(self, name: &str, notes: &mut Notes) -> Option<Unit<'nvml>> {
        let uuid = ask(notes, name, "nvmlDeviceGetUUID", self.device.uuid())?;
        let pci = ask(notes, name, "nvmlDeviceGetPciInfo_v3", self.device.pci_info())?;
        let pci = bus_id(pci.domain, pci.bus, pci.device);
        let capability = self.device.cuda_compute_capability();
        let capability = ask(notes, &pci, "nvmlDeviceGetCudaComputeCapability", capability)
            .map_or((0, 0), |cc| (cc.major.max(0) as u32, cc.minor.max(0) as u32));
        let gpu = Gpu {
            uuid,
            name: ask(notes, &pci, "nvmlDeviceGetName", self.device.name()).unwrap_or_default(),
            compute_capability: capability,
            // NVML counts cores, and only of slices SMs: the driver says.
            sms: None,
            memory_bytes: self.memory(&pci, notes),
            numa: self.numa(&pci, notes),
            mig: self.mig(&pci, notes),
            fabric: self.fabric_of(&pci, notes),
            // NVML does not tell: the driver says.
            multicast: Status::Unknown,
            nvlinks: self.nvlinks(&pci, generation(capability.0), notes),
            pci,
        };
        let gb_per_s = self.nvlink_rate(generation(capability.0).unwrap_or(u32::MAX));
        Some(Unit {
            gpu,
            whole: self,
            gb_per_s,
        })
    }

    fn memory(&self, pci: &str, notes: &mut Notes) -> u64 {
        let told = match self.device.memory_info() {
            Err(NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound) => self.memory_v1(),
            told => told.map(|memory| memory.total),
        };
        ask(notes, pci, "nvmlDeviceGetMemoryInfo", told).unwrap_or(0)
    }

    /// The node nearest to it. `nvmlDeviceGetNumaNodeId` tells another: the node that the GPU's own memory is on machines
    /// where the host addresses it.
    fn numa(&self, pci: &str, notes: &mut Notes) -> Option<u32> {
        let told = self
            .device
            .memory_affinity(NUMA_WORDS, nvml_wrapper_sys::bindings::NVML_AFFINITY_SCOPE_NODE);
        let set = ask(notes, pci, "nvmlDeviceGetMemoryAffinity", told)?;
        let word = set.iter().position(|word| *word != 0)?;
        Some(word as u32 * std::ffi::c_ulong::BITS + set[word].trailing_zeros())
    }

    fn mig(&self, pci: &str, notes: &mut Notes) -> Mig {
        let mode = match self.device.mig_mode() {
            // Not divisible, or a library from before there was anything to divide.
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => return Mig::Off,
            told => ask(notes, pci, "nvmlDeviceGetMigMode", told),
        };
        match mode {
            Some(mode) if mode.current == nvml_wrapper_sys::bindings::NVML_DEVICE_MIG_ENABLE => Mig::On,
            _ => Mig::Off,
        }
    }

    fn fabric_of(&self, pci: &str, notes: &mut Notes) -> Fabric {
        let told = match self.fabric() {
            Err(NvmlError::NotSupported) => return Fabric::NotSupported,
            told => ask(notes, pci, "nvmlDeviceGetGpuFabricInfo", told),
        };
        let Some((fabric, ailments)) = told else {
            return Fabric::Unknown;
        };
        for ailment in ailments {
            notes.say_of(format!("the fabric says that {ailment}"), pci);
        }
        fabric
    }

    fn nvlinks(&self, pci: &str, generation: Option<u32>, notes: &mut Notes) -> Vec<NvLink> {
        let mut links = Vec::new();
        for link in 0..MOST_NVLINKS {
            let active = match self.device.link_wrapper_for(link).is_active() {
                Err(NvmlError::InvalidArg) => break,
                // Not this link, or none at all.
                Err(NvmlError::NotSupported) => continue,
                told => match ask(notes, pci, "nvmlDeviceGetNvLinkState", told) {
                    Some(active) => active,
                    None => break,
                },
            };
            links.push(NvLink {
                link,
                active,
                version: generation,
                remote: if active {
                    self.remote(link, pci, notes)
                } else {
                    Remote::Unknown
                },
            });
        }
        links
    }

    fn remote(&self, link: u32, pci: &str, notes: &mut Notes) -> Remote {
        let kind = ask(
            notes,
            pci,
            "nvmlDeviceGetNvLinkRemoteDeviceType",
            self.remote_kind(link),
        );
        match kind {
            Some(End::Switch) => return Remote::Switch,
            Some(End::Other) => return Remote::Other,
            Some(End::Gpu | End::Unknown) | None => {}
        }
        let told = self.device.link_wrapper_for(link).remote_pci_info();
        let Some(end) = ask(notes, pci, "nvmlDeviceGetNvLinkRemotePciInfo_v2", told) else {
            return Remote::Unknown;
        };
        // Where a hypervisor hides it, NVML fills in ones.
        if end.domain == u32::MAX || end.bus > 0xff || end.device > 0x1f {
            return Remote::Unknown;
        }
        let end = bus_id(end.domain, end.bus, end.device);
        match kind {
            _ if end == pci => Remote::Unknown,
            Some(End::Gpu) => Remote::Gpu(end),
            // Nobody says what it is; a GPU is known by its bus id, anything else stays unknown.
            _ => self
                .nvml
                .device_by_pci_bus_id(end.as_str())
                .map_or(Remote::Unknown, |_| Remote::Gpu(end)),
        }
    }

    /// By the data sheet of the generation, or what NVML says where that is less: bridged GeForce cards run their links slower.
    fn nvlink_rate(&self, generation: u32) -> f64 {
        let sheet = nvlink_gb_per_s(generation);
        let told = self
            .device
            .field_values_for(&[FieldId(NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON)]);
        let told = told
            .ok()
            .and_then(|samples| samples.into_iter().next()?.ok()?.value.ok());
        match told {
            Some(SampleValue::U32(mb_per_s)) if mb_per_s > 0 => sheet.min(f64::from(mb_per_s) / 1e3),
            _ => sheet,
        }
    }
}

/// The slices of a divided GPU.
fn slices<'nvml>(whole: &Unit<'nvml>, notes: &mut Notes) -> Vec<Unit<'nvml>> {
    let (asked, pci) = (&whole.whole, &whole.gpu.pci);
    let most = ask(
        notes,
        pci,
        "nvmlDeviceGetMaxMigDeviceCount",
        asked.device.mig_device_count(),
    )
    .unwrap_or(0);
    (0..most)
        .filter_map(|index| slice(whole, asked.device.mig_device_by_index(index), notes))
        .collect()
}

fn slice<'nvml>(
    whole: &Unit<'nvml>,
    found: Result<Device<'nvml>, NvmlError>,
    notes: &mut Notes,
) -> Option<Unit<'nvml>> {
    let pci = whole.gpu.pci.clone();
    let device = match found {
        // Room for a slice, and none there.
        Err(NvmlError::NotFound) => return None,
        told => ask(notes, &pci, "nvmlDeviceGetMigDeviceHandleByIndex", told)?,
    };
    let nvml = whole.whole.nvml;
    let slice = Asked { nvml, device };
    let attributes = ask(notes, &pci, "nvmlDeviceGetAttributes_v2", slice.device.attributes());
    let gpu = Gpu {
        uuid: ask(notes, &pci, "nvmlDeviceGetUUID", slice.device.uuid())?,
        name: ask(notes, &pci, "nvmlDeviceGetName", slice.device.name()).unwrap_or_default(),
        compute_capability: whole.gpu.compute_capability,
        sms: attributes.map(|attributes| attributes.multiprocessor_count),
        memory_bytes: slice.memory(&pci, notes),
        numa: whole.gpu.numa,
        mig: Mig::SliceOf(whole.gpu.uuid.clone()),
        fabric: Fabric::NotSupported,
        multicast: Status::Unknown,
        nvlinks: Vec::new(),
        pci,
    };
    // SAFETY: the handle is of `nvml`, and stays valid while `nvml` is started.
    let parent = unsafe { Device::new(whole.whole.device.handle(), nvml) };
    Some(Unit {
        gpu,
        whole: Asked { nvml, device: parent },
        gb_per_s: whole.gb_per_s,
    })
}

/// As we write it. NVML leaves the function out: GPUs are function 0.
fn bus_id(domain: u32, bus: u32, device: u32) -> String {
    format!("{domain:08x}:{bus:02x}:{device:02x}.0")
}

/// NVLink's generation by the architecture. What `nvmlDeviceGetNvLinkVersion` answers is no generation, and not the same
/// numbering on all drivers: H100 is known to answer 7, which the header calls 5.0.
fn generation(major: u32) -> Option<u32> {
    match major {
        6 => Some(1),
        7 => Some(2),
        8 => Some(3),
        9 => Some(4),
        10 => Some(5),
        _ => None,
    }
}
