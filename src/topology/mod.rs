//! The machine as it says it is: GPUs, the links between them, and what the driver claims of each.
//!
//! A [`Topology`] is a plain value. It is read from NVML ([`read()`]), from the driver alone where there is no NVML, from a simulated
//! node, or from a snapshot file; everything that looks at it treats these alike. GPUs are known by UUID and PCI bus id, never
//! by an ordinal, which `CUDA_VISIBLE_DEVICES` changes. What a driver claims is not believed: the
//! [`probe`](crate::probe) tries it. `docs/topology.md`.

mod check;
#[cfg(target_os = "linux")]
mod merge;
mod notes;
#[cfg(all(feature = "nvml", target_os = "linux"))]
mod nvml;
mod read;
mod snapshot;

#[cfg(target_os = "linux")]
pub(crate) use merge::merge;
pub(crate) use read::same_uuid;
pub use read::{read, read_nvml};

use serde::{Deserialize, Serialize};

/// The version of the snapshot format that this crate writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// A machine, as it describes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// [`VERSION`].
    pub version: u32,
    /// Who told.
    pub source: Source,
    /// The driver's version as it names itself (`580.95.05`); empty where nobody says.
    pub driver: String,
    /// The CUDA version that the driver supports, major and minor.
    pub cuda: Option<(u32, u32)>,
    /// The GPUs (or MIG slices) that can be used, in the order of PCI bus ids; slices of one GPU in the order of their UUIDs.
    pub gpus: Vec<Gpu>,
    /// One entry for every ordered pair of different GPUs, by `from`, then `to`.
    pub links: Vec<Link>,
    /// What could not be asked, and why; for a person.
    pub notes: Vec<String>,
}

/// Who described a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// NVML.
    Nvml,
    /// The driver alone: no lanes, no switch, no fabric.
    Driver,
    /// The simulated node.
    Simulated,
}

/// One GPU, or one MIG slice of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// `GPU-...`, or `MIG-...` of a slice. Unlike any other's.
    pub uuid: String,
    /// PCI bus id, lower case, `00000000:18:00.0`. Slices share that of their GPU.
    pub pci: String,
    /// As it names itself: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Major and minor; (0, 0) on the simulated node.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors, where anybody says.
    pub sms: Option<u32>,
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// The NUMA node of the host nearest to it.
    pub numa: Option<u32>,
    /// Whether it is divided.
    pub mig: Mig,
    /// What its fabric manager says.
    pub fabric: Fabric,
    /// Whether it claims to join multicast objects of NVSwitch.
    pub multicast: Status,
    /// Its NVLinks, by number; inactive ones too.
    pub nvlinks: Vec<NvLink>,
}

/// Multi-instance GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mig {
    /// Not divided, or not divisible.
    Off,
    /// Divided: it cannot be used whole, and its slices reach no peer.
    On,
    /// A slice of the GPU with this UUID.
    SliceOf(String),
}

/// State of a GPU's NVLink fabric (machines with NVSwitch).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fabric {
    /// The GPU has none, or is in none.
    NotSupported,
    /// Nobody says.
    Unknown,
    /// Registration has not begun.
    NotStarted,
    /// Registration is under way: NVLink does not work yet.
    InProgress,
    /// It is part of a fabric, or failed to become one.
    Completed {
        /// NVML's status of the registration: 0 is success.
        status: u32,
        /// UUID of the cluster, lower-case hexadecimal; zeros on a single machine.
        cluster: String,
        /// Clique within the cluster: only GPUs of one clique reach each other.
        clique: u32,
    },
}

/// A yes-or-no claim of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It says yes.
    Yes,
    /// It says no, for good.
    No,
    /// Disabled by the driver, a registry key or the chipset: the hardware might.
    Disabled,
    /// Nobody says: to be probed. Never taken for a no.
    Unknown,
}

/// One NVLink of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLink {
    /// Its number on the GPU.
    pub link: u32,
    /// Whether it is up.
    pub active: bool,
    /// NVLink generation: 1 (P100) to 5 (B200).
    pub version: Option<u32>,
    /// What is at the other end.
    pub remote: Remote,
}

/// The other end of an NVLink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// An NVSwitch.
    Switch,
    /// The GPU with this PCI bus id.
    Gpu(String),
    /// Something else: a CPU, an NPU.
    Other,
    /// Nobody says, or the link is down.
    Unknown,
}

/// What one GPU can do with another's memory, by its driver's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Index in [`Topology::gpus`] of the GPU that reads or writes.
    pub from: usize,
    /// Index of the GPU whose memory it is.
    pub to: usize,
    /// NVLinks that join the two, directly or through switches.
    pub nvlink: Option<NvLinkPath>,
    /// Where their PCIe paths meet.
    pub ancestor: Ancestor,
    /// `from` may read `to`'s memory.
    pub read: Status,
    /// `from` may write it.
    pub write: Status,
    /// `from` may do atomics on it.
    pub atomics: Status,
}

impl Link {
    /// One of which nothing is known.
    pub(crate) fn unknown(from: usize, to: usize) -> Link {
        Link {
            from,
            to,
            nvlink: None,
            ancestor: Ancestor::Unknown,
            read: Status::Unknown,
            write: Status::Unknown,
            atomics: Status::Unknown,
        }
    }
}

/// NVLinks between two GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvLinkPath {
    /// Links that carry traffic between the two: behind switches all of the weaker end's.
    pub lanes: u32,
    /// Generation of the slowest.
    pub version: u32,
    /// Payload rate of one direction by the generation's data sheet, in GB/s (10^9 bytes) of all lanes together.
    pub gb_per_s: f64,
    /// Whether NVSwitches are between.
    pub switched: bool,
}

/// Payload rate of one NVLink in one direction by its generation, in GB/s (10^9 bytes): 20 for the first, 25 for the second to
/// the fourth, 50 for the fifth (NVIDIA's data sheets: P100 4 links 160 GB/s, V100 6 links 300, A100 12 links 600,
/// H100 18 links 900, B200 18 links 1800, both directions together). An unknown generation counts as the fifth.
pub const fn nvlink_gb_per_s(version: u32) -> f64 {
    match version {
        0 | 1 => 20.0,
        2..=4 => 25.0,
        _ => 50.0,
    }
}

/// Where the PCIe paths of two GPUs meet, from near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ancestor {
    /// On one board.
    Internal,
    /// One PCIe switch.
    SingleSwitch,
    /// Several switches, without a host bridge.
    MultipleSwitches,
    /// One host bridge.
    HostBridge,
    /// One NUMA node, several host bridges.
    Node,
    /// The link between NUMA nodes.
    System,
    /// Nobody says.
    Unknown,
}

#[cfg(test)]
mod tests;
