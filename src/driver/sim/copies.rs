//! cp.async off the fast path: queued copies, and sources that must be looked at.

use super::arena::SLICE;
use super::config::Copies;
use super::cta::Cta;
use super::fiber::{AsyncCopy, Fiber};
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{self, GRANULE};

/// Whether the first `bytes` of a granule were written between two looks at its shadow.
pub(super) fn changed(before: u64, now: u64, bytes: u64) -> bool {
    let fresh = if (before ^ now) >> shadow::CLOCK_SHIFT == 0 {
        now & !before
    } else {
        now
    };
    before != now && (now <= shadow::HOST || fresh & shadow::mask(0, bytes) != 0)
}

impl Machine {
    /// Issues a copy: checks it, and runs or queues it.
    pub fn copy_async(&mut self, cta: &Cta, f: &mut Fiber, dst: u32, src: u64, bytes: u32) -> Result<(), Trouble> {
        if bytes > 16 {
            return Err(Trouble::BadCopySize { bytes });
        }
        if !dst.is_multiple_of(16) {
            return Err(Trouble::Misaligned {
                shared: true,
                addr: u64::from(dst),
                bytes: 16,
            });
        }
        if u64::from(dst) + GRANULE > u64::from(f.me.shared_bytes) {
            return Err(Trouble::OutOfBounds {
                shared: true,
                addr: u64::from(dst),
                bytes: 16,
                write: true,
            });
        }
        let mut src_tag = 0;
        if bytes > 0 {
            if !src.is_multiple_of(GRANULE) {
                return Err(Trouble::Misaligned {
                    shared: false,
                    addr: src,
                    bytes: GRANULE,
                });
            }
            if src.wrapping_sub(f.me.own_base) < SLICE {
                // SAFETY: in the arena, so its shadow is mapped, at least for reading.
                src_tag = unsafe { *self.layout.shadow(src) };
            }
            if src_tag != shadow::HOST {
                self.check_source(cta, f, src, bytes)?;
                // SAFETY: just found allocated.
                src_tag = unsafe { *self.layout.shadow(src) };
            }
        }
        let copy = AsyncCopy {
            dst,
            bytes,
            src,
            src_tag,
            tag: f.me.async_tag,
        };
        if f.me.async_now != 0 {
            return self.run_copy(f, copy);
        }
        f.copies.push(copy);
        f.me.async_queued = f.copies.len() as u32;
        Ok(())
    }

    fn check_source(&mut self, cta: &Cta, f: &mut Fiber, src: u64, bytes: u32) -> Result<(), Trouble> {
        let owner = self.check_place(f, src, GRANULE, false)?;
        if owner != usize::from(cta.device) {
            self.check_load(cta, f, src, GRANULE)?;
        }
        self.check_written(cta, f, src, u64::from(bytes))?;
        // The source is read until the wait for this group.
        self.note_read(src, u64::from(bytes), f.me.async_tag)
    }

    fn run_copy(&mut self, f: &Fiber, copy: AsyncCopy) -> Result<(), Trouble> {
        let mut data = 0u128;
        // SAFETY: the source was allocated when the copy was issued; if it has been freed since, its shadow, which is
        // always readable, says so, and the bytes are not touched. `copy_async` has found the destination in the window.
        unsafe {
            if copy.bytes > 0 {
                if changed(copy.src_tag, *self.layout.shadow(copy.src), u64::from(copy.bytes)) {
                    return Err(Trouble::SourceChanged { addr: copy.src });
                }
                // Little-endian: the first bytes are the low ones. The rest of the granule is zero.
                let mut bytes = (*(copy.src as *const u128)).to_le_bytes();
                let device = usize::from((*f.cta).device);
                self.cross_from(device, copy.src, &mut bytes[..copy.bytes as usize]);
                data = u128::from_le_bytes(bytes) & u128::MAX >> (128 - 8 * copy.bytes);
            }
            *f.me.shared.add(copy.dst as usize).cast::<u128>() = data;
            *f.me.shared_shadow.add(copy.dst as usize / GRANULE as usize) = copy.tag;
        }
        Ok(())
    }

    /// Runs a few queued copies, any of them.
    pub fn run_some_copies(&mut self, f: &mut Fiber) -> Result<(), Trouble> {
        for _ in 0..=self.rng.below(f.copies.len()) {
            let i = self.rng.below(f.copies.len());
            let copy = f.copies.swap_remove(i);
            f.me.async_queued = f.copies.len() as u32;
            self.run_copy(f, copy)?;
        }
        Ok(())
    }

    /// Runs every queued copy that is not newer than group `newest` (0: every one), in any order.
    pub fn run_copies(&mut self, f: &mut Fiber, newest: u32) -> Result<(), Trouble> {
        if f.copies.is_empty() {
            return Ok(());
        }
        let mut copies = std::mem::take(&mut f.copies);
        let first = self.rng.below(copies.len());
        let due = |copy: &AsyncCopy| newest == 0 || shadow::clock(copy.tag) <= newest;
        let mut result = Ok(());
        let (head, tail) = copies.split_at(first);
        for copy in tail.iter().chain(head) {
            if due(copy) && result.is_ok() {
                result = self.run_copy(f, *copy);
            }
        }
        copies.retain(|copy| !due(copy));
        f.copies = copies;
        f.me.async_queued = f.copies.len() as u32;
        result
    }

    /// cp.async.wait_group: groups up to `newest` are complete and known to this thread.
    pub fn copy_wait(&mut self, f: &mut Fiber, newest: u32, site: u32) -> Result<(), Trouble> {
        if self.faults.ignores(site) {
            return Ok(());
        }
        self.run_copies(f, newest)?;
        f.me.async_known = f.me.async_known.max(newest);
        f.me.async_now = u32::from(self.character.copies != Copies::AtWait);
        Ok(())
    }
}
