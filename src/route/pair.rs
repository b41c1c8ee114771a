//! One ordered pair of GPUs: whether it can be used, and what moves over it. What a probe found goes before what a
//! driver claims, and its rates before those of data sheets.

use super::constants::{Class, LATENCIES};
use super::machine::LinkKind;
use crate::probe::{LinkProbe, Probe, WayProbe};
use crate::topology::{Ancestor, Status, Topology};

/// What a driver claims, or a probe found, of one ordered pair of GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tried {
    /// The probe used it.
    Works,
    /// Claimed, or nobody says; not tried.
    Untried,
    /// It cannot be used; why.
    No(String),
}

/// What a way does between two GPUs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub gb_per_s: f64,
    pub latency_us: f64,
    /// Whether the rate is a probe's.
    pub measured: bool,
    /// The rate by the data sheet.
    pub sheet_gb_per_s: f64,
    /// The probe's latency.
    pub timed_us: Option<f64>,
}

/// An ordered pair of GPUs, or of ranks on one.
#[derive(Debug)]
pub(super) struct Pair {
    pub from: usize,
    pub to: usize,
    pub kind: LinkKind,
    pub tried: Tried,
    pub push: Move,
    pub pull: Option<Move>,
}

impl Pair {
    pub fn local(gpu: usize, gb_per_s: f64) -> Pair {
        let local = Move {
            gb_per_s,
            latency_us: LATENCIES.local_us,
            measured: false,
            sheet_gb_per_s: gb_per_s,
            timed_us: None,
        };
        Pair {
            from: gpu,
            to: gpu,
            kind: LinkKind::SameGpu,
            tried: Tried::Works,
            push: local,
            pull: Some(local),
        }
    }

    pub fn of(topology: &Topology, probe: Option<&Probe>, class: &Class, from: usize, to: usize) -> Pair {
        let link = topology.link(from, to);
        let entry = probe.and_then(|probe| probed(topology, probe, from, to));
        let nvlink = link.and_then(|link| link.nvlink);
        let (kind, sheet) = match (nvlink, link) {
            // No slower than PCIe, which every GPU has, too: so a link that goes makes nothing faster.
            (Some(path), _) => {
                let rate = (path.gb_per_s * class.nvlink_part).max(class.pcie_gb_per_s);
                (
                    if path.switched {
                        LinkKind::NvSwitch
                    } else {
                        LinkKind::NvLink
                    },
                    rate,
                )
            }
            (None, Some(link)) if link.ancestor != Ancestor::Unknown => (LinkKind::Pcie, class.pcie_gb_per_s),
            _ => (LinkKind::Unknown, class.pcie_gb_per_s),
        };
        let latency_us = match kind {
            LinkKind::NvLink => LATENCIES.nvlink_us,
            LinkKind::NvSwitch => LATENCIES.switch_us,
            _ => LATENCIES.pcie_us,
        };
        let (store, load) = (entry.map(|entry| &entry.store), entry.map(|entry| &entry.load));
        // Ways are weighed against each other: one that was timed says nothing beside one that was not.
        let timed = [store, load]
            .iter()
            .all(|way| way.is_some_and(|way| way.latency_us.is_some()));
        let measured = |way: Option<&WayProbe>| {
            let rate = way.and_then(|way| way.gb_per_s).filter(|rate| *rate > 0.0);
            let timed_us = way.and_then(|way| way.latency_us).filter(|us| *us >= 0.0);
            Move {
                gb_per_s: rate.unwrap_or(sheet),
                latency_us: timed_us.filter(|_| timed).unwrap_or(latency_us),
                measured: rate.is_some(),
                sheet_gb_per_s: sheet,
                timed_us,
            }
        };
        // A driver that lets a GPU write and not read has been seen nowhere, but it may say so.
        let reads = entry.is_some() || link.is_some_and(|link| matches!(link.read, Status::Yes | Status::Unknown));
        Pair {
            from,
            to,
            kind,
            tried: tried(topology, probe, from, to),
            push: measured(store),
            pull: reads.then(|| measured(load)),
        }
    }
}

/// What the probe says of a pair; GPUs by UUID, so that an order of its own does no harm.
fn probed<'a>(topology: &Topology, probe: &'a Probe, from: usize, to: usize) -> Option<&'a LinkProbe> {
    let index = |gpu: usize| probe.gpu(&topology.gpus.get(gpu)?.uuid);
    probe.link(index(from)?, index(to)?)
}

/// Whether one GPU may use another's memory: by the probe's word, where there is one, else by the driver's.
pub fn tried(topology: &Topology, probe: Option<&Probe>, from: usize, to: usize) -> Tried {
    if let Some(probe) = probe {
        return match probed(topology, probe, from, to).map(LinkProbe::excluded) {
            Some(None) => Tried::Works,
            Some(Some((_, reason))) => Tried::No(reason),
            None => Tried::No("the probe did not come to it".into()),
        };
    }
    match topology.link(from, to).map(|link| link.write) {
        Some(Status::Yes | Status::Unknown) => Tried::Untried,
        Some(Status::No) => Tried::No("no peer-to-peer access, by the driver's word".into()),
        Some(Status::Disabled) => Tried::No("peer-to-peer access is disabled by the driver or the chipset".into()),
        None => Tried::No("the topology knows no such link".into()),
    }
}
