//! The machine as a route sees it: what the worst link between a group's ranks is, what it moves, and what stands in
//! the way.
//!
//! A [`Machine`] is a pure function of topology, probe and the ranks' GPUs, so that every rank that knows these has the
//! same one. An operation ends when its slowest pair does, hence the worst counts everywhere. Of a rank's peers, each
//! direct NVLink carries its own traffic, while all that go through a switch, over PCIe or within a GPU share one port:
//!
//! ```text
//! time to send one byte to every peer = max(slowest direct link, sum over the others)
//! ```

use super::constants::{Class, LATENCIES, NCCL_HOST_PART, NCCL_PCIE_PART, SIMULATED};
use super::obstacle::{Obstacle, of_gpus};
use super::pair::{Move, Pair, Tried};
use super::slow::slow;
use crate::probe::{Outcome, Probe};
use crate::topology::{Gpu, Status, Topology};

/// What joins two ranks, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// They share a GPU.
    SameGpu,
    /// NVLinks from one to the other.
    NvLink,
    /// NVLinks to switches.
    NvSwitch,
    /// PCIe.
    Pcie,
    /// Something that nobody describes; reckoned as PCIe.
    Unknown,
    /// Nothing that can be used.
    Nothing,
}

impl std::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LinkKind::SameGpu => "in one GPU",
            LinkKind::NvLink => "over direct NVLink",
            LinkKind::NvSwitch => "behind NVSwitch",
            LinkKind::Pcie => "over PCIe",
            LinkKind::Unknown => "over links of an unknown kind",
            LinkKind::Nothing => "that do not all reach each other",
        })
    }
}

/// What one direction of moving does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// What a rank moves to, or from, all its peers together while all ranks do, GB/s.
    pub gb_per_s: f64,
    /// Of a word to the farthest, one way.
    pub latency_us: f64,
    /// Whether the probe measured it everywhere.
    pub measured: bool,
}

/// A group's machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Ranks.
    pub world: usize,
    /// Different GPUs among them.
    pub gpus: usize,
    /// The slowest GPU's class.
    pub class: Class,
    /// SMs of a rank: less than the GPU's where ranks share it.
    pub sms: u32,
    /// The worst link.
    pub link: LinkKind,
    /// SM stores.
    pub push: Way,
    /// SM loads; `None` where they do not work.
    pub pull: Option<Way>,
    /// Payload rate of NVLink by the data sheet, of the GPU that has least, where NVLinks join all of them. What NCCL
    /// uses.
    pub nvlink_gb_per_s: Option<f64>,
    /// What NCCL's rings do without NVLink, GB/s.
    pub nccl_host_gb_per_s: f64,
    /// Whether all GPUs can join one multicast object: claimed, and not found otherwise.
    pub multicast: bool,
    /// The link that the probe found far slower than its like, in words.
    pub slow: Option<String>,
    /// Whether some link is believed without having been tried.
    pub untried: bool,
    /// Why these ranks cannot work together. In order of GPUs.
    pub obstacles: Vec<Obstacle>,
}

impl Machine {
    /// The machine of ranks on the GPUs of `topology` with these indices; equal ones share a GPU. Indices beyond are
    /// obstacles, too.
    pub fn of(topology: &Topology, probe: Option<&Probe>, ranks: &[usize]) -> Machine {
        let mut used: Vec<usize> = ranks.to_vec();
        used.sort_unstable();
        used.dedup();
        let shares = |gpu: usize| ranks.iter().filter(|rank| **rank == gpu).count().max(1);
        let gpus: Vec<(usize, &Gpu)> = used.iter().filter_map(|i| Some((*i, topology.gpus.get(*i)?))).collect();
        let slowest = |a: &Class, b: &Class| a.tensor_tflops.total_cmp(&b.tensor_tflops);
        let class = gpus
            .iter()
            .map(|(_, gpu)| Class::of(gpu))
            .min_by(slowest)
            .unwrap_or(SIMULATED);
        let most = used.iter().map(|gpu| shares(*gpu)).max().unwrap_or(1);
        // A slice of a GPU has fewer than its class. A simulated device's few stand for all of its class.
        let told = |gpu: &Gpu| gpu.sms.filter(|_| gpu.compute_capability.0 > 0);
        let sms = gpus.iter().map(|(_, gpu)| told(gpu).unwrap_or(class.sms)).min();
        let sms = sms.unwrap_or(class.sms);

        let mut obstacles = of_gpus(topology, &used);
        let mut pairs = Vec::new();
        for from in &used {
            for to in used.iter().filter(|to| *to != from) {
                let pair = Pair::of(topology, probe, &class, *from, *to);
                if let Tried::No(reason) = &pair.tried {
                    let uuid = |i: usize| topology.gpus.get(i).map_or(String::new(), |gpu| gpu.uuid.clone());
                    obstacles.push(Obstacle::Pair {
                        from: *from,
                        to: *to,
                        uuids: (uuid(*from), uuid(*to)),
                        reason: reason.clone(),
                    });
                }
                pairs.push(pair);
            }
        }
        let local = |gpu: usize| {
            // Every rank on it reads and writes the same memory.
            let rate = class.hbm_gb_per_s / 2.0 / shares(gpu) as f64;
            (shares(gpu) > 1).then(|| Pair::local(gpu, rate))
        };
        pairs.extend(used.iter().filter_map(|gpu| local(*gpu)));
        let weight = |pair: &Pair| {
            if pair.from == pair.to {
                shares(pair.to) - 1
            } else {
                shares(pair.to)
            }
        };
        let way = |of: fn(&Pair) -> Option<Move>| Way::worst(&pairs, ranks.len(), weight, of, &class);

        let pulls = pairs.iter().all(|pair| pair.pull.is_some());
        let reached = !pairs.iter().any(|pair| matches!(pair.tried, Tried::No(_)));
        let claims_multicast = gpus.len() > 1 && gpus.iter().all(|(_, gpu)| gpu.multicast == Status::Yes);
        let kind = |pair: &Pair| {
            if matches!(pair.tried, Tried::No(_)) {
                LinkKind::Nothing
            } else {
                pair.kind
            }
        };
        Machine {
            world: ranks.len(),
            gpus: used.len(),
            class,
            sms: (sms / most as u32).max(1),
            link: pairs.iter().map(kind).max().unwrap_or(LinkKind::SameGpu),
            push: way(|pair| Some(pair.push)),
            pull: pulls.then(|| way(|pair| pair.pull)),
            nvlink_gb_per_s: nvlink(topology, &used),
            nccl_host_gb_per_s: class.pcie_gb_per_s * if reached { NCCL_PCIE_PART } else { NCCL_HOST_PART },
            multicast: claims_multicast
                && most == 1
                && probe.is_none_or(|probe| !matches!(probe.multicast, Outcome::Failed(_))),
            slow: slow(&pairs),
            untried: pairs.iter().any(|pair| pair.tried == Tried::Untried),
            obstacles,
        }
    }

    /// `world` ranks on several hosts, on `gpus` different GPUs of `class`.
    pub fn across_hosts(class: Class, world: usize, gpus: usize) -> Machine {
        Machine {
            gpus,
            link: LinkKind::Nothing,
            pull: None,
            nccl_host_gb_per_s: class.pcie_gb_per_s * NCCL_HOST_PART,
            obstacles: vec![Obstacle::Hosts],
            ..Machine::assumed(class, world, false)
        }
    }

    /// `world` ranks of which nothing is known but that they reach each other, on GPUs of `class` or on one that they
    /// share.
    pub fn assumed(class: Class, world: usize, shared: bool) -> Machine {
        let rate = if shared {
            class.hbm_gb_per_s / 2.0 / world as f64
        } else {
            class.pcie_gb_per_s
        };
        let way = Way {
            gb_per_s: rate,
            latency_us: if shared { LATENCIES.local_us } else { LATENCIES.pcie_us },
            measured: false,
        };
        Machine {
            world,
            gpus: if shared { 1 } else { world },
            class,
            sms: (class.sms / if shared { world.max(1) as u32 } else { 1 }).max(1),
            link: if shared || world < 2 {
                LinkKind::SameGpu
            } else {
                LinkKind::Unknown
            },
            push: way,
            pull: Some(way),
            nvlink_gb_per_s: None,
            nccl_host_gb_per_s: class.pcie_gb_per_s * NCCL_PCIE_PART,
            multicast: false,
            slow: None,
            untried: !shared && world > 1,
            obstacles: Vec::new(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.gpus < self.world {
            write!(f, "{} ranks on {} x {}", self.world, self.gpus, self.class.name)?;
        } else {
            write!(f, "{} x {}", self.world, self.class.name)?;
        }
        if self.world > 1 {
            let how = if self.push.measured {
                "probed"
            } else {
                "by the data sheet"
            };
            write!(f, " {}, push {:.0} GB/s {how}", self.link, self.push.gb_per_s)?;
        }
        match &self.slow {
            Some(slow) => write!(f, "; {slow}"),
            None => Ok(()),
        }
    }
}

/// The data sheet's NVLink rate of the GPU that has least; `None` where NVLinks do not join all of them, so that every
/// ring crosses PCIe.
fn nvlink(topology: &Topology, used: &[usize]) -> Option<f64> {
    let path = |from: usize, to: usize| topology.link(from, to).and_then(|link| link.nvlink);
    let mut joined = vec![*used.first()?];
    let mut next = 0;
    while let Some(from) = joined.get(next).copied() {
        let more: Vec<usize> = used
            .iter()
            .copied()
            .filter(|to| !joined.contains(to) && path(from, *to).is_some())
            .collect();
        joined.extend(more);
        next += 1;
    }
    if used.len() < 2 || joined.len() < used.len() {
        return None;
    }
    let of = |from: usize| {
        // Behind switches every peer is reached by the same links.
        let paths = used.iter().filter_map(|to| path(from, *to));
        let (direct, switched) = paths.fold((0.0f64, 0.0f64), |(direct, switched), path| match path.switched {
            true => (direct, switched.max(path.gb_per_s)),
            false => (direct + path.gb_per_s, switched),
        });
        direct + switched
    };
    used.iter().map(|gpu| of(*gpu)).reduce(f64::min)
}

impl Way {
    /// The slowest rank's. `weight`: how many ranks are at the other end of a pair.
    fn worst(
        pairs: &[Pair],
        world: usize,
        weight: impl Fn(&Pair) -> usize,
        of: impl Fn(&Pair) -> Option<Move>,
        class: &Class,
    ) -> Way {
        let moves = || pairs.iter().filter_map(|pair| Some((pair, of(pair)?)));
        let mut slowest = 0.0f64;
        for from in pairs.iter().map(|pair| pair.from) {
            let (mut direct, mut shared) = (0.0f64, 0.0f64);
            for (pair, way) in moves().filter(|(pair, _)| pair.from == from) {
                let time = weight(pair) as f64 / way.gb_per_s;
                match pair.kind {
                    LinkKind::NvLink => direct = direct.max(time),
                    _ => shared += time,
                }
            }
            slowest = slowest.max(direct).max(shared);
        }
        Way {
            gb_per_s: if slowest > 0.0 {
                (world - 1) as f64 / slowest
            } else {
                class.hbm_gb_per_s / 2.0
            },
            latency_us: moves().map(|(_, way)| way.latency_us).fold(0.0, f64::max),
            measured: pairs.iter().any(|pair| pair.from != pair.to)
                && moves()
                    .filter(|(pair, _)| pair.from != pair.to)
                    .all(|(_, way)| way.measured),
        }
    }
}
