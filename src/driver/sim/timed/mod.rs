//! The clock: a node whose devices take the time that a described machine would take. `docs/clock.md` tells what is
//! modelled and what is not.
//!
//! The kernels are those of every other machine, compiled for `csrc/machine/timed`: one fiber a warp, no arithmetic, no data.
//! Each warp has its own time. What it does on its SM advances that time by itself; what goes further comes here, and takes
//! its turn: the warp that is earliest runs, until it is [`SLACK`] ahead of another, or waits. Units that serve many (a tensor core,
//! a port, the L2, device memory, a link) serve them in that order, one after the other. So waiting, contention and overlap
//! come out of the kernels' own schedule.
//!
//! Words that kernels decide by are real: flags, signals, counters. A store to one is seen when it has arrived.
//!
//! On a node that computes as well, kernels that compute follow (`script.rs`, and `follow.rs` one folder up).

mod access;
mod bulk;
mod callbacks;
mod cluster;
mod gpu;
mod kernels;
mod ledger;
mod mbarrier;
mod rates;
mod run;
mod script;
mod self_c;
mod signals;
mod table;
mod usage;
mod warp;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

pub(super) use run::{Stepped, step, stuck};
pub(super) use script::{Next, Script, WarpName};
pub(super) use table::entries;
pub use usage::Usage;

use self::gpu::Gpu;
use self::rates::Rates;
use self::warp::{Cta, Wait, Warp};
use self::words::{Waiter, Words};
use super::arena::Arena;
use super::config::SimConfig;
use super::launch::Kernel;
use super::stack::Slab;
use super::stream::StreamKey;
use super::table::Entry;
use crate::error::Result;
use crate::machines::Description;

/// Of a described GPU: what it is called, shared memory of a CTA, and whether the Hopper kernels run on it.
pub(super) fn place(node: &Description) -> (&str, u32, bool) {
    let rates = Rates::new(node);
    (&node.gpu, rates.sm_shared - super::machine::CTA_RESERVED, rates.hopper)
}

/// A warp that is less than this ahead of the earliest need not wait for its turn (ps). Units then serve what came a little later
/// first, which changes no total.
const SLACK: u64 = 100 * rates::NS;

/// The clock's state.
pub(super) struct Timed {
    rates: Rates,
    gpus: Vec<Gpu>,
    /// The latest turn so far, ps.
    time: u64,
    turns: BinaryHeap<Reverse<(u64, u64, Waiter)>>,
    order: u64,
    horizon: Box<u64>,
    warps: Vec<(*mut Warp, u32)>,
    free: Vec<u32>,
    slab: Slab,
    words: Words,
    ctas: Vec<*mut Cta>,
    /// Until when each stream is taken.
    streams: BTreeMap<StreamKey, u64>,
    /// Payload bytes and signal words that left for peers.
    traffic: Vec<(u64, u64)>,
    /// Kernels that run here, by number.
    pub kernels: BTreeMap<u64, Kernel>,
    /// Every kernel; and what was asked for, where kernels that compute follow.
    entries: Vec<Entry>,
    pub script: Option<Script>,
    arena: Arc<Arena>,
    trouble: Option<String>,
}

impl Timed {
    pub fn new(node: &Description, config: &SimConfig, arena: Arc<Arena>) -> Result<Timed> {
        let gpus = config.gpus;
        let rates = Rates::new(node);
        let sms = node.compute.sms.value;
        Ok(Timed {
            gpus: (0..gpus).map(|_| Gpu::new(gpus, sms, &rates)).collect(),
            rates,
            time: rates::US,
            turns: BinaryHeap::new(),
            order: 0,
            horizon: Box::new(0),
            warps: Vec::new(),
            free: Vec::new(),
            slab: warp::slab(gpus, sms)?,
            words: Words::new(config.computes),
            ctas: Vec::new(),
            streams: BTreeMap::new(),
            traffic: vec![(0, 0); gpus],
            kernels: BTreeMap::new(),
            entries: entries(),
            script: config.computes.then(Script::default),
            arena,
            trouble: None,
        })
    }

    /// What a launch takes (ps).
    pub fn launch(&self) -> u64 {
        self.rates.launch
    }

    /// The same kernel as it was compiled for this machine.
    pub fn twin(&self, entry: Entry) -> Entry {
        let twin = self.entries.iter().find(|twin| twin.name == entry.name);
        *twin.unwrap_or(&entry)
    }

    /// The host has written to memory.
    pub fn host_wrote(&mut self, addr: u64, bytes: u64) {
        self.words.host_wrote(addr, bytes);
    }

    /// Simulated nanoseconds so far.
    pub fn now_ns(&self) -> u64 {
        self.time / rates::NS
    }

    /// A turn for a warp's wait, at a time.
    fn turn_at(&mut self, at: u64, who: Waiter) {
        self.order += 1;
        self.turns.push(Reverse((at, self.order, who)));
        *self.horizon = (*self.horizon).min(at + SLACK);
    }

    /// The warp, if it is still at that wait.
    fn find(&self, (index, stamp): Waiter) -> Option<*mut Warp> {
        let (w, now) = self.warps[index as usize];
        (now == stamp && !w.is_null()).then_some(w)
    }

    /// What a waiting warp waited for happened: it goes on, at `at` at the earliest.
    fn wake(&mut self, who: Waiter, at: u64) {
        let Some(w) = self.find(who) else { return };
        // SAFETY: live, and suspended: nobody else refers to it.
        let w = unsafe { &mut *w };
        w.wait = Wait::Nothing;
        w.c.now = w.c.now.max(at);
        w.stamp += 1;
        self.warps[w.index as usize].1 = w.stamp;
        self.turn_at(w.c.now, w.waiter());
    }

    fn vote(&mut self, who: Waiter, result: u32) {
        if let Some(w) = self.find(who) {
            // SAFETY: as in `wake`.
            unsafe { (*w).result = result };
        }
    }
}
