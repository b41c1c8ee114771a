//! What a configuration comes to: the schedule's character, drawn from the seed, and the planted faults, ready to be
//! asked at every site.

use super::config::{Copies, Fault, Lateness, Pick, SimConfig};
use super::rng::Rng;

/// The schedule's character, settled: one in so many is a rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Character {
    pub copies: Copies,
    pub pick: Pick,
    pub burst: u32,
    /// Between two bursts a waiting data store is let through once in so many times; 0: never.
    pub data_one_in: u32,
    /// The same for signals.
    pub signal_one_in: u32,
    /// A poll fetches a signal that is on its way once in so many times.
    pub poll_one_in: u32,
    /// After so many bursts the priorities are drawn anew.
    pub redraw: u32,
}

impl Character {
    pub fn draw(config: &SimConfig, rng: &mut Rng) -> Self {
        // Every value is drawn even where the configuration overrides it, so that an override changes nothing else.
        let lateness = *rng.choose(&[Lateness::Never, Lateness::Rarely, Lateness::Often]);
        let copies = *rng.choose(&[Copies::AtIssue, Copies::Mixed, Copies::AtWait]);
        let pick = *rng.choose(&[Pick::Fifo, Pick::Fifo, Pick::Lifo, Pick::Random]);
        let burst = *rng.choose(&[4, 32, 128, 128, 512, 512, 2048]);
        Character {
            copies: config.copies.unwrap_or(copies),
            pick: config.pick.unwrap_or(pick),
            burst: config.burst.unwrap_or(burst).max(1),
            data_one_in: match config.lateness.unwrap_or(lateness) {
                Lateness::Never => 0,
                Lateness::Rarely => 64,
                Lateness::Often => 2,
            },
            signal_one_in: *rng.choose(&[1, 4, 32]),
            poll_one_in: *rng.choose(&[1, 2, 8]),
            redraw: *rng.choose(&[16, 64, 512]),
        }
    }
}

/// Planted faults, ready to be asked at every site.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    ignored: u64,
    early: u64,
    read_for_full: u64,
    wrong_phase: u64,
    tx_count: Vec<(u32, i32)>,
    dropped: [u16; 16],
    slow: Vec<(usize, u32)>,
}

impl Faults {
    pub fn new(list: &[Fault]) -> Self {
        let mut f = Faults::default();
        for fault in list {
            match *fault {
                Fault::Ignore(site) => f.ignored |= 1 << site as u32,
                Fault::EarlySignal(site) => f.early |= 1 << site as u32,
                Fault::ReadForFull(site) => f.read_for_full |= 1 << site as u32,
                Fault::WrongPhase(site) => f.wrong_phase |= 1 << site as u32,
                Fault::TxCount { site, delta } => f.tx_count.push((site as u32, delta)),
                Fault::DropSignals { from, to } if from < 16 && to < 16 => f.dropped[from] |= 1 << to,
                Fault::DropSignals { .. } => {}
                Fault::Slow { device, factor } => f.slow.push((device, factor.max(1))),
            }
        }
        f
    }

    pub fn ignores(&self, site: u32) -> bool {
        self.ignored >> (site & 63) & 1 != 0
    }

    pub fn early(&self, site: u32) -> bool {
        self.early >> (site & 63) & 1 != 0
    }

    pub fn any_early(&self) -> bool {
        self.early != 0
    }

    pub fn any_site(&self) -> bool {
        self.ignored | self.early | self.read_for_full | self.wrong_phase != 0 || !self.tx_count.is_empty()
    }

    pub fn read_for_full(&self, site: u32) -> bool {
        self.read_for_full >> (site & 63) & 1 != 0
    }

    pub fn wrong_phase(&self, site: u32) -> bool {
        self.wrong_phase >> (site & 63) & 1 != 0
    }

    /// Bytes too many that an mbarrier expects at a site.
    pub fn tx_error(&self, site: u32) -> i64 {
        let here = self.tx_count.iter().filter(|t| t.0 == site);
        here.map(|t| i64::from(t.1)).sum()
    }

    pub fn drops(&self, from: usize, to: usize) -> bool {
        self.dropped[from & 15] >> (to & 15) & 1 != 0
    }

    pub fn slowness(&self, device: usize) -> u32 {
        self.slow
            .iter()
            .filter(|s| s.0 == device)
            .map(|s| s.1)
            .max()
            .unwrap_or(1)
    }
}
