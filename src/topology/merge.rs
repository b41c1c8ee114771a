//! One machine from what several processes see of it, none of which may see all: `CUDA_VISIBLE_DEVICES` often leaves each its own
//! GPU alone.

use super::{Gpu, Link, Topology, same_uuid};
use crate::driver::Identity;

/// What lies between the GPUs that `parts` name, each as the process that names it sees it. A link is told by a process that sees both
/// ends, else by `nvml`, which sees all; else nothing is known of it.
pub(crate) fn merge(parts: &[(Identity, Topology)], nvml: Option<&Topology>) -> Topology {
    let mut gpus: Vec<Gpu> = Vec::new();
    for (identity, seen) in parts {
        let gpu = seen.gpu_of(identity).map(|index| &seen.gpus[index]);
        if let Some(gpu) = gpu.filter(|gpu| !gpus.iter().any(|known| same_uuid(&known.uuid, &gpu.uuid))) {
            gpus.push(gpu.clone());
        }
    }
    gpus.sort_by(|a, b| (&a.pci, &a.uuid).cmp(&(&b.pci, &b.uuid)));
    let who: Vec<&Topology> = parts.iter().map(|(_, seen)| seen).chain(nvml).collect();
    let link = |from: usize, to: usize| {
        let told = who.iter().find_map(|seen| {
            let index = |gpu: &Gpu| seen.gpus.iter().position(|other| same_uuid(&other.uuid, &gpu.uuid));
            seen.link(index(&gpus[from])?, index(&gpus[to])?)
        });
        Link {
            from,
            to,
            ..told.cloned().unwrap_or_else(|| Link::unknown(from, to))
        }
    };
    let pairs = (0..gpus.len()).flat_map(|from| (0..gpus.len()).map(move |to| (from, to)));
    let links = pairs
        .filter(|(from, to)| from != to)
        .map(|(from, to)| link(from, to))
        .collect();
    let mut notes: Vec<String> = Vec::new();
    for note in who.iter().flat_map(|seen| &seen.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let first = &parts.first().map_or_else(empty, |(_, seen)| seen.clone());
    Topology {
        gpus,
        links,
        notes,
        ..first.clone()
    }
}

fn empty() -> Topology {
    Topology {
        version: super::VERSION,
        source: super::Source::Driver,
        driver: String::new(),
        cuda: None,
        gpus: Vec::new(),
        links: Vec::new(),
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Status;

    /// A machine of which only some GPUs are visible.
    fn seen(whole: &Topology, gpus: &[usize]) -> (Identity, Topology) {
        let gpu = &whole.gpus[gpus[0]];
        let identity = Identity {
            uuid: gpu.uuid.clone(),
            pci: gpu.pci.clone(),
            memory_bytes: gpu.memory_bytes,
        };
        let index = |gpu: usize| gpus.iter().position(|kept| *kept == gpu);
        let links = whole.links.iter().filter_map(|link| {
            let (from, to) = (index(link.from)?, index(link.to)?);
            Some(Link {
                from,
                to,
                ..link.clone()
            })
        });
        // As whoever reads a machine notes where links lead to GPUs that are hidden.
        let hidden = whole.gpus.iter().enumerate().filter(|(gpu, _)| index(*gpu).is_none());
        let notes = hidden.map(|(_, gpu)| format!("NVLinks lead to {}, which is not visible", gpu.pci));
        let part = Topology {
            notes: notes.collect(),
            gpus: gpus.iter().map(|gpu| whole.gpus[*gpu].clone()).collect(),
            links: links.collect(),
            ..whole.clone()
        };
        (identity, part)
    }

    #[test]
    fn parts_make_the_whole_and_what_nobody_sees_is_unknown() {
        let text = include_str!("../../tests/topology/hgx-a100-x4.json");
        let whole = Topology::from_json(text).unwrap();
        let alone: Vec<_> = [2, 0, 3, 1].iter().map(|gpu| seen(&whole, &[*gpu])).collect();
        let merged = merge(&alone, Some(&whole));
        merged.check().unwrap();
        assert_eq!((&merged.gpus, &merged.links), (&whole.gpus, &whole.links));

        let blind = merge(&alone, None);
        blind.check().unwrap();
        assert_eq!(blind.gpus, whole.gpus);
        assert!(
            blind
                .links
                .iter()
                .all(|link| link.nvlink.is_none() && link.write == Status::Unknown)
        );
        // Whoever sees both ends tells of the link.
        let some = merge(
            &[seen(&whole, &[0, 1]), seen(&whole, &[2]), seen(&whole, &[0, 1])],
            None,
        );
        some.check().unwrap();
        assert_eq!(some.gpus.len(), 2);
        let pair = merge(&[seen(&whole, &[0, 1]), seen(&whole, &[1, 0])], None);
        assert_eq!(pair.link(0, 1).unwrap().nvlink, whole.link(0, 1).unwrap().nvlink);
    }
}
