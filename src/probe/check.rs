//! What a probe says as a whole: whether it holds together and is of a machine, which pairs it excludes, and as JSON.

use super::{Direction, LinkProbe, Outcome, Probe, WayProbe};
use crate::error::{Error, Result};
use crate::topology::{Topology, same_uuid};

/// An ordered pair of GPUs that no route may use, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded<'a> {
    /// Index in [`Probe::gpus`] of the GPU that moves.
    pub from: usize,
    /// Index of the GPU whose memory it is.
    pub to: usize,
    /// What failed, and how: `stores failed: ...`.
    pub reason: String,
    /// The outcome it comes from.
    pub outcome: &'a Outcome,
}

impl LinkProbe {
    /// Why the pair is excluded: the first way that does not work. Atomics do not count, since no operation needs them.
    pub fn excluded(&self) -> Option<(&Outcome, String)> {
        let ways = [
            ("stores", &self.store.outcome),
            ("loads", &self.load.outcome),
            ("copies", &self.copy.outcome),
        ];
        let (name, outcome) = ways.into_iter().find(|(_, outcome)| !outcome.works())?;
        Some((outcome, format!("{name} {outcome}")))
    }

    /// Whether the memory could be touched in any way.
    pub fn any_works(&self) -> bool {
        [
            &self.store.outcome,
            &self.load.outcome,
            &self.copy.outcome,
            &self.atomics,
        ]
        .into_iter()
        .any(Outcome::works)
    }
}

impl Probe {
    /// The entry of an ordered pair, by indices in [`Probe::gpus`].
    pub fn link(&self, from: usize, to: usize) -> Option<&LinkProbe> {
        self.links.iter().find(|link| (link.from, link.to) == (from, to))
    }

    /// The index in [`Probe::gpus`] of a GPU, however its UUID is written.
    pub fn gpu(&self, uuid: &str) -> Option<usize> {
        self.gpus.iter().position(|known| same_uuid(known, uuid))
    }

    /// The ordered pairs over which something fails, or was not tried.
    pub fn excluded(&self) -> Vec<Excluded<'_>> {
        let of = |link: &'_ LinkProbe| (link.from, link.to);
        let pairs = self.links.iter().filter_map(|link| Some((of(link), link.excluded()?)));
        pairs
            .map(|((from, to), (outcome, reason))| Excluded {
                from,
                to,
                reason,
                outcome,
            })
            .collect()
    }

    /// Whether data gets faster from GPU `from` to GPU `to` when `from` stores or when `to` loads: by bandwidth, else by
    /// latency; `None` where nothing was measured, or neither works.
    pub fn better(&self, from: usize, to: usize) -> Option<Direction> {
        let working = |way: &'_ WayProbe| way.outcome.works().then(|| way.clone());
        let push = working(&self.link(from, to)?.store);
        let pull = working(&self.link(to, from)?.load);
        match (push, pull) {
            (None, None) => None,
            (Some(_), None) => Some(Direction::Push),
            (None, Some(_)) => Some(Direction::Pull),
            (Some(push), Some(pull)) => {
                let rates = push.gb_per_s.zip(pull.gb_per_s).map(|(push, pull)| push >= pull);
                let latencies = || push.latency_us.zip(pull.latency_us).map(|(push, pull)| push <= pull);
                let pushed = rates.or_else(latencies)?;
                Some(if pushed { Direction::Push } else { Direction::Pull })
            }
        }
    }

    /// Whether it holds together, and its GPUs are of this machine, in its order.
    ///
    /// # Errors
    /// [`Error::BadArgument`] that names the field.
    pub fn check(&self, topology: &Topology) -> Result<()> {
        let mut before = None;
        for (i, uuid) in self.gpus.iter().enumerate() {
            let index = topology.gpus.iter().position(|gpu| same_uuid(&gpu.uuid, uuid));
            if index.is_none() || index <= before {
                let expected = "GPUs of the topology, each once and in its order";
                return Err(Error::bad_argument(format!("probe.gpus[{i}]"), uuid, expected));
            }
            before = index;
        }
        let count = self.gpus.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let expected: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        let found: Vec<_> = self.links.iter().map(|link| (link.from, link.to)).collect();
        if found != expected {
            let expected = format!(
                "the {} ordered pairs of {count} GPUs, by `from`, then `to`",
                expected.len()
            );
            return Err(Error::bad_argument("probe.links", format!("{found:?}"), expected));
        }
        for (i, link) in self.links.iter().enumerate() {
            for (name, way) in [("store", &link.store), ("load", &link.load), ("copy", &link.copy)] {
                for (what, value) in [("gb_per_s", way.gb_per_s), ("latency_us", way.latency_us)] {
                    let Some(value) = value else { continue };
                    let at = || format!("probe.links[{i}].{name}.{what}");
                    if !(value.is_finite() && value > 0.0) {
                        return Err(Error::bad_argument(at(), value, "a number above 0"));
                    }
                    if !way.outcome.works() {
                        return Err(Error::bad_argument(at(), value, "null where the way does not work"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what [`Probe::to_json`] wrote.
    ///
    /// # Errors
    /// [`Error::BadArgument`] that names the place in the text.
    pub fn from_json(text: &str) -> Result<Probe> {
        serde_json::from_str(text).map_err(|error| {
            let value = format!("no probe ({error})");
            Error::bad_argument("the probe's text", value, "what Probe::to_json wrote")
        })
    }

    /// As JSON, with line breaks.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists alone: nothing that JSON cannot hold.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
