//! The state of the simulated node, owned by the executor's thread: devices and their SMs, running CTAs, streams, stores
//! on their way, words that publish, fibers that watch. Other files add what happens to it, one idea each.
//!
//! Fibers and CTAs are reached by raw pointers. The executor holds no reference into the machine while a fiber runs, and
//! a callback none while its fiber is suspended; in between each of them has the machine to itself, since all of it
//! happens on one OS thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use super::arena::{Arena, Layout};
use super::character::{Character, Faults};
use super::clock::Rows;
use super::config::SimConfig;
use super::cta::{Cta, Window};
use super::fiber::{Fiber, Wait};
use super::foreign::Foreign;
use super::launch::Kernel;
use super::link::Links;
use super::operands::Tensor;
use super::pending::Pending;
use super::report::Trouble;
use super::rng::{AddressMap, Rng};
use super::shadow::MAX_SLOTS;
use super::stack::Slab;
use super::stream::{StreamKey, StreamState};
use super::switch::Aliases;
use super::sync::Published;
use super::timed::Timed;
use super::tma::Load;
use super::warp::Batch;
use crate::error::Result;

/// What an SM of an H100 has.
pub(super) const SM_THREADS: u32 = 2048;
pub(super) const SM_CTAS: u32 = 32;
pub(super) const SM_SHARED: u32 = 228 << 10;
pub(super) const CTA_SHARED: u32 = 227 << 10;
/// Shared memory that the system takes of every CTA.
pub(super) const CTA_RESERVED: u32 = 1 << 10;

/// Clocks start here, above any number of groups that a cp.async wait may leave open.
pub(super) const FIRST_CLOCK: u32 = 64;

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sm {
    pub threads: u32,
    pub shared: u32,
    pub ctas: u32,
    /// In units of 1 / 32: a kernel that declares n CTAs per SM takes 32 / n registers' worth each.
    pub registers: u32,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    pub sms: Vec<Sm>,
    /// Payload bytes and signal words that left for peers.
    pub traffic: (u64, u64),
    pub slowness: u32,
}

/// A place in the clocks for one CTA at a time.
#[derive(Debug)]
pub(super) struct Slot {
    pub cta: *mut Cta,
    /// First clock of the next occupant.
    pub clock: u32,
    /// Recent occupants, for reports: first clock, kernel, device, block.
    pub history: Vec<(u32, &'static str, u16, u32)>,
}

/// A fiber by name: the pointer only while the CTA lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FiberId {
    pub slot: u16,
    pub start: u32,
    pub thread: u32,
}

pub(super) struct Machine {
    /// The pointer that fibers reach the machine by: the one it is owned through, not one of a passing borrow.
    pub me: *mut Machine,
    pub layout: Layout,
    pub arena: Arc<Arena>,
    pub character: Character,
    pub faults: Faults,
    pub links: Links,
    pub rng: Rng,
    /// Simulated nanoseconds.
    pub now: u64,
    pub digest: u64,
    pub devices: Vec<Device>,
    pub slots: Vec<Slot>,
    pub free_slots: BTreeSet<u16>,
    /// Slots whose clocks have come far: unused until all clocks start anew.
    pub old_slots: Vec<u16>,
    pub kernels: BTreeMap<u64, Kernel>,
    pub next_kernel: u64,
    pub streams: BTreeMap<StreamKey, StreamState>,
    /// The last record of each event that happened, what it knew, and when.
    pub events: BTreeMap<usize, (u64, Rc<Rows>, u64)>,
    /// CTAs with a ready fiber.
    pub active: Vec<*mut Cta>,
    pub pending: Pending,
    pub aliases: Aliases,
    /// Some device has read another's memory by a weak load.
    pub guarded: bool,
    pub published: AddressMap<Published>,
    /// By word, who parked on it.
    pub watch: AddressMap<Vec<FiberId>>,
    /// Words that changed, and who watched them.
    pub stirred: Vec<(u64, Vec<FiberId>)>,
    /// Parked fibers by deadline; entries of fibers that woke before are stale.
    pub parked: BinaryHeap<Reverse<(u64, u64, FiberId)>>,
    pub parkings: u64,
    /// What the host has synchronised with.
    pub host: Rc<Rows>,
    pub foreign: Foreign,
    pub trouble: Option<(Trouble, *mut Fiber)>,
    pub slab: Slab,
    pub windows: Vec<Window>,
    pub batch: Batch,
    pub tensor: Tensor,
    /// TMA loads that have not run, and how many bulk copies there have been.
    pub loads: Vec<Load>,
    pub bulk_copies: u64,
    /// Streams may be able to do something.
    pub streams_stir: bool,
    /// Stream positions that blocked callers wait for.
    pub targets: Vec<(StreamKey, u64)>,
    /// One of them was reached.
    pub satisfied: bool,
    /// Turns given away by polling threads since anything else happened.
    pub fruitless: u64,
    pub bursts: u64,
    pub threads_live: u32,
    pub threads_room: u32,
    /// Of a node with a clock, which runs every kernel first, or alone.
    pub timed: Option<Box<Timed>>,
    /// Kernels are computed.
    pub computes: bool,
    /// Who waits for the clock.
    pub following: Vec<FiberId>,
}

impl Machine {
    pub fn new(config: &SimConfig, arena: Arc<Arena>) -> Result<Machine> {
        let mut rng = Rng::new(config.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x51a7);
        let character = Character::draw(config, &mut rng);
        let faults = Faults::new(&config.faults);
        let timed = match &config.clock {
            Some(node) => Some(Box::new(Timed::new(node, config, arena.clone())?)),
            None => None,
        };
        let threads_room = config.gpus as u32 * config.sms * SM_THREADS;
        let devices = (0..config.gpus)
            .map(|d| Device {
                sms: vec![Sm::default(); config.sms as usize],
                traffic: (0, 0),
                slowness: faults.slowness(d),
            })
            .collect();
        Ok(Machine {
            me: std::ptr::null_mut(),
            layout: arena.layout,
            foreign: Foreign::new(arena.outside.clone(), config.patience),
            arena,
            character,
            faults,
            links: Links::new(config),
            rng,
            now: 1_000,
            digest: 0,
            devices,
            slots: vec![Slot {
                cta: std::ptr::null_mut(),
                clock: 0,
                history: Vec::new(),
            }],
            free_slots: BTreeSet::new(),
            old_slots: Vec::new(),
            kernels: BTreeMap::new(),
            next_kernel: 1,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            active: Vec::new(),
            pending: Pending::default(),
            aliases: Aliases::default(),
            guarded: false,
            published: AddressMap::default(),
            watch: AddressMap::default(),
            stirred: Vec::new(),
            parked: BinaryHeap::new(),
            parkings: 0,
            host: Rc::default(),
            trouble: None,
            slab: Slab::new(threads_room as usize)?,
            windows: Vec::new(),
            batch: Batch::new(),
            tensor: Tensor::new(),
            loads: Vec::new(),
            bulk_copies: 0,
            streams_stir: false,
            targets: Vec::new(),
            satisfied: false,
            fruitless: 0,
            bursts: 0,
            threads_live: 0,
            threads_room,
            timed,
            computes: config.computes,
            following: Vec::new(),
        })
    }

    pub fn plant(&mut self, faults: Faults) {
        for (d, device) in self.devices.iter_mut().enumerate() {
            device.slowness = faults.slowness(d);
        }
        self.faults = faults;
        for slot in &self.slots {
            if slot.cta.is_null() {
                continue;
            }
            // SAFETY: a slot's CTA is live, and no fiber runs while the executor plants faults.
            let cta = unsafe { &mut *slot.cta };
            for i in 0..cta.threads {
                // SAFETY: one fiber at a time.
                unsafe { cta.fiber(i) }.me.careful = u32::from(self.faults.any_site());
            }
        }
    }

    /// A free slot of the clocks, the lowest; none while all are taken.
    pub fn take_slot(&mut self) -> Option<u16> {
        if let Some(slot) = self.free_slots.pop_first() {
            return Some(slot);
        }
        if self.slots.len() > MAX_SLOTS {
            return None;
        }
        self.slots.push(Slot {
            cta: std::ptr::null_mut(),
            clock: 16,
            history: Vec::new(),
        });
        Some(self.slots.len() as u16 - 1)
    }

    pub fn id_of(f: &Fiber) -> FiberId {
        // SAFETY: a fiber's CTA outlives it, and its slot and first clock never change.
        let (slot, start) = unsafe { ((*f.cta).slot, (*f.cta).start) };
        FiberId {
            slot,
            start,
            thread: f.me.thread,
        }
    }

    pub fn id_of_parts(cta: &Cta, f: &Fiber) -> FiberId {
        FiberId {
            slot: cta.slot,
            start: cta.start,
            thread: f.me.thread,
        }
    }

    /// The fiber, if it still exists.
    pub fn find(&self, id: FiberId) -> Option<*mut Fiber> {
        let cta = self.slots.get(usize::from(id.slot))?.cta;
        if cta.is_null() {
            return None;
        }
        // SAFETY: a slot's CTA is live.
        let cta = unsafe { &*cta };
        // SAFETY: the thread is one of the CTA's.
        (cta.start == id.start && id.thread < cta.threads).then(|| unsafe { cta.fibers.add(id.thread as usize) })
    }

    /// Makes a CTA with ready fibers one that the scheduler sees.
    pub fn activate(&mut self, cta: &mut Cta) {
        if cta.active.is_none() && !cta.ready.is_empty() {
            cta.active = Some(self.active.len() as u32);
            self.active.push(self.slots[usize::from(cta.slot)].cta);
        }
    }

    pub fn deactivate(&mut self, cta: &mut Cta) {
        let Some(at) = cta.active.take() else { return };
        self.active.swap_remove(at as usize);
        if let Some(moved) = self.active.get(at as usize) {
            // SAFETY: active CTAs are live, and `moved` is another one than `cta`.
            unsafe { (**moved).active = Some(at) };
        }
    }

    /// Words in `bytes` at `addr` changed: whoever parked on one of them will look again. Only noted here, for a callback
    /// may hold references to fibers.
    pub fn touched(&mut self, addr: u64, bytes: u64) {
        if self.watch.is_empty() {
            return;
        }
        let words = addr / 8..=(addr + bytes - 1) / 8;
        if bytes <= 64 {
            for word in words {
                if let Some(list) = self.watch.remove(&word) {
                    self.stirred.push((word, list));
                }
            }
            return;
        }
        let mut hit: Vec<u64> = self.watch.keys().filter(|w| words.contains(w)).copied().collect();
        hit.sort_unstable();
        for word in hit {
            if let Some(list) = self.watch.remove(&word) {
                self.stirred.push((word, list));
            }
        }
    }

    /// Wakes the watchers of words that changed. Called between turns.
    pub fn wake_stirred(&mut self) {
        while let Some((word, list)) = self.stirred.pop() {
            for id in list {
                let Some(f) = self.find(id) else { continue };
                // SAFETY: live; between turns nobody holds a reference to a fiber.
                let f = unsafe { &mut *f };
                f.watched.retain(|w| *w != word);
                if matches!(f.wait, Wait::Parked { .. }) && f.polled.iter().any(|p| p.addr / 8 == word) {
                    self.wake(f);
                }
            }
        }
    }

    /// Makes a waiting fiber ready. Called between turns.
    pub fn wake(&mut self, f: &mut Fiber) {
        // SAFETY: a fiber's CTA outlives it; between turns nobody else holds a reference to it.
        let cta = unsafe { &mut *f.cta };
        cta.wake(f);
        self.activate(cta);
    }
}
