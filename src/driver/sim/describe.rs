//! The node's own word about itself: devices behind one switch, as on an HGX H100, but for the links that it is made without;
//! or, where it has a clock, the machine that was described.

use super::config::{LinkState, SimConfig};
use crate::driver::{Identity, PeerClaim};
use crate::machines::{Description, Kind};
use crate::topology::{
    Ancestor, Fabric, Gpu, Link, Mig, NvLink, NvLinkPath, Remote, Source, Status, Topology, VERSION, nvlink_gb_per_s,
};

/// What joins the devices.
#[derive(Debug, Clone, Copy)]
struct Joined {
    /// NVLinks of a device, all together, and their generation.
    lanes: u32,
    generation: u32,
    /// Of these, to one peer.
    to_each: u32,
    switched: bool,
}

/// An HGX H100.
const HGX: Joined = Joined {
    lanes: 18,
    generation: 4,
    to_each: 18,
    switched: true,
};

fn joined(node: Option<&Description>) -> Joined {
    let Some(node) = node else { return HGX };
    let generation = match node.compute.sms.value {
        0..=108 => 3,
        109..=142 => 4,
        _ => 5,
    };
    let lanes = match node.link.kind {
        Kind::NvSwitch | Kind::NvLink => (node.link.gb_per_s.value / nvlink_gb_per_s(generation)).round() as u32,
        Kind::Pcie | Kind::Shared => 0,
    };
    let switched = node.link.kind == Kind::NvSwitch;
    Joined {
        lanes,
        generation,
        to_each: if switched {
            lanes
        } else {
            lanes / (node.gpus - 1).max(1)
        },
        switched,
    }
}

/// Device memory that the node claims: host memory is the limit.
const MEMORY_BYTES: u64 = 80 << 30;

pub(super) fn identity(device: usize) -> Identity {
    Identity {
        uuid: format!("GPU-51b00000-0000-0000-0000-{device:012x}"),
        pci: format!("00000000:{:02x}:00.0", 0x10 + device),
        memory_bytes: MEMORY_BYTES,
    }
}

impl SimConfig {
    /// Whether `from` is told that it reaches `to`: truthfully or not.
    pub(super) fn claims(&self, from: usize, to: usize) -> PeerClaim {
        let absent = self
            .links
            .iter()
            .any(|link| (link.from, link.to) == (from, to) && link.state == LinkState::Absent);
        PeerClaim {
            access: !absent,
            atomics: !absent,
        }
    }

    /// The devices that are seen, by the machine's numbers.
    pub(super) fn seen(&self) -> Vec<usize> {
        self.visible.clone().unwrap_or_else(|| (0..self.gpus).collect())
    }

    pub(super) fn describe(&self) -> Topology {
        let seen = self.seen();
        let node = self.clock.as_deref();
        let joined = joined(node);
        let peer = |device: usize, link: u32| match joined.switched {
            true => Remote::Switch,
            // As many to each of the others.
            false => {
                let other = (link / joined.to_each.max(1)) as usize;
                Remote::Gpu(identity(other + usize::from(other >= device)).pci)
            }
        };
        let gpu = |device: usize| {
            let Identity {
                uuid,
                pci,
                memory_bytes,
            } = identity(device);
            Gpu {
                uuid,
                pci,
                name: format!("simulated {} {device}", node.map_or("device", |node| &node.gpu)),
                compute_capability: (0, 0),
                sms: Some(self.sms),
                memory_bytes,
                numa: None,
                mig: Mig::Off,
                fabric: Fabric::NotSupported,
                multicast: if self.multicast { Status::Yes } else { Status::No },
                nvlinks: (0..joined.lanes)
                    .map(|link| NvLink {
                        link,
                        active: true,
                        version: Some(joined.generation),
                        remote: peer(device, link),
                    })
                    .collect(),
            }
        };
        let link = |from: usize, to: usize| {
            let claim = |yes: bool| if yes { Status::Yes } else { Status::No };
            let PeerClaim { access, atomics } = self.claims(seen[from], seen[to]);
            // A link is one thing: without one direction there is no NVLink between the two.
            let both = access && self.claims(seen[to], seen[from]).access;
            Link {
                from,
                to,
                nvlink: (both && joined.lanes != 0).then(|| NvLinkPath {
                    lanes: joined.to_each,
                    version: joined.generation,
                    gb_per_s: f64::from(joined.to_each) * nvlink_gb_per_s(joined.generation),
                    switched: joined.switched,
                }),
                ancestor: Ancestor::Unknown,
                read: claim(access),
                write: claim(access),
                atomics: claim(atomics),
            }
        };
        let all = 0..seen.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        Topology {
            version: VERSION,
            source: Source::Simulated,
            driver: "simulated".into(),
            cuda: None,
            gpus: seen.iter().map(|device| gpu(*device)).collect(),
            links: pairs
                .filter(|(from, to)| from != to)
                .map(|(from, to)| link(from, to))
                .collect(),
            notes: Vec::new(),
        }
    }
}
