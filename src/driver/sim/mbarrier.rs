//! mbarriers: arrivals and bytes that end phases, and what a phase passes on.
//!
//! A phase is over once its arrivals have come and the bytes expected of bulk copies are credited; the credit is signed,
//! for bytes may come before the arrival that expects them. `mbar_wait` looks at the parity of the running phase alone, so
//! a waiter that is two phases late waits for the wrong one, as on hardware.
//!
//! An arrival leaves what its thread knows (its release) with the running phase; the end of the phase freezes that into
//! one view, in which the mbarrier's own entry of the row says that everything loaded on the phase is there. Waiters join
//! it. Threads of equal knowledge do so by one join: the phase remembers for whom it has made which view.

use std::rc::Rc;

use super::clock::{View, join, raise};
use super::cta::Cta;
use super::fiber::{Fiber, Wait};
use super::gathered::{Arrival, Gathered};
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{self, CLOCK_MAX, GRANULE, HOST, MBARRIERS};

/// The most arrivals, or bytes either way, that a phase can count.
const MOST: i64 = (1 << 20) - 1;
/// Views that a phase remembers to have made.
const REMEMBERED: usize = 16;

pub(super) struct Mbarrier {
    pub addr: u32,
    pub count: u32,
    pub pending: u32,
    pub tx: i64,
    /// Phases over since the CTA began.
    pub phase: u32,
    /// The phase that ran when it was initialised last: parities count from here.
    first: u32,
    /// Who initialised it, as a tag, and when he fenced that, if he has.
    initialised: u64,
    fenced: Option<u64>,
    /// The newest phase that a load completed on.
    pub loaded: Option<u32>,
    gathered: Gathered,
    /// What the last phase that is over passes on.
    done: Option<Rc<View>>,
    /// What waiters knew before, and know with `done`.
    made: Vec<(Rc<View>, Rc<View>)>,
    waiting: Vec<u16>,
}

impl Mbarrier {
    /// The running phase, from 0 at its initialisation.
    pub fn running(&self) -> u32 {
        self.phase - self.first
    }

    /// The parity that the running phase will have when it is over.
    fn parity(&self) -> u32 {
        self.running() & 1
    }
}

impl Machine {
    /// The mbarrier at `addr` of a CTA: initialised, and its bytes not stored over since.
    fn mbarrier_at(cta: &Cta, addr: u32) -> Result<usize, Trouble> {
        let Some(index) = cta.units.mbarriers.iter().position(|b| b.addr == addr) else {
            Self::check_mbarrier_place(cta, addr)?;
            return Err(Trouble::NoMbarrier { addr });
        };
        let tag = cta.window.shadow[(addr / GRANULE as u32) as usize];
        if tag > HOST && tag & shadow::mask(u64::from(addr), 8) != 0 {
            return Err(Trouble::MbarrierOverwritten { addr, tag });
        }
        Ok(index)
    }

    fn check_mbarrier_place(cta: &Cta, addr: u32) -> Result<(), Trouble> {
        let (at, bytes) = (u64::from(addr), 8);
        // SAFETY: every CTA has a first thread; only read.
        let room = u64::from(unsafe { (*cta.fibers).me.shared_bytes });
        if at + bytes > room {
            return Err(Trouble::OutOfBounds {
                shared: true,
                addr: at,
                bytes,
                write: true,
            });
        }
        if !at.is_multiple_of(bytes) {
            return Err(Trouble::Misaligned {
                shared: true,
                addr: at,
                bytes,
            });
        }
        Ok(())
    }

    /// Whether `f` may use the mbarrier: initialised by itself, or fenced and known. Bulk copies see it only if fenced.
    fn check_initialised(b: &Mbarrier, cta: &Cta, f: &Fiber, bulk: bool) -> Result<(), Trouble> {
        let addr = b.addr;
        let w = shadow::writer(b.initialised);
        if !bulk && (w.slot, u32::from(w.who)) == (cta.slot, 2 * f.me.thread) {
            return Ok(());
        }
        match b.fenced {
            None => Err(Trouble::NoInitFence {
                addr,
                tag: b.initialised,
            }),
            Some(tag) if !Self::knows(cta, f, tag) => Err(Trouble::InitUnordered { addr, tag }),
            Some(_) => Ok(()),
        }
    }

    /// The mbarrier that a load of `f` completes on, in the CTA `of` of its cluster.
    pub fn mbarrier_of_load(of: &Cta, cta: &Cta, f: &Fiber, addr: u32) -> Result<usize, Trouble> {
        let index = Self::mbarrier_at(of, addr)?;
        Self::check_initialised(&of.units.mbarriers[index], cta, f, true)?;
        Ok(index)
    }

    pub fn mbarrier_init(&mut self, cta: &mut Cta, f: &Fiber, addr: u32, count: u32) -> Result<(), Trouble> {
        Self::check_mbarrier_place(cta, addr)?;
        if !(1..=MOST as u32).contains(&count) {
            return Err(Trouble::MbarrierCount { addr, count });
        }
        let granule = &mut cta.window.shadow[(addr / GRANULE as u32) as usize];
        if *granule > HOST {
            // What was written here before is gone; an ordinary store from now on destroys the mbarrier.
            *granule &= !shadow::mask(u64::from(addr), 8);
            if *granule & shadow::ALL_BYTES == 0 {
                *granule = shadow::UNWRITTEN;
            }
        }
        let room = (shadow::row_entries(cta.threads) - 2 * cta.threads as usize).min(MBARRIERS as usize);
        let list = &mut cta.units.mbarriers;
        let index = list.iter().position(|b| b.addr == addr).unwrap_or(list.len());
        if let Some(b) = list.get_mut(index) {
            if b.pending != b.count || b.tx != 0 || !b.waiting.is_empty() {
                return Err(Trouble::MbarrierInUse {
                    addr,
                    pending: b.pending,
                    count: b.count,
                    tx: b.tx,
                });
            }
            (b.count, b.pending, b.first) = (count, count, b.phase);
            (b.initialised, b.fenced) = (f.me.write_tag, None);
            return Ok(());
        }
        if index == room {
            return Err(Trouble::TooManyMbarriers {
                threads: cta.threads,
                room: room as u32,
            });
        }
        list.push(Mbarrier {
            addr,
            count,
            pending: count,
            tx: 0,
            phase: 0,
            first: 0,
            initialised: f.me.write_tag,
            fenced: None,
            loaded: None,
            gathered: Gathered::default(),
            done: None,
            made: Vec::new(),
            waiting: Vec::new(),
        });
        Ok(())
    }

    /// fence.mbarrier_init: those that this thread has initialised may be used by whoever is ordered behind.
    pub fn mbarrier_init_fence(&mut self, cta: &mut Cta, f: &mut Fiber) -> Result<(), Trouble> {
        for b in &mut cta.units.mbarriers {
            if b.fenced.is_none() && u32::from(shadow::writer(b.initialised).who) == 2 * f.me.thread {
                b.fenced = Some(f.me.write_tag);
            }
        }
        f.tick_checked()
    }

    /// An arrival of a thread of `cta` at `addr` of the CTA `of` of its cluster, or of its own, that expects bytes or none.
    ///
    /// # Safety
    /// Both are live CTAs, perhaps the same; no reference to either or to a fiber of theirs is live.
    pub unsafe fn mbarrier_arrive(
        &mut self,
        of: *mut Cta,
        cta: *mut Cta,
        thread: u32,
        addr: u32,
        expect: i64,
    ) -> Result<(), Trouble> {
        // SAFETY: the running fiber and the CTAs are only read here; the references end with the block.
        let (index, arrival) = unsafe {
            let (f, cta, of) = (&*(*cta).fibers.add(thread as usize), &*cta, &*of);
            let index = Self::mbarrier_at(of, addr)?;
            Self::check_initialised(&of.units.mbarriers[index], cta, f, false)?;
            let arrival = Arrival {
                slot: cta.slot,
                start: cta.start,
                thread: thread as usize,
                clock: f.clock(),
                group: f.me.async_known,
                view: Rc::clone(f.view.as_ref().unwrap_or(&cta.view)),
            };
            (index, arrival)
        };
        // SAFETY: as above, one after the other.
        unsafe { (*cta).fiber(thread) }.tick_checked()?;
        // SAFETY: as above.
        let of = unsafe { &mut *of };
        let b = &mut of.units.mbarriers[index];
        if b.pending == 0 {
            return Err(Trouble::OverArrival {
                addr,
                phase: b.phase - b.first,
                count: b.count,
                tx: b.tx,
            });
        }
        b.gathered.add(&arrival);
        b.pending -= 1;
        self.credit(of, index, expect)
    }

    /// Adds to the bytes that a phase still expects, and ends it if that was all. Returns whether it did not overflow.
    pub fn credit(&mut self, cta: &mut Cta, index: usize, bytes: i64) -> Result<(), Trouble> {
        let (slot, start, entry) = (cta.slot, cta.start, 2 * cta.threads as usize + index);
        let b = &mut cta.units.mbarriers[index];
        b.tx += bytes;
        if b.tx.abs() > MOST {
            return Err(Trouble::TxOverflow {
                addr: b.addr,
                tx: b.tx,
                phase: b.phase - b.first,
            });
        }
        if b.pending != 0 || b.tx != 0 {
            return Ok(());
        }
        let clock = start + b.phase;
        if clock > CLOCK_MAX - 8 {
            return Err(Trouble::ClocksRanOut);
        }
        let mut view = b.gathered.view(slot, start, &cta.units.initial);
        view.own[entry] = clock;
        b.done = Some(Rc::new(view));
        b.made.clear();
        b.phase += 1;
        b.pending = b.count;
        self.fruitless = 0;
        for thread in std::mem::take(&mut b.waiting) {
            // SAFETY: a waiting thread of this CTA, so not the running one; one is borrowed at a time.
            let f = unsafe { cta.fiber(u32::from(thread)) };
            cta.wake(f);
        }
        self.activate(cta);
        Ok(())
    }

    /// Whether the phase of `parity` is not over, so that the fiber must wait and ask again. If it is, the fiber joins it.
    pub fn mbarrier_wait(
        &mut self,
        cta: &mut Cta,
        f: &mut Fiber,
        addr: u32,
        parity: u32,
        site: u32,
    ) -> Result<bool, Trouble> {
        if self.faults.ignores(site) {
            return Ok(false);
        }
        let index = Self::mbarrier_at(cta, addr)?;
        Self::check_initialised(&cta.units.mbarriers[index], cta, f, false)?;
        if parity > 1 {
            return Err(Trouble::BadParity { addr, parity });
        }
        let b = &mut cta.units.mbarriers[index];
        let wanted = parity ^ u32::from(self.faults.wrong_phase(site));
        if b.parity() == wanted {
            b.waiting.push(f.me.thread as u16);
            f.wait = Wait::Mbarrier {
                addr,
                parity: wanted,
                site,
            };
            return Ok(true);
        }
        if let Some(done) = &b.done {
            let before = f.view.as_ref().unwrap_or(&cta.view);
            let after = match b.made.iter().find(|(known, _)| Rc::ptr_eq(known, before)) {
                Some((_, after)) => after.clone(),
                None => {
                    let mut view = (**before).clone();
                    raise(&mut view.own, &done.own);
                    join(&mut view.others, &done.others, &mut Vec::new());
                    let after = Rc::new(view);
                    if b.made.len() < REMEMBERED {
                        b.made.push((before.clone(), after.clone()));
                    }
                    after
                }
            };
            f.me.row = after.own.as_ptr();
            f.view = Some(after);
        }
        Ok(false)
    }

    /// With all threads gone: what nobody waited for, though it was loaded into the CTA's memory.
    pub fn check_loads_waited(cta: &Cta) -> Result<(), Trouble> {
        for (i, b) in cta.units.mbarriers.iter().enumerate() {
            let Some(phase) = b.loaded else { continue };
            let knows = |view: &View| view.own[2 * cta.threads as usize + i] >= cta.start + phase;
            // SAFETY: all threads have left; their fibers are only read.
            let fiber_knows = |t| unsafe { (*cta.fibers.add(t as usize)).view.as_deref() }.is_some_and(knows);
            if !knows(&cta.view) && !(0..cta.threads).any(fiber_knows) {
                return Err(Trouble::LoadUnwaited {
                    addr: b.addr,
                    phase: phase - b.first.min(phase),
                });
            }
        }
        Ok(())
    }
}
