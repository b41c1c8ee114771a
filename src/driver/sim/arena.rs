//! The node's memory: one reservation of addresses, a slice of it for each device and one more for multicast objects, which
//! hold no bytes, and a second one for what is known of every granule: its shadow (who wrote it) and its reader (who read
//! or discarded it last).
//!
//! An address tells its device by its slice. Ordinary allocations are private pages of the reservation; physical memory
//! is a memfd mapped over it, always at the same address however often it is mapped, so that one word has one address
//! in this process. Memory is logically poison (0xff) until written: its shadow says so, and no page is touched.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use super::foreign::Outside;
use super::multicast::Team;
use super::physical::Physical;
use super::shadow::{GRANULE, HOST, UNALLOCATED, UNWRITTEN};
use crate::error::{Error, Result};

pub(super) const SLICE_SHIFT: u32 = 36;
pub(super) const SLICE: u64 = 1 << SLICE_SHIFT;
/// Physical memory and mappings come in multiples of this.
pub(super) const GRANULARITY: usize = 64 << 10;
const PAGE: u64 = 4096;

/// Translates addresses. Copies of it are read by fibers without a lock: nothing in it changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub base: u64,
    pub devices: usize,
    shadow: u64,
}

impl Layout {
    pub fn device_of(&self, addr: u64) -> Option<usize> {
        let d = (addr.checked_sub(self.base)? >> SLICE_SHIFT) as usize;
        (d < self.devices).then_some(d)
    }

    /// The shadow of the granule of `addr`, which lies in the arena.
    pub fn shadow(&self, addr: u64) -> *mut u64 {
        debug_assert!(self.device_of(addr).is_some());
        (self.shadow + (addr - self.base) / GRANULE * 8) as *mut u64
    }

    /// Who read the granule of `addr` last, or declared it dead, as a tag; 0: nobody that a writer would have to know.
    pub fn reader(&self, addr: u64) -> *mut u64 {
        (self.shadow(addr) as u64 + self.readers()) as *mut u64
    }

    /// Distance from a granule's shadow to its reader.
    fn readers(&self) -> u64 {
        self.devices as u64 * SLICE / 2
    }

    /// The readers of the granules that `bytes` at `addr` touch.
    ///
    /// # Safety
    /// As [`Layout::shadow_of`].
    #[allow(clippy::mut_from_ref)] // `Layout` owns nothing
    pub unsafe fn readers_of(&self, addr: u64, bytes: u64) -> &mut [u64] {
        let n = (addr % GRANULE + bytes).div_ceil(GRANULE);
        // SAFETY: readers are mapped as the shadow is, and the caller has them to himself.
        unsafe { std::slice::from_raw_parts_mut(self.reader(addr), n as usize) }
    }

    /// The shadow granules that `bytes` at `addr` touch.
    ///
    /// # Safety
    /// The bytes lie in one allocation, and nobody else uses their shadow while the slice lives.
    #[allow(clippy::mut_from_ref)] // `Layout` owns nothing
    pub unsafe fn shadow_of(&self, addr: u64, bytes: u64) -> &mut [u64] {
        let n = (addr % GRANULE + bytes).div_ceil(GRANULE);
        // SAFETY: the shadow of an allocation is mapped readable and writable, and the caller has it to himself.
        unsafe { std::slice::from_raw_parts_mut(self.shadow(addr), n as usize) }
    }
}

/// One allocation or mapping.
#[derive(Debug, Clone)]
pub(super) struct Allocation {
    pub bytes: u64,
    pub device: usize,
    /// Devices that may touch it, a bit each.
    pub accessors: u32,
    /// The physical memory behind it, if any, and how often it is mapped.
    pub physical: Option<(u64, u32)>,
}

#[derive(Debug, Default)]
pub(super) struct Allocations {
    pub live: BTreeMap<u64, Allocation>,
    /// Free ranges, by start.
    free: BTreeMap<u64, u64>,
    pub physical: BTreeMap<u64, Physical>,
    pub multicast: BTreeMap<u64, Team>,
    /// Where multicast objects are mapped, by start.
    pub teams: BTreeMap<u64, u64>,
    /// The next handle, of physical memory or a multicast object.
    pub next_physical: u64,
}

impl Allocations {
    /// The allocation that holds all of `bytes` at `addr`, and where it starts.
    pub fn find(&self, addr: u64, bytes: u64) -> Option<(u64, &Allocation)> {
        let (start, a) = self.live.range(..=addr).next_back()?;
        (addr - start <= a.bytes && bytes <= a.bytes - (addr - start)).then_some((*start, a))
    }

    /// The allocation at or before `addr`, for reports.
    pub fn near(&self, addr: u64) -> Option<(u64, &Allocation)> {
        self.live.range(..=addr).next_back().map(|(s, a)| (*s, a))
    }

    /// Start and end of all mapped memory that other nodes may have, too.
    pub fn shared_ranges(&self) -> Vec<(u64, u64)> {
        let shared = self.physical.values().filter(|p| p.foreign);
        shared
            .filter_map(|p| p.mapped_at.map(|at| (at, at + p.bytes)))
            .collect()
    }

    /// Start and length of every allocation.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.live.iter().map(|(s, a)| (*s, a.bytes))
    }

    pub fn take(&mut self, device_range: std::ops::Range<u64>, bytes: u64) -> Option<u64> {
        let (start, len) = self
            .free
            .range(device_range)
            .find(|(_, len)| **len >= bytes)
            .map(|(s, l)| (*s, *l))?;
        self.free.remove(&start);
        if len > bytes {
            self.free.insert(start + bytes, len - bytes);
        }
        Some(start)
    }

    pub fn give_back(&mut self, start: u64, bytes: u64, slice: std::ops::Range<u64>) {
        let (mut start, mut end) = (start, start + bytes);
        if let Some((s, l)) = self.free.range(slice.start..start).next_back().map(|(s, l)| (*s, *l))
            && s + l == start
        {
            self.free.remove(&s);
            start = s;
        }
        if end < slice.end
            && let Some(l) = self.free.remove(&end)
        {
            end += l;
        }
        self.free.insert(start, end - start);
    }
}

/// The reservation and what is allocated in it.
#[derive(Debug)]
pub(super) struct Arena {
    pub layout: Layout,
    allocations: Mutex<Allocations>,
    /// Memory that it has in common with other nodes.
    pub outside: Arc<Outside>,
    /// Nothing is known of what is in it: of a node with a clock.
    unmarked: bool,
}

pub(super) fn os_error(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
    move |e| Error::Driver {
        call,
        code: e.raw_os_error().into(),
        message: e.to_string(),
    }
}

impl Arena {
    pub fn new(devices: usize, unmarked: bool) -> Result<Arena> {
        let bytes = devices * SLICE as usize;
        let addresses = bytes + SLICE as usize;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: new mappings at addresses of the kernel's choice touch nothing that exists. The shadow is readable
        // everywhere and reads 0 (unallocated) until an allocation makes its part writable.
        let (base, shadow) = unsafe {
            let base = rustix::mm::mmap_anonymous(std::ptr::null_mut(), addresses, ProtFlags::empty(), flags)
                .map_err(os_error("mmap"))?;
            match rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ, flags) {
                Ok(shadow) => (base, shadow),
                Err(e) => {
                    let _ = rustix::mm::munmap(base, addresses);
                    return Err(os_error("mmap")(e));
                }
            }
        };
        let layout = Layout {
            base: base as u64,
            devices,
            shadow: shadow as u64,
        };
        let mut allocations = Allocations {
            next_physical: 1,
            ..Default::default()
        };
        for d in 0..=devices as u64 {
            // The first page of a slice stays empty, so that no device address is close to another device's.
            allocations
                .free
                .insert(layout.base + d * SLICE + GRANULARITY as u64, SLICE - GRANULARITY as u64);
        }
        Ok(Arena {
            layout,
            allocations: Mutex::new(allocations),
            outside: Arc::default(),
            unmarked,
        })
    }

    /// The allocations. They stay consistent even if a thread died while it held the lock: every change is one step.
    pub fn lock(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn slice(&self, device: usize) -> std::ops::Range<u64> {
        let start = self.layout.base + device as u64 * SLICE;
        start..start + SLICE
    }

    pub fn set_shadow(&self, start: u64, bytes: u64, mark: u64) -> Result<()> {
        if self.unmarked {
            return Ok(());
        }
        let page = self.layout.shadow(start) as u64 / PAGE * PAGE;
        let end = (self.layout.shadow(start) as u64 + bytes.div_ceil(GRANULE) * 8).next_multiple_of(PAGE);
        // SAFETY: the pages lie in the second reservation; making them writable changes no content. The granules are
        // those of a range that no allocation holds yet (or that the caller is about to take away).
        unsafe {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            let pages = (end - page) as usize;
            for at in [page, page + self.layout.readers()] {
                rustix::mm::mprotect(at as *mut c_void, pages, flags).map_err(os_error("mprotect"))?;
            }
            self.layout.shadow_of(start, bytes).fill(mark);
            clear(self.layout.readers_of(start, bytes));
        }
        Ok(())
    }

    /// Ordinary memory of one device, `bytes` of at least 1.
    pub fn allocate(&self, device: usize, bytes: usize) -> Result<u64> {
        let reserved = (bytes as u64).max(1).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let mut a = self.lock();
        let start = a
            .take(self.slice(device), reserved)
            .ok_or_else(|| self.no_room(device, bytes))?;
        // SAFETY: the range was free: part of the reservation, and nobody's.
        unsafe {
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            rustix::mm::mprotect(start as *mut c_void, reserved as usize, flags).map_err(os_error("mprotect"))?;
        }
        self.set_shadow(start, bytes as u64, UNWRITTEN)?;
        let allocation = Allocation {
            bytes: bytes as u64,
            device,
            accessors: 1 << device,
            physical: None,
        };
        a.live.insert(start, allocation);
        Ok(start)
    }

    /// Lets every device touch an ordinary allocation, whose bytes are 0 and count as written.
    pub fn open_to_all(&self, start: u64) -> Result<()> {
        let mut a = self.lock();
        if let Some(allocation) = a.live.get_mut(&start) {
            allocation.accessors = u32::MAX;
            let bytes = allocation.bytes;
            // Fresh pages read 0, as do those that were given back.
            self.set_shadow(start, bytes, HOST)?;
        }
        Ok(())
    }

    pub fn no_room(&self, device: usize, bytes: usize) -> Error {
        Error::bad_argument(
            "bytes",
            bytes,
            format!("what fits into the {} GiB of simulated device {device}", SLICE >> 30),
        )
    }

    /// Frees what [`Arena::allocate`] gave.
    pub fn free(&self, start: u64) -> Result<()> {
        let mut a = self.lock();
        match a.live.get(&start) {
            Some(Allocation { physical: None, .. }) => {}
            _ => {
                return Err(Error::bad_argument(
                    "ptr",
                    format!("{start:#x}"),
                    "an address that alloc gave",
                ));
            }
        }
        self.remove(&mut a, start)
    }

    pub fn remove(&self, a: &mut Allocations, start: u64) -> Result<()> {
        let Some(gone) = a.live.remove(&start) else {
            return Ok(());
        };
        let unit = if gone.physical.is_some() {
            GRANULARITY as u64
        } else {
            PAGE
        };
        let reserved = gone.bytes.max(1).next_multiple_of(unit);
        self.set_shadow(start, gone.bytes, UNALLOCATED)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range was this allocation's alone and is no longer listed; a fresh inaccessible mapping over it
        // gives its pages back. Whole shadow pages inside are dropped too and read 0 again.
        unsafe {
            rustix::mm::mmap_anonymous(start as *mut c_void, reserved as usize, ProtFlags::empty(), flags)
                .map_err(os_error("mmap"))?;
            let from = (self.layout.shadow(start) as u64).next_multiple_of(PAGE);
            let to = (self.layout.shadow(start) as u64 + reserved / GRANULE * 8) / PAGE * PAGE;
            if from < to {
                for at in [from, from + self.layout.readers()] {
                    let _ = rustix::mm::madvise(at as *mut c_void, (to - from) as usize, Advice::LinuxDontNeed);
                }
            }
        }
        a.give_back(start, reserved, self.slice(gone.device));
        Ok(())
    }

    /// The shadow of memory whose bytes are dead: poison, unless another process may write it.
    pub fn discarded(&self, addr: u64) -> u64 {
        let a = self.lock();
        let foreign = a
            .near(addr)
            .and_then(|(_, m)| m.physical)
            .and_then(|(id, _)| a.physical.get(&id));
        if foreign.is_some_and(|p| p.foreign) {
            HOST
        } else {
            UNWRITTEN
        }
    }
}

/// Zeroes what is not zero: most of it never was written, and need not become pages.
pub(super) fn clear(marks: &mut [u64]) {
    for mark in marks.iter_mut().filter(|m| **m != 0) {
        *mark = 0;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let bytes = self.layout.devices * SLICE as usize;
        // SAFETY: both reservations are this arena's, and whoever could use an address of them is gone with it: the
        // executor's thread is joined before the node lets go of its arena.
        unsafe {
            let _ = rustix::mm::munmap(self.layout.base as *mut c_void, bytes + SLICE as usize);
            let _ = rustix::mm::munmap(self.layout.shadow as *mut c_void, bytes);
        }
    }
}
