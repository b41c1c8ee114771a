//! Fiber stacks: slots of one lazily committed reservation, recycled last in, first out.
//!
//! A slot is a little longer than a power of two, so that the same variable of neighbouring lanes does not fall into the
//! same cache set: a warp's registers live at one distance below 32 stack bases, and are gathered from there.

use std::ffi::c_void;

use corosensei::stack::{Stack, StackPointer};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result};

const STACK: usize = 64 << 10;
const STRIDE: usize = STACK + 17 * 64;
const CANARY: u64 = 0x7469_6c65_7765_6176;
const CANARY_WORDS: usize = 8;

#[derive(Debug)]
pub(super) struct Slab {
    base: usize,
    slots: usize,
    used: usize,
    free: Vec<u32>,
}

/// One slot, for one fiber.
#[derive(Debug)]
pub(super) struct FiberStack {
    limit: usize,
    pub slot: u32,
}

impl Slab {
    pub fn new(slots: usize) -> Result<Slab> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                slots * STRIDE,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }
        .map_err(|e| Error::Driver {
            call: "mmap",
            code: e.raw_os_error().into(),
            message: e.to_string(),
        })?;
        // SAFETY: the mapping is ours; huge pages would commit two megabytes where a stack uses two small pages.
        unsafe {
            let _ = rustix::mm::madvise(base, slots * STRIDE, rustix::mm::Advice::LinuxNoHugepage);
        }
        Ok(Slab {
            base: base as usize,
            slots,
            used: 0,
            free: Vec::new(),
        })
    }

    pub fn take(&mut self) -> Option<FiberStack> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.used < self.slots => {
                self.used += 1;
                self.used as u32 - 1
            }
            None => return None,
        };
        let limit = self.base + slot as usize * STRIDE;
        // SAFETY: the slot lies in the slab and is nobody's.
        unsafe { std::slice::from_raw_parts_mut(limit as *mut u64, CANARY_WORDS).fill(CANARY) };
        Some(FiberStack { limit, slot })
    }

    pub fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// False where the fiber that used the slot ran over its end.
    pub fn intact(&self, slot: u32) -> bool {
        let limit = self.base + slot as usize * STRIDE;
        // SAFETY: the slot lies in the slab and its fiber is not running.
        unsafe { std::slice::from_raw_parts(limit as *const u64, CANARY_WORDS) }
            .iter()
            .all(|w| *w == CANARY)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every fiber on it was finished or reset before its executor dropped the slab.
        unsafe {
            let _ = rustix::mm::munmap(self.base as *mut c_void, self.slots * STRIDE);
        }
    }
}

// SAFETY: base and limit bound memory of the slab that belongs to this slot alone, 64-byte aligned, far above the minimum
// size. In place of a guard page, which would cost a mapping a fiber, stands a canary that is checked when the fiber
// ends: kernels are leaf code of bounded depth (no recursion, callbacks are shallow) and use a few KB of 64.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.limit + STRIDE).unwrap_or(StackPointer::MIN)
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).unwrap_or(StackPointer::MIN)
    }
}
