//! What orders: releases and acquires on words, atomics, polls, packets and parking.
//!
//! A release carries a [`Snapshot`] of what its thread knows. It stays with the word ([`Published`]) until another store
//! replaces it; an acquire that reads the published value joins it, if the scopes of both reach each other, and stores to
//! the acquirer's memory that the snapshot covers arrive with it. Read-modify-writes continue a release sequence.

use std::cmp::Reverse;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::clock::{Row, Rows, Scope, Snapshot, View, join, join_one, raise};
use super::cta::Cta;
use super::fiber::{Fiber, NO_PAYLOAD, NO_SITE, Polled, Wait};
use super::machine::Machine;
use super::pending::{Kind, Store};
use super::report::Trouble;
use super::shadow;

/// The releases that an acquire of a word's present value reads from.
#[derive(Debug, Clone)]
pub(super) struct Published {
    value: u64,
    snapshots: Vec<Rc<Snapshot>>,
}

/// Polls in a row after which a thread gives way without being asked.
const POLLS_IN_A_ROW: u32 = 32;

impl Machine {
    pub fn read_word(addr: u64) -> u64 {
        // SAFETY: callers have checked alignment and allocation; whoever shares the word writes it atomically.
        unsafe { AtomicU64::from_ptr(addr as *mut u64) }.load(Ordering::Relaxed)
    }

    /// What a release by this thread publishes, and its tick.
    fn snapshot(&self, cta: &Cta, f: &mut Fiber, scope: Scope, site: u32) -> Rc<Snapshot> {
        let early = self.faults.early(site);
        let view = match (early, &cta.previous) {
            (true, Some(previous)) => previous.clone(),
            _ => f.view.as_ref().unwrap_or(&cta.view).clone(),
        };
        let newer = (!early).then(|| (f.me.thread, f.clock(), f.me.async_known));
        let from = (cta.device, scope);
        let snapshot = Snapshot::new(from, (cta.slot, cta.start), view, newer);
        f.tick();
        Rc::new(snapshot)
    }

    /// Joins what the word's releases publish, if its present value is theirs.
    fn acquire(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, value: u64, scope: Scope) {
        // What another process wrote before the word is read after it.
        fence(Ordering::Acquire);
        if scope == Scope::Sys
            && let Some(told) = self.told(addr)
        {
            self.learn(cta, f, &told, (cta.slot, true), told.get(cta.slot));
        }
        let Some(published) = self.published.get(&addr).filter(|p| p.value == value) else {
            return;
        };
        for snapshot in published.snapshots.clone() {
            if snapshot.reaches(cta.device, scope) {
                self.join(cta, f, &snapshot);
            }
        }
    }

    fn join(&mut self, cta: &Cta, f: &mut Fiber, s: &Snapshot) {
        let here = s.slot == cta.slot && s.start == cta.start;
        self.learn(cta, f, &s.view.others, (s.slot, here), Some(s.row()));
    }

    /// The thread knows `rows` from here on, and the row of `slot`: where that is `here`, its own CTA's.
    fn learn(&mut self, cta: &Cta, f: &mut Fiber, rows: &Rc<Rows>, (slot, here): (u16, bool), row: Option<&Row>) {
        let mut view: View = (**f.view.as_ref().unwrap_or(&cta.view)).clone();
        let mut gained = Vec::new();
        join(&mut view.others, rows, &mut gained);
        match row {
            Some(row) if here => {
                raise(&mut view.own, row);
                gained.push(slot);
            }
            Some(row) if join_one(&mut view.others, slot, row) => gained.push(slot),
            _ => {}
        }
        f.me.row = view.own.as_ptr();
        f.view = Some(Rc::new(view));
        // Stores to this device's memory that the thread now knows of have happened for it.
        for slot in gained {
            let covered = self
                .pending
                .of_slot(slot, |p| p.owner == cta.device && Self::knows(cta, f, p.tag));
            for id in covered {
                self.deliver(id);
            }
        }
    }

    /// A store has reached memory: what its word publishes from now on.
    pub fn publish(&mut self, store: &Store) {
        match &store.kind {
            Kind::Weak => {}
            Kind::Relaxed => {
                self.published.remove(&store.addr);
            }
            Kind::Release(snapshot) => {
                let value = u64::from_le_bytes(std::array::from_fn(|i| store.data[i]));
                self.published.insert(
                    store.addr,
                    Published {
                        value,
                        snapshots: vec![snapshot.clone()],
                    },
                );
            }
        }
    }

    /// st.relaxed.sys and st.release.sys.
    pub fn store_word(
        &mut self,
        cta: &Cta,
        f: &mut Fiber,
        addr: u64,
        value: u64,
        release: Option<u32>,
    ) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, 8, true)?;
        let release = release.filter(|site| !self.faults.ignores(*site));
        let tag = f.me.write_tag;
        let kind = match release {
            Some(site) => Kind::Release(self.snapshot(cta, f, Scope::Sys, site)),
            None => Kind::Relaxed,
        };
        let device = usize::from(cta.device);
        if owner != device {
            self.devices[device].traffic.1 += 1;
            f.me.payload = NO_PAYLOAD;
            self.cross(device, owner);
            if self.faults.drops(device, owner) {
                return Ok(());
            }
        }
        self.pending.add(addr, &value.to_le_bytes(), kind, tag, owner as u16);
        if (owner == device || release.is_some_and(|site| self.faults.early(site)))
            && let Some(id) = self.pending.newest_known(addr, 8, |s| s.tag == tag)
        {
            self.deliver(id);
        }
        Ok(())
    }

    /// A relaxed load of a word for whatever purpose: initialised, and perhaps something arrives just now.
    fn look(&mut self, cta: &Cta, f: &Fiber, addr: u64, bytes: u64) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, bytes, false)?;
        if owner != usize::from(cta.device) {
            self.cross(cta.device.into(), owner);
            while let Some(id) = self.pending.newest_known(addr, bytes, |s| Self::knows(cta, f, s.tag)) {
                self.deliver(id);
            }
        }
        let one_in = self.character.poll_one_in;
        for word in (addr..addr + bytes).step_by(8) {
            if let Some(id) = self.pending.oldest_on(word)
                && self.pending.get(id).is_some_and(|s| !matches!(s.kind, Kind::Weak))
                && self.rng.one_in(one_in)
            {
                self.deliver(id);
            }
        }
        // SAFETY: `check_place` has found the granule allocated.
        match unsafe { *self.layout.shadow(addr) } {
            shadow::UNWRITTEN => Err(Trouble::Uninitialised {
                shared: false,
                addr,
                bytes,
            }),
            _ => Ok(()),
        }
    }

    fn note_poll(f: &mut Fiber, addr: u64, want: u64, site: u32) -> u64 {
        let seen = Self::read_word(addr);
        f.polls += 1;
        match f.polled.iter_mut().find(|p| p.addr == addr) {
            // The first look counts: a thread that decided to wait by it must not sleep over what a later look saw.
            Some(p) => (p.want, p.site) = (want, site),
            None => f.polled.push(Polled { addr, seen, want, site }),
        }
        seen
    }

    /// True where a polling thread should give way first: a loop without `pause` must not stop the others.
    pub fn polls_too_long(&mut self, f: &mut Fiber) -> bool {
        if f.polls < POLLS_IN_A_ROW {
            return false;
        }
        f.polls = 0;
        self.fruitless += 1;
        true
    }

    pub fn poll(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, want: u64, site: u32) -> Result<u64, Trouble> {
        if site != NO_SITE && self.faults.ignores(site) {
            return Ok(want);
        }
        self.look(cta, f, addr, 8)?;
        Ok(Self::note_poll(f, addr, want, site))
    }

    pub fn load_acquire(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, site: u32) -> Result<u64, Trouble> {
        self.look(cta, f, addr, 8)?;
        let value = Self::note_poll(f, addr, 0, site);
        if !self.faults.ignores(site) {
            self.acquire(cta, f, addr, value, Scope::Sys);
        }
        Ok(value)
    }

    /// A read-modify-write of the u32 at `addr`: `put` gives the new value for the old one, or none to leave it.
    pub fn atomic(
        &mut self,
        cta: &Cta,
        f: &mut Fiber,
        addr: u64,
        site: u32,
        put: impl Fn(u32) -> Option<u32>,
    ) -> Result<u32, Trouble> {
        self.atomic_ready(cta, f, addr, 4)?;
        let word = addr / 8 * 8;
        // SAFETY: aligned and allocated: `atomic_ready` has checked both.
        let place = unsafe { AtomicU32::from_ptr(addr as *mut u32) };
        let (Ok(old) | Err(old)) = place.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &put);
        let shift = 8 * (addr - word);
        let with = |part: u32, word: u64| word & !(u64::from(u32::MAX) << shift) | u64::from(part) << shift;
        let after = Self::read_word(word);
        let before = with(old, after);
        let ordered = !self.faults.ignores(site);
        if ordered {
            self.acquire(cta, f, word, before, Scope::Gpu);
        }
        if let Some(new) = put(old) {
            let tag = f.me.write_tag;
            let snapshot = ordered.then(|| self.snapshot(cta, f, Scope::Gpu, site));
            self.mark(addr, 4, tag);
            self.touched(addr, 4);
            self.continue_sequence(word, before, with(new, after), snapshot);
        }
        Ok(old)
    }

    /// red.add and red.max.relaxed.gpu.u64, atom.add.relaxed.sys.u64: relaxed, so their scopes make no difference here.
    pub fn change_relaxed(
        &mut self,
        cta: &Cta,
        f: &mut Fiber,
        addr: u64,
        put: impl Fn(u64) -> u64,
    ) -> Result<u64, Trouble> {
        self.atomic_ready(cta, f, addr, 8)?;
        // SAFETY: aligned and allocated: `atomic_ready` has checked both.
        let place = unsafe { AtomicU64::from_ptr(addr as *mut u64) };
        let (Ok(before) | Err(before)) = place.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |b| Some(put(b)));
        self.mark(addr, 8, f.me.write_tag);
        self.touched(addr, 8);
        self.continue_sequence(addr, before, put(before), None);
        Ok(before)
    }

    /// Checks an atomic's place and lets what is on its way there arrive: it works on the newest value.
    fn atomic_ready(&mut self, cta: &Cta, f: &Fiber, addr: u64, bytes: u64) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, bytes, true)?;
        if owner != usize::from(cta.device) {
            self.cross(cta.device.into(), owner);
            while let Some(id) = self.pending.oldest_on(addr) {
                self.deliver(id);
            }
        }
        // SAFETY: `check_place` has found the granule allocated.
        match unsafe { *self.layout.shadow(addr) } {
            shadow::UNWRITTEN => Err(Trouble::Uninitialised {
                shared: false,
                addr,
                bytes,
            }),
            _ => Ok(()),
        }
    }

    /// The word at `word` was changed from `before` to `value` by a read-modify-write, releasing or not.
    fn continue_sequence(&mut self, word: u64, before: u64, value: u64, release: Option<Rc<Snapshot>>) {
        let mut snapshots = match self.published.remove(&word) {
            Some(p) if p.value == before => p.snapshots,
            _ => Vec::new(),
        };
        if let Some(snapshot) = release {
            // This thread has acquired what it could reach, so its own snapshot covers that.
            snapshots.retain(|s| !s.reaches(snapshot.device, snapshot.scope));
            snapshots.push(snapshot);
        }
        if !snapshots.is_empty() {
            self.published.insert(word, Published { value, snapshots });
        }
    }

    /// Both halves of a packet.
    pub fn load_packet(
        &mut self,
        cta: &Cta,
        f: &mut Fiber,
        addr: u64,
        tag: u32,
        site: u32,
    ) -> Result<[u32; 4], Trouble> {
        if !addr.is_multiple_of(16) {
            return Err(Trouble::Misaligned {
                shared: false,
                addr,
                bytes: 16,
            });
        }
        self.look(cta, f, addr, 16)?;
        let mut x = [0; 4];
        for half in 0..2 {
            let want = u64::from(tag) << 32;
            let seen = Self::note_poll(f, addr + 8 * half as u64, want, site);
            (x[2 * half], x[2 * half + 1]) = (seen as u32, (seen >> 32) as u32);
        }
        if site != NO_SITE && self.faults.ignores(site) {
            (x[1], x[3]) = (tag, tag);
        }
        Ok(x)
    }

    pub fn store_packet(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, mut data: [u32; 4]) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, 16, true)?;
        let device = usize::from(cta.device);
        if owner != device {
            let payload = std::mem::replace(&mut f.me.payload, NO_PAYLOAD);
            self.devices[device].traffic.0 += if payload == NO_PAYLOAD { 8 } else { u64::from(payload) };
            if self.faults.drops(device, owner) {
                return Ok(());
            }
            // Its data may change, its tags not.
            let mut payload = u64::from(data[0]) | u64::from(data[2]) << 32;
            let mut bytes = payload.to_le_bytes();
            self.cross_with(device, owner, &mut bytes);
            payload = u64::from_le_bytes(bytes);
            (data[0], data[2]) = (payload as u32, (payload >> 32) as u32);
        }
        for half in 0..2 {
            let at = addr + 8 * half as u64;
            let word = u64::from(data[2 * half]) | u64::from(data[2 * half + 1]) << 32;
            if owner == device {
                self.published.remove(&at);
                self.write_word(at, word, f.me.write_tag);
            } else {
                self.pending
                    .add(at, &word.to_le_bytes(), Kind::Relaxed, f.me.write_tag, owner as u16);
            }
        }
        Ok(())
    }

    /// `pause`: parks the fiber until a polled word changes or the time comes. False where it should only give way.
    pub fn park(&mut self, f: &mut Fiber, until: u64) -> bool {
        f.polls = 0;
        if self.now >= until || f.polled.iter().any(|p| Self::read_word(p.addr) != p.seen) {
            self.fruitless += 1;
            f.polled.clear();
            return false;
        }
        let id = Self::id_of(f);
        for p in &f.polled {
            let word = p.addr / 8;
            if !f.watched.contains(&word) {
                f.watched.push(word);
                self.watch.entry(word).or_default().push(id);
            }
        }
        self.parkings += 1;
        f.parking = self.parkings;
        f.wait = Wait::Parked { until };
        if until != u64::MAX {
            self.parked.push(Reverse((until, f.parking, id)));
        }
        true
    }

    /// Wakes parked fibers whose time has come.
    pub fn wake_due(&mut self) {
        while let Some(Reverse((until, parking, id))) = self.parked.peek().copied() {
            let fiber = self.still_parked(parking, id);
            if fiber.is_some() && until > self.now {
                return;
            }
            self.parked.pop();
            if let Some(f) = fiber {
                // SAFETY: live and parked, so not running.
                self.wake(unsafe { &mut *f });
            }
        }
    }

    fn still_parked(&self, parking: u64, id: super::machine::FiberId) -> Option<*mut Fiber> {
        let f = self.find(id)?;
        // SAFETY: live.
        let (wait, now) = unsafe { ((*f).wait, (*f).parking) };
        (now == parking && matches!(wait, Wait::Parked { .. })).then_some(f)
    }

    /// When the next `pause` ends, if there is one.
    pub fn next_deadline(&mut self) -> Option<u64> {
        while let Some(Reverse((until, parking, id))) = self.parked.peek().copied() {
            if self.still_parked(parking, id).is_some() {
                return Some(until);
            }
            self.parked.pop();
        }
        None
    }

    /// With nothing left to run: goes to the time of the next `pause`, if there is one.
    pub fn jump_to_next(&mut self) -> bool {
        let Some(until) = self.next_deadline() else {
            return false;
        };
        self.now = self.now.max(until);
        self.wake_due();
        true
    }
}
