//! What is tried over one ordered pair: `from` moves, to or from the memory of `to`.
//!
//! Each way is tried twice with seeds of its own, since a wrong byte may be right by chance once. Who owns memory prepares
//! and checks it by its own SMs, so nothing but the way in question crosses the link. Launches end before the next one of
//! another device begins (the host waits), which is what makes their writes visible; only echo and atomics run on both at once.

use std::sync::Arc;

use super::bench::{ATOMIC_WORD, Area, Bench, ECHO_WORD, Mapping};
use super::{Outcome, WayProbe};
use crate::abi::{self, TwGroup, TwParams};
use crate::driver::Driver;
use crate::error::{Error, Result};

/// Tries of each way.
const ROUNDS: u64 = 2;
/// Timed transfers in a row, behind one that is not timed.
const TRANSFERS: usize = 4;
/// Bytes of a small copy.
const SMALL: usize = 16;
/// Bound on all waits of an echo.
const DEADLINE_NS: u64 = 2_000_000_000;
/// CTAs that add.
const ADDERS: u32 = 8;

/// Why a way does not work.
pub(super) enum Fault {
    /// What was found, in words.
    Found(String),
    /// Words had not come when time was up: the link, or a GPU that others kept busy.
    Late(String),
    /// A call failed: the device may be lost.
    Call(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Call(error)
    }
}

pub(super) struct Pair<'a> {
    pub driver: &'a Arc<dyn Driver>,
    pub from: &'a Bench,
    pub to: &'a Bench,
    /// `to`'s memory, mapped for both.
    pub there: Mapping,
    /// `from`'s memory, mapped for both, where that can be had: an echo needs both directions.
    pub here: Option<Mapping>,
    /// Unlike that of any other pair.
    pub seed: u64,
}

/// SplitMix64, of numbers that differ little.
fn mix(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a way was found to be: how fast, as far as could be measured.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Measured {
    gb_per_s: Option<f64>,
    latency_us: Option<f64>,
}

impl Measured {
    pub fn way(self) -> WayProbe {
        WayProbe {
            outcome: Outcome::Works,
            gb_per_s: self.gb_per_s,
            latency_us: self.latency_us,
        }
    }
}

impl Pair<'_> {
    fn seed(&self, way: u64, round: u64) -> u64 {
        mix(mix(self.seed) ^ (way << 8 | round))
    }

    fn checked(&self) -> usize {
        self.from.sizes.checked
    }

    /// `from` stores into `to`'s memory, `to` looks.
    pub fn store(&self) -> Result<Measured, Fault> {
        for round in 0..ROUNDS {
            let area = self.there.target(self.checked(), self.seed(1, round));
            self.to.run_on(abi::TW_PROBE_FILL, &area)?;
            self.from.run_on(abi::TW_PROBE_STORE, &area)?;
            self.verdict(self.to, &area)?;
        }
        self.echo(true)?;
        let latency_us = self.echo(false)?;
        let gb_per_s = self.rate(|area| self.from.enqueue_on(abi::TW_PROBE_STORE, area))?;
        Ok(Measured { gb_per_s, latency_us })
    }

    /// `to` stores into its own memory, `from` looks.
    pub fn load(&self) -> Result<Measured, Fault> {
        for round in 0..ROUNDS {
            let area = self.there.target(self.checked(), self.seed(2, round));
            self.to.run_on(abi::TW_PROBE_FILL, &area)?;
            self.to.run_on(abi::TW_PROBE_STORE, &area)?;
            self.verdict(self.from, &area)?;
        }
        let latency_us = self.chase()?;
        let gb_per_s = self.rate(|area| self.from.enqueue_on(abi::TW_PROBE_CHECK, area))?;
        Ok(Measured { gb_per_s, latency_us })
    }

    /// `from`'s copy engine copies from its own memory to `to`'s.
    pub fn copy(&self) -> Result<Measured, Fault> {
        let send = |to: &Area, bytes: usize| {
            let source = self.from.source(to.zone, to.seed);
            self.driver
                .copy_device(to.zone_ptr(), source.zone_ptr(), bytes, self.from.stream)
        };
        for round in 0..ROUNDS {
            let area = self.there.target(self.checked(), self.seed(3, round));
            let source = self.from.source(area.zone, area.seed);
            self.from.run_on(abi::TW_PROBE_FILL, &source)?;
            self.from.run_on(abi::TW_PROBE_STORE, &source)?;
            self.to.run_on(abi::TW_PROBE_FILL, &area)?;
            send(&area, area.zone)?;
            self.driver.stream_synchronize(self.from.stream)?;
            self.verdict(self.to, &area)?;
        }
        let gb_per_s = self.rate(|area| send(area, area.zone))?;
        let count = self.from.sizes.rounds / 10;
        let area = self.there.target(self.checked(), self.seed(3, ROUNDS));
        let ms = match self.from.sizes.timed {
            0 => None,
            _ => self.from.timed(|| (0..count).try_for_each(|_| send(&area, SMALL)))?,
        };
        let latency_us = ms.map(|ms| ms * 1e3 / f64::from(count)).filter(|us| *us > 0.0);
        Ok(Measured { gb_per_s, latency_us })
    }

    /// Both add to one word of `to`'s: none of the numbers is lost, or seen twice.
    pub fn atomics(&self) -> Result<(), Fault> {
        let word = self.there.word(ATOMIC_WORD);
        self.driver.fill(word, 0, 8, self.to.stream)?;
        self.driver.stream_synchronize(self.to.stream)?;
        let adders = ADDERS.min(self.from.grid).min(self.to.grid);
        let params = TwParams {
            x: word,
            m: self.from.sizes.additions,
            ..TwParams::default()
        };
        for side in [self.from, self.to] {
            side.clear()?;
            side.enqueue(adders, abi::TW_PROBE_ATOMICS, params)?;
        }
        let (near, far) = (self.from.finish()?, self.to.finish()?);
        let mut bytes = [0; 8];
        self.driver.copy_out(&mut bytes, word, self.to.stream)?;
        let sum = u64::from_le_bytes(bytes);
        let all = 2 * u64::from(adders) * u64::from(abi::TW_PROBE_THREADS) * u64::from(params.m);
        if sum != all {
            return Err(Fault::Found(format!("{all} additions of 1 add up to {sum}")));
        }
        if near.olds.wrapping_add(far.olds) != all * (all - 1) / 2 || near.wrong + far.wrong > 0 {
            return Err(Fault::Found("two additions saw the same number".into()));
        }
        Ok(())
    }

    fn verdict(&self, who: &Bench, area: &Area) -> Result<(), Fault> {
        match area.verdict(&who.run_on(abi::TW_PROBE_CHECK, area)?) {
            None => Ok(()),
            Some(found) => Err(Fault::Found(found)),
        }
    }

    /// Words to and fro; half of a round trip, in microseconds. Whether words arrive at all is part of the way, as is,
    /// with `data`, whether what they publish is there when they are; where only the answers get lost or come without it,
    /// the other direction is the one that fails.
    fn echo(&self, data: bool) -> Result<Option<f64>, Fault> {
        let Some(here) = &self.here else {
            return Ok(None);
        };
        let (near, far) = (here.word(ECHO_WORD), self.there.word(ECHO_WORD));
        let rounds = self.from.sizes.rounds;
        let params = |rank: u32, own, other| TwParams {
            x: own,
            weight: other,
            m: rounds,
            n: data.into(),
            hash: self.seed(4, data.into()),
            group: TwGroup {
                rank,
                deadline_ns: DEADLINE_NS,
                ..TwGroup::default()
            },
            ..TwParams::default()
        };
        // Results are cleared first: on CUDA a fill behind one of two kernels that wait for each other may be behind both.
        self.to.alive()?;
        self.from.alive()?;
        self.to.enqueue(1, abi::TW_PROBE_ECHO, params(1, far, near))?;
        self.from.enqueue(1, abi::TW_PROBE_ECHO, params(0, near, far))?;
        let (sent, received) = (self.from.finish()?, self.to.finish()?);
        let all = u64::from(rounds) + 1;
        if received.seen < all && received.seen <= sent.seen {
            let (seen, ms) = (received.seen, DEADLINE_NS / 1_000_000);
            return Err(Fault::Late(format!(
                "words do not arrive: {seen} of {all} within {ms} ms"
            )));
        }
        if received.wrong > 0 {
            let (wrong, seen) = (received.wrong, received.seen);
            return Err(Fault::Found(format!(
                "{wrong} of {seen} words arrived before what they publish"
            )));
        }
        let whole = sent.seen == all;
        let ns = sent.finished_ns.saturating_sub(sent.started_ns);
        Ok((whole && ns > 0).then(|| ns as f64 / 2e3 / f64::from(rounds)))
    }

    /// Dependent loads; one of them, in microseconds.
    fn chase(&self) -> Result<Option<f64>, Fault> {
        let hops = (self.checked() / 16 / abi::TW_PROBE_STRIDE as usize) as u32;
        let rounds = self.from.sizes.rounds.min(hops.saturating_sub(1));
        let area = self.there.target(self.checked(), self.seed(2, ROUNDS - 1));
        let params = TwParams {
            x: area.zone_ptr(),
            m: rounds,
            ..TwParams::default()
        };
        self.from.clear()?;
        self.from.enqueue(1, abi::TW_PROBE_CHASE, params)?;
        let found = self.from.finish()?;
        let ns = found.finished_ns.saturating_sub(found.started_ns);
        Ok((ns > 0 && rounds > 0).then(|| ns as f64 / 1e3 / f64::from(rounds)))
    }

    /// Payload rate of a long transfer that `enqueue` enqueues on `from`'s stream, in GB/s.
    fn rate(&self, enqueue: impl Fn(&Area) -> Result<()>) -> Result<Option<f64>, Fault> {
        let bytes = self.from.sizes.timed;
        if bytes == 0 {
            return Ok(None);
        }
        let area = self.there.target(bytes, self.seed(5, 0));
        for mode in [abi::TW_PROBE_FILL, abi::TW_PROBE_STORE] {
            self.to.run_on(mode, &area)?;
        }
        enqueue(&area)?;
        let ms = self.from.timed(|| (0..TRANSFERS).try_for_each(|_| enqueue(&area)))?;
        let rate = ms.map(|ms| (TRANSFERS * bytes) as f64 / 1e6 / ms);
        Ok(rate.filter(|rate| rate.is_finite() && *rate > 0.0))
    }
}
