//! A snapshot file as this library needs it, and the devices that it means: NVML lists GPUs, of a divided one the GPU itself and
//! its slices below it, while a snapshot lists what can be used.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct Snapshot {
    pub driver: String,
    pub cuda: Option<(u32, u32)>,
    pub gpus: Vec<Gpu>,
    pub links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Gpu {
    pub uuid: String,
    pub pci: String,
    pub name: String,
    pub compute_capability: (i32, i32),
    pub sms: Option<u32>,
    pub memory_bytes: u64,
    pub numa: Option<u32>,
    pub mig: Mig,
    pub fabric: Fabric,
    pub nvlinks: Vec<NvLink>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mig {
    Off,
    On,
    SliceOf(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fabric {
    NotSupported,
    Unknown,
    NotStarted,
    InProgress,
    Completed { status: u32, cluster: String, clique: u32 },
}

#[derive(Debug, Deserialize)]
pub(crate) struct NvLink {
    pub link: u32,
    pub active: bool,
    pub remote: Remote,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Remote {
    Switch,
    Gpu(String),
    Other,
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    pub from: usize,
    pub to: usize,
    pub nvlink: Option<Path>,
    pub ancestor: String,
    pub read: String,
    pub write: String,
    pub atomics: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Path {
    pub lanes: u32,
    pub gb_per_s: f64,
}

/// A device of NVML.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Device {
    /// One that is there whole, by its index in the snapshot.
    Whole(usize),
    /// One that is divided and so not in the snapshot: its UUID and its slices there.
    Divided(String, Vec<usize>),
    /// A slice.
    Slice(usize),
}

impl Device {
    /// The snapshot's GPU that has what this one shares with its slices: bus id, architecture, NUMA node.
    pub(crate) fn gpu(&self) -> usize {
        match self {
            Device::Whole(gpu) | Device::Slice(gpu) => *gpu,
            Device::Divided(_, slices) => slices[0],
        }
    }
}

impl Snapshot {
    /// The GPUs in NVML's order, which is that of the bus ids and so the snapshot's, and then all slices.
    pub(crate) fn devices(&self) -> (usize, Vec<Device>) {
        let mut devices: Vec<Device> = Vec::new();
        let mut slices = Vec::new();
        for (index, gpu) in self.gpus.iter().enumerate() {
            let Mig::SliceOf(parent) = &gpu.mig else {
                devices.push(Device::Whole(index));
                continue;
            };
            slices.push(Device::Slice(index));
            match devices.last_mut() {
                Some(Device::Divided(uuid, of)) if uuid == parent => of.push(index),
                _ => devices.push(Device::Divided(parent.clone(), vec![index])),
            }
        }
        let whole = devices.len();
        devices.extend(slices);
        (whole, devices)
    }

    pub(crate) fn link(&self, from: usize, to: usize) -> Option<&Link> {
        self.links.iter().find(|link| (link.from, link.to) == (from, to))
    }
}
