//! A rank's symmetric heap: physical memory on its device, mapped for every rank's.

use std::sync::Arc;

use crate::driver::{DevicePtr, Driver, Physical, Place};
use crate::error::{Error, Result};

/// One rank's heap, mapped in this process. Unmapped and given back when dropped: the owner sees to it that no kernel of
/// any rank still runs.
#[derive(Debug)]
pub(crate) struct Heap {
    driver: Arc<dyn Driver>,
    /// `None`: another host's.
    memory: Option<Physical>,
    ptr: DevicePtr,
    bytes: usize,
}

impl Heap {
    /// `bytes`, rounded up to the device's granularity and to `unit`, both powers of two, on `place`, accessible from all of
    /// `accessors`.
    pub fn new(driver: &Arc<dyn Driver>, place: Place, bytes: usize, unit: usize, accessors: &[Place]) -> Result<Heap> {
        let granularity = driver.physical_granularity(place)?.max(unit).max(1);
        let bytes = bytes
            .checked_next_multiple_of(granularity)
            .ok_or_else(|| Error::bad_argument("heap_bytes", bytes, "a size that a device can have"))?;
        let memory = driver.physical_create(place, bytes)?;
        Heap::of(driver, memory, bytes, driver.physical_map(memory, bytes, accessors))
    }

    /// What was mapped at `ptr`; memory that could not be goes back.
    fn of(driver: &Arc<dyn Driver>, memory: Physical, bytes: usize, ptr: Result<DevicePtr>) -> Result<Heap> {
        // The mapping's error is the one to report.
        let ptr = ptr.inspect_err(|_| drop(driver.physical_release(memory)))?;
        Ok(Heap {
            driver: driver.clone(),
            memory: Some(memory),
            ptr,
            bytes,
        })
    }

    /// What another process exported: `bytes` on `owner`, mapped for `accessors` of this one. Without any it is held, and mapped
    /// nowhere.
    #[cfg(target_os = "linux")]
    pub fn import(
        driver: &Arc<dyn Driver>,
        fd: std::os::fd::BorrowedFd<'_>,
        owner: Place,
        bytes: usize,
        accessors: &[Place],
    ) -> Result<Heap> {
        let memory = driver.physical_import(fd, owner, bytes)?;
        let ptr = match accessors {
            [] => Ok(0),
            accessors => driver.physical_map(memory, bytes, accessors),
        };
        Heap::of(driver, memory, bytes, ptr)
    }

    /// That of a rank on another host, of which nothing is here.
    #[cfg(target_os = "linux")]
    pub fn elsewhere(driver: &Arc<dyn Driver>) -> Heap {
        Heap {
            driver: driver.clone(),
            memory: None,
            ptr: 0,
            bytes: 0,
        }
    }

    /// Where it is mapped, 0 where it is not; the same for every rank in this process.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// What it is mapped from.
    pub fn memory(&self) -> Result<Physical> {
        let none = || Error::bad_argument("the heap", "on another host", "one of this host, which has memory here");
        self.memory.ok_or_else(none)
    }

    /// Its size, rounded up.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure here; what cannot be unmapped must not be released.
        if let Some(memory) = self.memory
            && (self.ptr == 0 || self.driver.physical_unmap(self.ptr, self.bytes).is_ok())
        {
            let _ = self.driver.physical_release(memory);
        }
    }
}
