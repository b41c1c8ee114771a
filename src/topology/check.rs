//! Whether a [`Topology`] agrees with itself. What reads one from NVML makes no other; a snapshot file was written by anybody.
//!
//! Every rule names the field that breaks it. Claims (`read`, `write`, `atomics`) may differ between the two directions of a
//! pair; where the wires go may not.

use super::{Fabric, Gpu, Link, Mig, NvLink, NvLinkPath, Remote, Topology, VERSION};
use crate::error::{Error, Result};

impl Topology {
    /// Whether it agrees with itself.
    ///
    /// # Errors
    /// [`Error::BadArgument`], which names the first field that contradicts another, as `links[3].nvlink.lanes`.
    pub fn check(&self) -> Result<()> {
        if self.version != VERSION {
            return Err(Error::bad_argument("version", self.version, VERSION.to_string()));
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let at = |field: &str| format!("gpus[{index}].{field}");
            self.check_identity(index, gpu, &at)?;
            self.check_mig(gpu, &at)?;
            self.check_nvlinks(gpu, &at)?;
            check_fabric(gpu, &at)?;
        }
        self.check_pairs()?;
        for (index, link) in self.links.iter().enumerate() {
            // Always there, once every pair is.
            if let Some(back) = self.link(link.to, link.from) {
                self.check_link(link, back, &|field: &str| format!("links[{index}].{field}"))?;
            }
        }
        Ok(())
    }

    /// UUIDs and bus ids tell GPUs apart, and give their order.
    fn check_identity(&self, index: usize, gpu: &Gpu, at: &dyn Fn(&str) -> String) -> Result<()> {
        if gpu.uuid.is_empty() {
            return Err(Error::bad_argument(
                at("uuid"),
                "empty",
                "what tells this GPU from all others",
            ));
        }
        if !canonical_pci(&gpu.pci) {
            return Err(Error::bad_argument(
                at("pci"),
                &gpu.pci,
                "the form 00000000:18:00.0, in lower case",
            ));
        }
        for (other, earlier) in self.gpus[..index].iter().enumerate() {
            if earlier.uuid == gpu.uuid {
                return Err(Error::bad_argument(
                    at("uuid"),
                    &gpu.uuid,
                    format!("another than gpus[{other}].uuid"),
                ));
            }
            let slices = gpu.mig != Mig::Off && gpu.mig != Mig::On && earlier.mig == gpu.mig;
            if earlier.pci == gpu.pci && !slices {
                return Err(Error::bad_argument(
                    at("pci"),
                    &gpu.pci,
                    format!("another than gpus[{other}].pci, as they are not slices of one GPU"),
                ));
            }
        }
        if let Some(before) = index.checked_sub(1).map(|before| &self.gpus[before])
            && (&before.pci, &before.uuid) > (&gpu.pci, &gpu.uuid)
        {
            let expected = format!("one after gpus[{}].pci, {}", index - 1, before.pci);
            return Err(Error::bad_argument(at("pci"), &gpu.pci, expected));
        }
        Ok(())
    }

    /// A GPU is divided or it is there whole.
    fn check_mig(&self, gpu: &Gpu, at: &dyn Fn(&str) -> String) -> Result<()> {
        let Mig::SliceOf(parent) = &gpu.mig else { return Ok(()) };
        if *parent == gpu.uuid || parent.is_empty() {
            let value = if parent.is_empty() { "empty" } else { parent };
            return Err(Error::bad_argument(
                at("mig.slice_of"),
                value,
                "the UUID of the GPU it is a slice of",
            ));
        }
        if let Some(whole) = self.gpus.iter().position(|other| other.uuid == *parent) {
            return Err(Error::bad_argument(
                at("mig.slice_of"),
                parent,
                format!("a GPU that is not listed, as it cannot be used whole; it is gpus[{whole}]"),
            ));
        }
        if !gpu.nvlinks.is_empty() {
            return Err(Error::bad_argument(
                at("nvlinks"),
                format!("{} links", gpu.nvlinks.len()),
                "none, as a MIG slice has no NVLink",
            ));
        }
        Ok(())
    }

    /// NVLinks are numbered, and end somewhere that is known or noted.
    fn check_nvlinks(&self, gpu: &Gpu, at: &dyn Fn(&str) -> String) -> Result<()> {
        for (index, nvlink) in gpu.nvlinks.iter().enumerate() {
            let at = |field: &str| at(&format!("nvlinks[{index}].{field}"));
            if let Some(before) = index.checked_sub(1).map(|before| gpu.nvlinks[before].link)
                && nvlink.link <= before
            {
                return Err(Error::bad_argument(
                    at("link"),
                    nvlink.link,
                    format!("more than {before}, the one before"),
                ));
            }
            if nvlink.version == Some(0) {
                return Err(Error::bad_argument(at("version"), 0, "a generation, from 1"));
            }
            let Remote::Gpu(pci) = &nvlink.remote else { continue };
            if !canonical_pci(pci) {
                return Err(Error::bad_argument(
                    at("remote.gpu"),
                    pci,
                    "the form 00000000:18:00.0, in lower case",
                ));
            }
            if *pci == gpu.pci {
                return Err(Error::bad_argument(at("remote.gpu"), pci, "another GPU than its own"));
            }
            let Some(peer) = self.gpus.iter().position(|other| other.pci == *pci) else {
                if self.notes.iter().any(|note| note.contains(pci.as_str())) {
                    continue;
                }
                let expected = "the pci of one of gpus, or one that a note explains";
                return Err(Error::bad_argument(at("remote.gpu"), pci, expected));
            };
            let (out, back) = (joins(gpu, &self.gpus[peer]), joins(&self.gpus[peer], gpu));
            if out != back {
                return Err(Error::bad_argument(
                    at("remote.gpu"),
                    format!("{pci}, at the end of {out} active links"),
                    format!("{back}, as gpus[{peer}].nvlinks has back"),
                ));
            }
        }
        Ok(())
    }

    /// Every ordered pair, once, in order.
    fn check_pairs(&self) -> Result<()> {
        let gpus = self.gpus.len();
        for (index, link) in self.links.iter().enumerate() {
            for (field, value) in [("from", link.from), ("to", link.to)] {
                if value >= gpus {
                    let expected = format!("an index of gpus, below {gpus}");
                    return Err(Error::bad_argument(format!("links[{index}].{field}"), value, expected));
                }
            }
        }
        let mut pairs = (0..gpus).flat_map(|from| (0..gpus).filter(move |to| *to != from).map(move |to| (from, to)));
        for (index, link) in self.links.iter().enumerate() {
            let (from, to) = (link.from, link.to);
            let expected = match pairs.next() {
                Some(pair) if pair == (from, to) => continue,
                Some((from, to)) => {
                    format!("from {from} to {to}: every ordered pair of gpus stands once, by from, then to")
                }
                None => format!("no more than {index} links, one for every ordered pair of {gpus} gpus"),
            };
            return Err(Error::bad_argument(
                format!("links[{index}]"),
                format!("from {from} to {to}"),
                expected,
            ));
        }
        if let Some((from, to)) = pairs.next() {
            return Err(Error::bad_argument(
                "links",
                format!("{} long", self.links.len()),
                format!("one for every ordered pair of gpus, next from {from} to {to}"),
            ));
        }
        Ok(())
    }

    /// The two directions of a pair tell of one path.
    fn check_link(&self, link: &Link, back: &Link, at: &dyn Fn(&str) -> String) -> Result<()> {
        let mirrored = format!("as from {} to {}", link.to, link.from);
        if link.ancestor != back.ancestor {
            return Err(Error::bad_argument(
                at("ancestor"),
                format!("{:?}", link.ancestor),
                format!("{:?}, {mirrored}", back.ancestor),
            ));
        }
        match (&link.nvlink, &back.nvlink) {
            (None, None) => Ok(()),
            (Some(_), None) => Err(Error::bad_argument(at("nvlink"), "there", format!("null, {mirrored}"))),
            (None, Some(_)) => Err(Error::bad_argument(at("nvlink"), "null", format!("a path, {mirrored}"))),
            (Some(path), Some(back)) => {
                let differs = |field, value: String, back: String| {
                    Err(Error::bad_argument(at(field), value, format!("{back}, {mirrored}")))
                };
                if path.lanes != back.lanes {
                    return differs("nvlink.lanes", path.lanes.to_string(), back.lanes.to_string());
                }
                if path.version != back.version {
                    return differs("nvlink.version", path.version.to_string(), back.version.to_string());
                }
                if path.gb_per_s != back.gb_per_s {
                    return differs("nvlink.gb_per_s", path.gb_per_s.to_string(), back.gb_per_s.to_string());
                }
                if path.switched != back.switched {
                    return differs("nvlink.switched", path.switched.to_string(), back.switched.to_string());
                }
                self.check_path(link, path, at)
            }
        }
    }

    /// A path needs links that carry it, and behind switches a fabric that works.
    fn check_path(&self, link: &Link, path: &NvLinkPath, at: &dyn Fn(&str) -> String) -> Result<()> {
        let ends = [(link.from, link.to), (link.to, link.from)];
        for (end, peer) in ends {
            let (gpu, other) = (&self.gpus[end], &self.gpus[peer]);
            if let Mig::On | Mig::SliceOf(_) = gpu.mig {
                let expected = format!("null, as gpus[{end}].mig is not off");
                return Err(Error::bad_argument(at("nvlink"), "there", expected));
            }
            let links = if path.switched {
                switch_links(gpu)
            } else {
                joins(gpu, other)
            };
            if path.lanes == 0 || path.lanes as usize > links {
                let expected = if links == 0 {
                    format!("no path, as no active link of gpus[{end}].nvlinks leads there")
                } else {
                    format!("1 to {links}, the active links of gpus[{end}].nvlinks that lead there")
                };
                return Err(Error::bad_argument(at("nvlink.lanes"), path.lanes, expected));
            }
            if let (true, Some(why)) = (path.switched, gpu.fabric.unusable()) {
                return Err(Error::bad_argument(
                    at("nvlink"),
                    "there",
                    format!("null, as the fabric of gpus[{end}] {why}"),
                ));
            }
        }
        if path.switched && !self.gpus[link.from].fabric.joins(&self.gpus[link.to].fabric) {
            let expected = format!(
                "null, as gpus[{}] and gpus[{}] are in different cliques",
                link.from, link.to
            );
            return Err(Error::bad_argument(at("nvlink"), "there", expected));
        }
        if path.version == 0 {
            return Err(Error::bad_argument(at("nvlink.version"), 0, "a generation, from 1"));
        }
        if !(path.gb_per_s.is_finite() && path.gb_per_s > 0.0) {
            return Err(Error::bad_argument(
                at("nvlink.gb_per_s"),
                path.gb_per_s,
                "a rate above 0",
            ));
        }
        Ok(())
    }

    /// The entry of an ordered pair; none for a GPU and itself, or one that is not there.
    pub fn link(&self, from: usize, to: usize) -> Option<&Link> {
        let gpus = self.gpus.len();
        if from == to || from >= gpus || to >= gpus {
            return None;
        }
        let index = from * (gpus - 1) + to - usize::from(to > from);
        self.links.get(index).filter(|link| (link.from, link.to) == (from, to))
    }
}

fn check_fabric(gpu: &Gpu, at: &dyn Fn(&str) -> String) -> Result<()> {
    let Fabric::Completed { cluster, .. } = &gpu.fabric else {
        return Ok(());
    };
    let hexadecimal = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    if cluster.len() != 32 || !cluster.chars().all(hexadecimal) {
        let expected = "32 hexadecimal digits, in lower case";
        return Err(Error::bad_argument(at("fabric.completed.cluster"), cluster, expected));
    }
    Ok(())
}

impl Fabric {
    /// Why NVLink cannot be used, where its manager says that it cannot; never for want of a word from it.
    pub fn unusable(&self) -> Option<String> {
        match self {
            Fabric::NotSupported | Fabric::Unknown | Fabric::Completed { status: 0, .. } => None,
            Fabric::NotStarted => Some("has not begun to initialise".into()),
            Fabric::InProgress => Some("is still initialising".into()),
            Fabric::Completed { status, .. } => Some(format!("failed to initialise (NVML status {status})")),
        }
    }

    /// Whether two GPUs are in one clique, as far as both say.
    pub(super) fn joins(&self, other: &Fabric) -> bool {
        match (self, other) {
            (
                Fabric::Completed { cluster, clique, .. },
                Fabric::Completed {
                    cluster: other_cluster,
                    clique: other_clique,
                    ..
                },
            ) => (cluster, clique) == (other_cluster, other_clique),
            _ => true,
        }
    }
}

fn active(gpu: &Gpu) -> impl Iterator<Item = &NvLink> {
    gpu.nvlinks.iter().filter(|nvlink| nvlink.active)
}

/// Active links of `gpu` that end in `other`.
pub(super) fn joins(gpu: &Gpu, other: &Gpu) -> usize {
    active(gpu)
        .filter(|nvlink| matches!(&nvlink.remote, Remote::Gpu(pci) if *pci == other.pci))
        .count()
}

/// Active links of `gpu` that end in a switch, or where nobody says: guests of a hypervisor do not see the switches.
pub(super) fn switch_links(gpu: &Gpu) -> usize {
    active(gpu)
        .filter(|nvlink| matches!(nvlink.remote, Remote::Switch | Remote::Unknown))
        .count()
}

/// Whether a bus id is written as ours are: 8, 2, 2 and 1 lower-case hexadecimal digits.
fn canonical_pci(pci: &str) -> bool {
    let form = b"00000000:00:00.0";
    pci.len() == form.len()
        && pci.bytes().zip(form).all(|(byte, form)| match form {
            b'0' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            mark => byte == *mark,
        })
}
