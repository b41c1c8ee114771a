//! The node's own word about itself: devices behind one switch, as on an HGX H100, but for the links that it is made without.

use super::config::{LinkState, SimConfig};
use crate::driver::{Identity, PeerClaim};
use crate::topology::{
    Ancestor, Fabric, Gpu, Link, Mig, NvLink, NvLinkPath, Remote, Source, Status, Topology, VERSION, nvlink_gb_per_s,
};

/// NVLinks of a device, all to the switch, and their generation.
const LANES: u32 = 18;
const GENERATION: u32 = 4;

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
        let gpu = |device: usize| {
            let Identity {
                uuid,
                pci,
                memory_bytes,
            } = identity(device);
            Gpu {
                uuid,
                pci,
                name: format!("simulated device {device}"),
                compute_capability: (0, 0),
                sms: Some(self.sms),
                memory_bytes,
                numa: None,
                mig: Mig::Off,
                fabric: Fabric::NotSupported,
                multicast: if self.multicast { Status::Yes } else { Status::No },
                nvlinks: (0..LANES)
                    .map(|link| NvLink {
                        link,
                        active: true,
                        version: Some(GENERATION),
                        remote: Remote::Switch,
                    })
                    .collect(),
            }
        };
        let link = |from: usize, to: usize| {
            let claim = |yes: bool| if yes { Status::Yes } else { Status::No };
            let PeerClaim { access, atomics } = self.claims(seen[from], seen[to]);
            // A link is one thing: without one direction there is no NVLink between the two.
            let joined = access && self.claims(seen[to], seen[from]).access;
            Link {
                from,
                to,
                nvlink: joined.then(|| NvLinkPath {
                    lanes: LANES,
                    version: GENERATION,
                    gb_per_s: f64::from(LANES) * nvlink_gb_per_s(GENERATION),
                    switched: true,
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
