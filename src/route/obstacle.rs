//! Why ranks cannot work together, by name: what a declined plan says.

use crate::topology::{Fabric, Mig, Topology};

/// What stands in the way of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// One GPU cannot use another's memory.
    Pair {
        /// Index of the GPU that moves.
        from: usize,
        /// Index of the GPU whose memory it is.
        to: usize,
        /// UUIDs of both.
        uuids: (String, String),
        /// What failed, or was claimed.
        reason: String,
    },
    /// A GPU is divided, or a slice: neither reaches a peer.
    Divided {
        /// Its index.
        gpu: usize,
        /// Its UUID.
        uuid: String,
        /// Whether it is a slice.
        slice: bool,
    },
    /// NVLink is not up yet, or did not come up.
    Fabric {
        /// Index of the GPU.
        gpu: usize,
        /// Its UUID.
        uuid: String,
        /// Its state, in words.
        state: String,
    },
    /// Two GPUs are in different cliques of NVLink.
    Cliques {
        /// Index of one.
        from: usize,
        /// Index of the other.
        to: usize,
        /// What each is in.
        cliques: (String, String),
    },
    /// Between hosts there are no links that our kernels use.
    Hosts,
    /// A GPU without kernels for it.
    TooOld {
        /// Its index.
        gpu: usize,
        /// As it names itself.
        name: String,
        /// Its compute capability.
        compute_capability: (u32, u32),
    },
    /// A rank on a GPU that is not there.
    NoGpu {
        /// Its index.
        gpu: usize,
        /// How many there are.
        gpus: usize,
    },
}

impl Obstacle {
    /// Whether NCCL goes around it: through the host's memory, or with kernels of its own.
    pub(super) fn nccl_goes_around(&self) -> bool {
        matches!(self, Obstacle::Pair { .. } | Obstacle::TooOld { .. } | Obstacle::Hosts)
    }
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Pair {
                from,
                to,
                uuids,
                reason,
            } => {
                write!(f, "GPU {from} ({}) to GPU {to} ({}): {reason}", uuids.0, uuids.1)
            }
            Obstacle::Divided { gpu, uuid, slice: true } => {
                write!(f, "GPU {gpu} ({uuid}) is a MIG slice, which reaches no peer")
            }
            Obstacle::Divided { gpu, uuid, .. } => {
                write!(
                    f,
                    "GPU {gpu} ({uuid}) is divided by MIG: it is not used whole, and its slices reach no peer"
                )
            }
            Obstacle::Fabric { gpu, uuid, state } => write!(f, "GPU {gpu} ({uuid}): {state}"),
            Obstacle::Cliques { from, to, cliques } => write!(
                f,
                "GPU {from} to GPU {to}: different cliques of NVLink ({} and {}), which do not reach each other",
                cliques.0, cliques.1
            ),
            Obstacle::Hosts => f.write_str("ranks on several hosts: what they exchange is NCCL's"),
            Obstacle::TooOld {
                gpu,
                name,
                compute_capability: (major, minor),
            } => write!(
                f,
                "GPU {gpu} ({name}) has compute capability {major}.{minor}: the kernels need 8.0 or later"
            ),
            Obstacle::NoGpu { gpu, gpus } => write!(f, "there is no GPU {gpu}: the machine has {gpus}"),
        }
    }
}

/// What the GPUs themselves say against a group on them, links aside.
pub(super) fn of_gpus(topology: &Topology, used: &[usize]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let several = used.len() > 1;
    let mut first: Option<(usize, (&str, u32))> = None;
    for index in used {
        let Some(gpu) = topology.gpus.get(*index) else {
            found.push(Obstacle::NoGpu {
                gpu: *index,
                gpus: topology.gpus.len(),
            });
            continue;
        };
        // The simulated node has 0.0.
        if (1..8).contains(&gpu.compute_capability.0) {
            found.push(Obstacle::TooOld {
                gpu: *index,
                name: gpu.name.clone(),
                compute_capability: gpu.compute_capability,
            });
        }
        let uuid = || gpu.uuid.clone();
        match &gpu.mig {
            // Ranks that share one slice need no peer.
            Mig::Off => {}
            Mig::SliceOf(_) if !several => {}
            mig => found.push(Obstacle::Divided {
                gpu: *index,
                uuid: uuid(),
                slice: matches!(mig, Mig::SliceOf(_)),
            }),
        }
        let mut fabric = |state: String| {
            if several {
                found.push(Obstacle::Fabric {
                    gpu: *index,
                    uuid: uuid(),
                    state,
                })
            }
        };
        if let Some(state) = gpu.fabric.unusable() {
            fabric(format!(
                "its NVLink fabric {state}; groups over several GPUs have to wait for it"
            ));
            continue;
        }
        if let Fabric::Completed { cluster, clique, .. } = &gpu.fabric {
            match first {
                None => first = Some((*index, (cluster, *clique))),
                Some((other, theirs)) if theirs != (cluster, *clique) => found.push(Obstacle::Cliques {
                    from: other,
                    to: *index,
                    cliques: (
                        format!("{} of {}", theirs.1, theirs.0),
                        format!("{clique} of {cluster}"),
                    ),
                }),
                Some(_) => {}
            }
        }
    }
    found
}
