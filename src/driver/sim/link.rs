//! Links that are not as they should be (`SimConfig::links`): what crosses them comes late, or changed.
//!
//! A node without such links knows no time of links, and its schedule is what it was. With any, each access that crosses
//! some link takes [`CROSSING_NS`] of simulated time, on a slow one that many times as long; the time passes for the whole
//! node at once, as all simulated time does. A corrupting link flips one bit in one of [`CORRUPT_ONE_IN`] accesses, by
//! dice of its own: the schedule is that of a sound link. Words that order, and the tags of packets, cross whole.

use super::config::{LinkState, SimConfig};
use super::machine::Machine;
use super::rng::Rng;
use crate::error::Error;

/// What one access of up to 16 bytes takes to cross a link.
const CROSSING_NS: u64 = 20;
/// How rare changed accesses are.
const CORRUPT_ONE_IN: u32 = 32;

#[derive(Debug, Clone, Copy)]
struct Way {
    factor: u64,
    corrupting: bool,
}

/// All links, where any is not sound; else nothing.
#[derive(Debug)]
pub(super) struct Links {
    devices: usize,
    ways: Vec<Way>,
    rng: Rng,
}

impl Links {
    pub fn new(config: &SimConfig) -> Links {
        let sound = Way {
            factor: 1,
            corrupting: false,
        };
        let devices = config.gpus;
        let mut ways = match config.links.is_empty() {
            true => Vec::new(),
            false => vec![sound; devices * devices],
        };
        for link in &config.links {
            let way = &mut ways[link.from * devices + link.to];
            match link.state {
                LinkState::Slow(factor) => way.factor = way.factor.max(factor.into()),
                LinkState::Corrupting => way.corrupting = true,
                // Nothing is mapped over them, so nothing crosses.
                LinkState::Absent | LinkState::ClaimedOnly => {}
            }
        }
        let rng = Rng::new(config.seed ^ 0x11_4b5e);
        Links { devices, ways, rng }
    }

    fn way(&self, from: usize, to: usize) -> Option<Way> {
        self.ways.get(from * self.devices + to).copied().filter(|_| from != to)
    }
}

impl SimConfig {
    /// Why the memory of device `to` cannot be mapped for device `from`, if it cannot.
    pub(super) fn refuses(&self, from: usize, to: usize) -> Option<Error> {
        let states = self
            .links
            .iter()
            .filter(|l| (l.from, l.to) == (from, to))
            .map(|l| l.state);
        let reason = states.fold(None, |worst, state| match (worst, state) {
            (_, LinkState::Absent) => Some("there is no link between the two"),
            (None, LinkState::ClaimedOnly) => Some("there is no link between the two, whatever the node claims"),
            (worst, _) => worst,
        });
        reason.map(|reason| Error::Unavailable {
            what: format!("the memory of device {to} for device {from}"),
            reason: reason.into(),
        })
    }
}

impl Machine {
    /// A word, or an atomic, crosses from device `from` to the memory of device `to`.
    pub fn cross(&mut self, from: usize, to: usize) {
        if let Some(way) = self.links.way(from, to) {
            self.now += CROSSING_NS * way.factor;
        }
    }

    /// As [`Machine::cross`], for data, which may change on the way: whatever device it is that reads or writes.
    pub fn cross_with(&mut self, from: usize, to: usize, data: &mut [u8]) {
        let Some(way) = self.links.way(from, to) else {
            return;
        };
        for access in data.chunks_mut(16) {
            self.now += CROSSING_NS * way.factor;
            if way.corrupting && self.links.rng.one_in(CORRUPT_ONE_IN) {
                let bit = self.links.rng.below(8 * access.len());
                access[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// As [`Machine::cross_with`], for bytes at `addr`.
    #[inline] // nearly always there is nothing to do
    pub fn cross_from(&mut self, device: usize, addr: u64, data: &mut [u8]) {
        if self.links.ways.is_empty() {
            return;
        }
        if let Some(owner) = self.layout.device_of(addr) {
            self.cross_with(device, owner, data);
        }
    }
}
