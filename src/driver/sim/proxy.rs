//! The two ways to memory: ordinary accesses (the generic proxy) and TMA, bulk copies and wgmma (the asynchronous one).
//!
//! Shared memory: what a thread stored may be read by the asynchronous proxy once that thread has executed
//! `fence_async_shared` behind the store, and whoever issues the read is ordered behind the fence. A fence ticks its
//! thread's clock, so "behind the fence" is a matter of clocks: [`Units::fences`](super::units::Units::fences) holds them all.
//!
//! Global memory: a TMA load sees what its thread knew when it last executed `fence_async_global` (or at the kernel's
//! start): a second, older view beside the thread's own. What its own CTA's bulk copies wrote it sees without.

use std::rc::Rc;

use super::cta::Cta;
use super::fiber::Fiber;
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{self, GRANULE};
use super::units::Content;

/// Whether bytes that the asynchronous proxy may read mean anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Defined,
    /// Some of them were loaded from memory that nobody had written since it was allocated or discarded.
    Undefined,
}

impl Machine {
    /// Whether wgmma or a bulk copy that `f` issues now may read `bytes` at `addr` of its CTA's shared memory: all of it
    /// written, every writer known to `f`, and what ordinary stores wrote fenced. A TMA load that is still in flight, or
    /// whose mbarrier phase `f` does not know to be over, is trouble; undefined bytes are for the caller to judge.
    ///
    /// For reads that happen later than they are issued, ask at both times: in between, a load or a store over the bytes
    /// has changed their writer to one that `f` does not know. One look at the shadow a granule; call it for a whole
    /// operand, or a row of it where rows differ in meaning.
    pub fn async_read_shared(cta: &Cta, f: &Fiber, addr: u32, bytes: u32) -> Result<Readiness, Trouble> {
        let (at, n) = (u64::from(addr), u64::from(bytes));
        if at + n > u64::from(f.me.shared_bytes) {
            return Err(Trouble::OutOfBounds {
                shared: true,
                addr: at,
                bytes: n,
                write: false,
            });
        }
        let mut readiness = Readiness::Defined;
        let mut known = 0;
        for granule in (addr / GRANULE as u32)..(addr + bytes).div_ceil(GRANULE as u32) {
            // SAFETY: inside the window, so inside its shadow.
            let tag = unsafe { *f.me.shared_shadow.add(granule as usize) };
            if tag != known {
                if Self::async_read_granule(cta, f, granule * GRANULE as u32, tag)? == Readiness::Undefined {
                    readiness = Readiness::Undefined;
                }
                // Behind a source stand several writers.
                known = if Self::source_of(cta, tag).is_none() { tag } else { 0 };
            }
        }
        Ok(readiness)
    }

    /// The same for one granule, by its shadow.
    fn async_read_granule(cta: &Cta, f: &Fiber, addr: u32, tag: u64) -> Result<Readiness, Trouble> {
        let at = u64::from(addr);
        let content = Self::content(cta, addr, tag);
        let Some(tag) = content.tag() else {
            return Err(Trouble::Uninitialised {
                shared: true,
                addr: at,
                bytes: GRANULE,
            });
        };
        if !Self::knows(cta, f, tag) {
            return Err(match content {
                Content::Stored(_) => Trouble::Unordered {
                    shared: true,
                    addr: at,
                    bytes: GRANULE,
                    tag,
                },
                _ => Trouble::NotLoaded { addr, tag },
            });
        }
        match content {
            Content::Stored(_) if !Self::fenced(cta, cta, f, tag) => Err(Trouble::NoSharedFence { addr, tag }),
            Content::Undefined(_) => Ok(Readiness::Undefined),
            _ => Ok(Readiness::Defined),
        }
    }

    /// Whether `f` is ordered behind a `fence_async_shared` of the thread of CTA `of` that wrote as `tag`, behind that write.
    pub fn fenced(of: &Cta, cta: &Cta, f: &Fiber, tag: u64) -> bool {
        let w = shadow::writer(tag);
        let thread = usize::from(w.who) / 2;
        let view = f.view.as_deref().unwrap_or(&cta.view);
        let known = if of.slot != cta.slot {
            let row = view.others.get(of.slot);
            row.and_then(|r| r.get(2 * thread)).copied().unwrap_or(0)
        } else if thread == f.me.thread as usize {
            f.clock()
        } else {
            view.own.get(2 * thread).copied().unwrap_or(0)
        };
        Self::fenced_by(of, tag, known)
    }

    /// The same for whoever knows of that thread up to clock `known`.
    pub fn fenced_by(of: &Cta, tag: u64, known: u32) -> bool {
        let w = shadow::writer(tag);
        let thread = usize::from(w.who) / 2;
        let Some(fences) = of.units.fences.get(thread) else {
            return false;
        };
        // The newest that is known: near the end, for knowledge is seldom old.
        match fences.iter().rev().find(|(clock, _)| *clock <= known) {
            None => false,
            Some((_, group)) if w.who & 1 == 1 => *group >= w.clock,
            Some((clock, _)) => *clock >= w.clock,
        }
    }

    pub fn fence_async_shared(&mut self, cta: &mut Cta, f: &mut Fiber, site: u32) -> Result<(), Trouble> {
        if self.faults.ignores(site) {
            return Ok(());
        }
        cta.units.fences[f.me.thread as usize].push((f.clock(), f.me.async_known));
        f.tick_checked()
    }

    pub fn fence_async_global(&mut self, cta: &Cta, f: &mut Fiber, site: u32) -> Result<(), Trouble> {
        if self.faults.ignores(site) {
            return Ok(());
        }
        f.async_view = Some((Rc::clone(f.view.as_ref().unwrap_or(&cta.view)), f.clock()));
        f.tick_checked()
    }

    /// Whether a TMA load that `f` issues now sees what `tag` names in global memory, which `f` knows. Without a fence it
    /// sees what the asynchronous proxy of its own CTA wrote, and no other CTA's (PTX ISA, "Proxy-preserved base causality
    /// order": the same proxy and the same thread block).
    pub fn knows_async(cta: &Cta, f: &Fiber, tag: u64) -> bool {
        let w = shadow::writer(tag);
        let here = w.slot == cta.slot && w.clock >= cta.start;
        if here && w.who & 1 == 1 {
            return true;
        }
        let (view, own) = match &f.async_view {
            Some((view, clock)) => (&**view, *clock),
            None => (&*cta.units.initial, cta.start - 1),
        };
        if !here {
            return view.others.knows(w.slot, w.who, w.clock);
        }
        if u32::from(w.who) / 2 == f.me.thread {
            return w.clock <= own;
        }
        view.own.get(usize::from(w.who)).is_some_and(|c| *c >= w.clock)
    }

    /// An ordinary store of `f` over the granule of `addr` of its own CTA, which an asynchronous unit has written or reads.
    /// The caller writes it then.
    pub fn store_over(cta: &mut Cta, f: &Fiber, addr: u32) -> Result<(), Trouble> {
        let addr = addr / GRANULE as u32 * GRANULE as u32;
        if Self::wgmma_in_flight(cta, addr, GRANULE as u32) {
            let bytes = GRANULE as u32;
            return Err(Trouble::WgmmaOverwritten { addr, bytes });
        }
        // SAFETY: the caller has found the bytes in the window.
        let tag = unsafe { *f.me.shared_shadow.add((addr / GRANULE as u32) as usize) };
        match Self::content(cta, addr, tag) {
            Content::Loaded(tag) | Content::Undefined(tag) if !Self::knows(cta, f, tag) => {
                return Err(Trouble::StoredOver { addr, tag });
            }
            _ => {}
        }
        if let Some(id) = Self::read_by(cta, cta, f, addr, tag)? {
            cta.units.sources.drop_granule(id);
        }
        Ok(())
    }

    /// A TMA load that `f` issues over the granule of `addr` in the window of `of`, whose shadow is `tag`: its writer must be
    /// known, and fenced if it was an ordinary one. The source, if it was one, that the caller's new shadow takes it from.
    pub fn load_over(of: &Cta, cta: &Cta, f: &Fiber, addr: u32, tag: u64) -> Result<Option<u32>, Trouble> {
        let content = Self::content(of, addr, tag);
        match content.tag() {
            Some(tag) if !Self::knows(cta, f, tag) => Err(Trouble::LoadedOver { addr, tag }),
            Some(tag) if matches!(content, Content::Stored(_)) && !Self::fenced(of, cta, f, tag) => {
                Err(Trouble::NoSharedFence { addr, tag })
            }
            _ => Self::read_by(of, cta, f, addr, tag),
        }
    }

    /// If bulk copies read the granule: that all of them are over, and `f` knows. The source's number.
    fn read_by(of: &Cta, cta: &Cta, f: &Fiber, addr: u32, tag: u64) -> Result<Option<u32>, Trouble> {
        let Some(id) = Self::source_of(of, tag) else {
            return Ok(None);
        };
        for reader in of.units.sources.get(id).iter().flat_map(|s| &s.readers) {
            if !reader.released.is_some_and(|tag| Self::knows(cta, f, tag)) {
                let tag = reader.issuer;
                return Err(Trouble::StillRead { addr, tag });
            }
        }
        Ok(Some(id))
    }
}
