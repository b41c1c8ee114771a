//! Accesses through the switch: loads that add up the memory of every member of a team, stores that go to all, and the
//! fence between such accesses and ordinary ones.
//!
//! A multicast address is another name of memory that its owners know by their own. PTX orders accesses by different
//! names ("virtual aliases") only where a `fence.proxy.alias` stands on the path of causality from one to the other. So a
//! load through the switch must find every member's bytes written, ordered before it, and fenced: some thread that knew
//! of the write has fenced, and the loading thread knows of that fence. What was stored through the switch is fenced likewise
//! before an ordinary load. Of fences, those of the writer's CTA and of the reader's are looked at; the start of a kernel
//! is one for all that is known there. An overwrite of what was read by another name is checked for order, not for fences.

use std::collections::VecDeque;
use std::rc::Rc;

use super::clock::View;
use super::cta::Cta;
use super::fiber::{Fiber, NO_PAYLOAD};
use super::machine::Machine;
use super::multicast::{Members, NoTeam};
use super::pending::Kind;
use super::report::Trouble;
use super::rng::AddressMap;
use super::shadow::{self, ALL_BYTES, GRANULE, HOST};

/// A `fence_alias`: who executed it when, and what that thread knew.
#[derive(Debug)]
struct Fence {
    thread: u32,
    /// First clock of its CTA.
    start: u32,
    clock: u32,
    copies: u32,
    view: Rc<View>,
}

impl Fence {
    /// Whether the thread knew what `tag` names, its CTA being in `slot`.
    fn covers(&self, slot: u16, tag: u64) -> bool {
        let w = shadow::writer(tag);
        if w.slot != slot || w.clock < self.start {
            return self.view.others.knows(w.slot, w.who, w.clock);
        }
        match (u32::from(w.who) / 2 == self.thread, w.who & 1) {
            (true, 0) => w.clock <= self.clock,
            (true, _) if w.clock <= self.copies => true,
            _ => self.view.own.get(usize::from(w.who)).is_some_and(|c| *c >= w.clock),
        }
    }
}

/// Fences of a slot that are remembered: those of several operations.
const REMEMBERED: usize = 4096;

/// What the machine knows of aliases.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// By slot, the newest last.
    fences: Vec<VecDeque<Fence>>,
    /// By granule, the writer of what was stored through the switch; current while the shadow names the same.
    stored: AddressMap<u64>,
}

impl Aliases {
    pub fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Aliases::default();
    }

    fn stored_by_switch(&self, addr: u64, tag: u64) -> bool {
        !self.is_empty()
            && self
                .stored
                .get(&(addr / GRANULE))
                .is_some_and(|by| *by == tag & !ALL_BYTES)
    }

    /// Whether `f`, which knows what `tag` names, also knows of a fence behind it.
    fn fenced(&self, cta: &Cta, f: &Fiber, tag: u64) -> bool {
        let w = shadow::writer(tag);
        let here = w.slot == cta.slot && w.clock >= cta.start;
        if !here && cta.units.initial.others.knows(w.slot, w.who, w.clock) {
            return true;
        }
        let of = |slot: u16| self.fences.get(usize::from(slot)).into_iter().flatten().rev();
        let own = of(cta.slot).filter(|fence| {
            let view = f.view.as_deref().unwrap_or(&cta.view);
            let mine = fence.thread == f.me.thread;
            fence.start == cta.start
                && (mine
                    || view
                        .own
                        .get(2 * fence.thread as usize)
                        .is_some_and(|c| *c >= fence.clock))
        });
        if own.into_iter().any(|fence| fence.covers(cta.slot, tag)) {
            return true;
        }
        let known = |fence: &&Fence| {
            let view = f.view.as_deref().unwrap_or(&cta.view);
            view.others.knows(w.slot, 2 * fence.thread as u16, fence.clock)
        };
        !here && of(w.slot).filter(known).any(|fence| fence.covers(w.slot, tag))
    }
}

impl Machine {
    pub fn fence_alias(&mut self, cta: &Cta, f: &mut Fiber, site: u32) -> Result<(), Trouble> {
        if self.faults.ignores(site) {
            return Ok(());
        }
        let fence = Fence {
            thread: f.me.thread,
            start: cta.start,
            clock: f.clock(),
            copies: f.me.async_known,
            view: Rc::clone(f.view.as_ref().unwrap_or(&cta.view)),
        };
        let slot = usize::from(cta.slot);
        if self.aliases.fences.len() <= slot {
            self.aliases.fences.resize_with(slot + 1, VecDeque::new);
        }
        let log = &mut self.aliases.fences[slot];
        if log.len() == REMEMBERED {
            log.pop_front();
        }
        log.push_back(fence);
        f.tick_checked()
    }

    /// An ordinary load of what the switch stored needs a fence in between.
    pub fn check_alias(&self, cta: &Cta, f: &Fiber, addr: u64) -> Result<(), Trouble> {
        // SAFETY: the caller has found the granule allocated.
        let tag = unsafe { *self.layout.shadow(addr) };
        if tag > HOST && self.aliases.stored_by_switch(addr, tag) && !self.aliases.fenced(cta, f, tag) {
            return Err(Trouble::NoAliasFence { addr, tag });
        }
        Ok(())
    }

    fn members(&self, cta: &Cta, addr: u64, write: bool) -> Result<Members, Trouble> {
        if !addr.is_multiple_of(GRANULE) {
            return Err(Trouble::Misaligned {
                shared: false,
                addr,
                bytes: GRANULE,
            });
        }
        self.arena
            .members(addr, GRANULE, usize::from(cta.device))
            .map_err(|why| match why {
                NoTeam::Unbound(owner) => Trouble::Unbound { addr, owner },
                NoTeam::NotMapped => Trouble::NotMulticast {
                    addr,
                    mapped: true,
                    write,
                },
                NoTeam::Nothing => Trouble::NotMulticast {
                    addr,
                    mapped: false,
                    write,
                },
            })
    }

    /// multimem.ld_reduce of 16 bytes: where every member's lie, in the order in which the switch takes them.
    pub fn multicast_load(&mut self, cta: &Cta, f: &mut Fiber, addr: u64) -> Result<Members, Trouble> {
        let mut members = self.members(cta, addr, false)?;
        let payload = take_payload(f, GRANULE as u32);
        self.guard(f);
        for (device, at) in &members.at[..members.count] {
            while let Some(id) = self.pending.newest_known(*at, GRANULE, |s| Self::knows(cta, f, s.tag)) {
                self.deliver(id);
            }
            self.check_written(cta, f, *at, GRANULE)?;
            // SAFETY: a member's memory is allocated while it is bound and mapped.
            let tag = unsafe { *self.layout.shadow(*at) };
            if tag > HOST && !self.aliases.stored_by_switch(*at, tag) && !self.aliases.fenced(cta, f, tag) {
                return Err(Trouble::NoAliasFence { addr: *at, tag });
            }
            self.note_read(*at, GRANULE, f.me.write_tag)?;
            self.devices[*device].traffic.0 += u64::from(payload);
        }
        for last in (1..members.count).rev() {
            members.at.swap(last, self.rng.below(last + 1));
        }
        Ok(members)
    }

    /// multimem.st of 16 bytes: they are on their way to every member, the own device among them.
    pub fn multicast_store(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, data: &[u8; 16]) -> Result<(), Trouble> {
        let members = self.members(cta, addr, true)?;
        self.devices[usize::from(cta.device)].traffic.0 += u64::from(take_payload(f, GRANULE as u32));
        let tag = f.me.write_tag;
        for (device, at) in &members.at[..members.count] {
            // SAFETY: as in `multicast_load`.
            Self::check_consumed(cta, f, unsafe { *self.layout.reader(*at) }, *at)?;
            self.aliases.stored.insert(*at / GRANULE, tag & !ALL_BYTES);
            self.pending.add(*at, data, Kind::Weak, tag, *device as u16);
        }
        Ok(())
    }

    /// From now on devices read each other's memory: stores to the own one must know of its readers, too. Other threads
    /// are told when they run next.
    pub fn guard(&mut self, f: &mut Fiber) {
        self.guarded = true;
        f.me.guarded = 1;
    }
}

/// The payload of the access at hand, of `bytes`: what was announced, or all of it.
pub(super) fn take_payload(f: &mut Fiber, bytes: u32) -> u32 {
    match std::mem::replace(&mut f.me.payload, NO_PAYLOAD) {
        NO_PAYLOAD => bytes,
        announced => announced,
    }
}
