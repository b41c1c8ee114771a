//! What lies between two GPUs, by NVML's word.
//!
//! NVLinks join a pair directly, where active ones name the other's bus id, or through switches, where both ends' lead to one.
//! Which switch a link leads to does not matter: each GPU reaches every other at its full rate. Links whose end nobody names
//! count as leading to a switch where NVML says that the pair talks over NVLink: a hypervisor hides switches from its guests.
//! Behind switches nothing passes before the fabric is set up, nor from one clique to another.

use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex as Capability, P2pStatus, TopologyLevel};

use super::ask;
use super::device::Unit;
use crate::topology::check::{joins, switch_links};
use crate::topology::notes::Notes;
use crate::topology::{Ancestor, Gpu, Link, Mig, NvLinkPath, Remote, Status};

/// One entry for every ordered pair, in order.
pub(super) fn links(units: &mut [Unit<'_>], notes: &mut Notes) -> Vec<Link> {
    agree(units, notes);
    absent(units, notes);
    for unit in units.iter() {
        if let Some(why) = unit.gpu.fabric.unusable().filter(|_| switch_links(&unit.gpu) > 0) {
            notes.say_of(format!("no NVLink paths, as the fabric {why}"), &unit.gpu.pci);
        }
    }
    let mut links: Vec<Link> = Vec::new();
    for from in 0..units.len() {
        for to in (0..units.len()).filter(|to| *to != from) {
            let mut link = link(&units[from], &units[to], notes);
            (link.from, link.to) = (from, to);
            links.push(link);
        }
    }
    mirror(&mut links, units, notes);
    links
}

/// Two ends that do not agree on how many links join them: the fewer is true.
fn agree(units: &mut [Unit<'_>], notes: &mut Notes) {
    for a in 0..units.len() {
        for b in 0..units.len() {
            let excess = joins(&units[a].gpu, &units[b].gpu).saturating_sub(joins(&units[b].gpu, &units[a].gpu));
            if excess == 0 {
                continue;
            }
            let other = units[b].gpu.pci.clone();
            let text = format!("NVLinks that {other} does not have at its end, taken for inactive");
            notes.say_of(text, &units[a].gpu.pci);
            let there = |remote: &Remote| matches!(remote, Remote::Gpu(pci) if *pci == other);
            let links = units[a].gpu.nvlinks.iter_mut().rev();
            for link in links.filter(|link| link.active && there(&link.remote)).take(excess) {
                link.active = false;
                link.remote = Remote::Unknown;
            }
        }
    }
}

/// GPUs at the end of links that are not among ours: not visible here, or divided.
fn absent(units: &[Unit<'_>], notes: &mut Notes) {
    for unit in units {
        for link in &unit.gpu.nvlinks {
            if let Remote::Gpu(pci) = &link.remote
                && units.iter().all(|other| other.gpu.pci != *pci)
            {
                notes.say_of("at the end of NVLinks, but not usable here", pci);
            }
        }
    }
}

fn link(from: &Unit<'_>, to: &Unit<'_>, notes: &mut Notes) -> Link {
    let mut link = Link {
        from: 0,
        to: 0,
        nvlink: None,
        ancestor: ancestor(from, to, notes),
        read: Status::No,
        write: Status::No,
        atomics: Status::No,
    };
    if from.gpu.mig != Mig::Off || to.gpu.mig != Mig::Off {
        // NVIDIA's MIG user guide: no peer-to-peer, over PCIe or NVLink.
        return link;
    }
    let mut claim = |which| {
        let told = from.whole.device.p2p_status(&to.whole.device, which);
        ask(notes, &from.gpu.pci, "nvmlDeviceGetP2PStatus", told).map_or(Status::Unknown, status)
    };
    link.read = claim(Capability::Read);
    link.write = claim(Capability::Write);
    link.atomics = claim(Capability::Atomics);
    let over_nvlink = claim(Capability::NvLink);
    link.nvlink = path(from, to, over_nvlink, notes);
    link
}

/// NVML's two ways to say nothing are not a no: the link is to be probed.
fn status(told: P2pStatus) -> Status {
    match told {
        P2pStatus::Ok => Status::Yes,
        P2pStatus::ChipsetNotSupported | P2pStatus::DisabledByRegkey => Status::Disabled,
        P2pStatus::GpuNotSupported | P2pStatus::IohTopologyNotSupported => Status::No,
        P2pStatus::NotSupported | P2pStatus::Unknown => Status::Unknown,
    }
}

fn ancestor(from: &Unit<'_>, to: &Unit<'_>, notes: &mut Notes) -> Ancestor {
    if from.gpu.pci == to.gpu.pci {
        return Ancestor::Internal;
    }
    // The wrapper takes the other device by value.
    // SAFETY: the handle is of the same library, which the unit keeps started.
    let other = unsafe { nvml_wrapper::Device::new(to.whole.device.handle(), to.whole.nvml) };
    let told = from.whole.device.topology_common_ancestor(other);
    match ask(notes, &from.gpu.pci, "nvmlDeviceGetTopologyCommonAncestor", told) {
        Some(TopologyLevel::Internal) => Ancestor::Internal,
        Some(TopologyLevel::Single) => Ancestor::SingleSwitch,
        Some(TopologyLevel::Multiple) => Ancestor::MultipleSwitches,
        Some(TopologyLevel::HostBridge) => Ancestor::HostBridge,
        Some(TopologyLevel::Node) => Ancestor::Node,
        Some(TopologyLevel::System) => Ancestor::System,
        None => Ancestor::Unknown,
    }
}

fn path(from: &Unit<'_>, to: &Unit<'_>, over_nvlink: Status, notes: &mut Notes) -> Option<NvLinkPath> {
    let (a, b) = (&from.gpu, &to.gpu);
    let direct = joins(a, b);
    let switched = direct == 0;
    let lanes = if switched {
        through_switches(a, b, over_nvlink)
    } else {
        direct
    };
    if lanes == 0 {
        return None;
    }
    if switched && (a.fabric.unusable().is_some() || b.fabric.unusable().is_some()) {
        // Said of each GPU.
        return None;
    }
    if switched && !a.fabric.joins(&b.fabric) {
        notes.say_of(
            format!("no NVLink path to {}, which is in another clique", b.pci),
            &a.pci,
        );
        return None;
    }
    if let Status::No | Status::Disabled = over_nvlink {
        notes.say_of(
            format!("NVLinks lead to {}, but NVML says that they carry nothing there", b.pci),
            &a.pci,
        );
        return None;
    }
    let version = |gpu: &Gpu| gpu.nvlinks.iter().filter_map(|link| link.version).min();
    Some(NvLinkPath {
        lanes: lanes as u32,
        // One that is not known is newer than all that are.
        version: version(a).into_iter().chain(version(b)).min().unwrap_or(6),
        gb_per_s: lanes as f64 * from.gb_per_s.min(to.gb_per_s),
        switched,
    })
}

/// Lanes of the weaker end.
fn through_switches(a: &Gpu, b: &Gpu, over_nvlink: Status) -> usize {
    let end = |gpu: &Gpu| {
        let seen = gpu
            .nvlinks
            .iter()
            .any(|link| link.active && link.remote == Remote::Switch);
        if seen || over_nvlink == Status::Yes {
            switch_links(gpu)
        } else {
            0
        }
    };
    end(a).min(end(b))
}

/// A wire is one thing for both directions: where NVML tells two, neither is believed.
fn mirror(links: &mut [Link], units: &[Unit<'_>], notes: &mut Notes) {
    let gpus = units.len();
    let index = |from: usize, to: usize| from * (gpus - 1) + to - usize::from(to > from);
    for from in 0..gpus {
        for to in from + 1..gpus {
            let (out, back) = (index(from, to), index(to, from));
            let (a, b) = (&units[from].gpu.pci, &units[to].gpu.pci);
            if links[out].nvlink != links[back].nvlink {
                notes.say_of(format!("NVML tells of an NVLink path to {b} in one direction only"), a);
                (links[out].nvlink, links[back].nvlink) = (None, None);
            }
            if links[out].ancestor != links[back].ancestor {
                notes.say_of(format!("NVML tells of two PCIe ancestors shared with {b}"), a);
                (links[out].ancestor, links[back].ancestor) = (Ancestor::Unknown, Ancestor::Unknown);
            }
        }
    }
}
