//! One address for the heaps of all ranks, where the switch between their devices multicasts (NVLS).

use std::sync::Arc;

use super::heap::Heap;
use crate::driver::{DevicePtr, Driver, Multicast, Place};
use crate::error::{Error, Result};

/// Whether ranks at `places` can have a multicast object: the granularity of its bytes, or why not.
pub(crate) fn possible(driver: &dyn Driver, places: &[Place]) -> Result<usize, String> {
    if places.len() < 2 {
        return Err("there is one rank".to_string());
    }
    for (rank, place) in places.iter().enumerate() {
        if let Some(other) = places[..rank].iter().position(|other| other.device == place.device) {
            let device = place.device;
            return Err(format!(
                "ranks {other} and {rank} share device {device}, and each rank of a multicast team needs a device of its own"
            ));
        }
        match driver.multicast_claim(place.device) {
            Ok(true) => {}
            Ok(false) => return Err(format!("device {} (rank {rank}) has no multicast", place.device)),
            Err(error) => return Err(error.to_string()),
        }
    }
    driver.multicast_granularity(places).map_err(|error| error.to_string())
}

/// What one of `world` ranks in several processes has: the granularity of a multicast object's bytes, or why it cannot join
/// one.
#[cfg(target_os = "linux")]
pub(crate) fn offered(driver: &dyn Driver, place: Place, world: usize) -> Result<usize, String> {
    match driver.multicast_claim(place.device) {
        Ok(true) => {}
        Ok(false) => return Err("its device has no multicast".to_string()),
        Err(error) => return Err(error.to_string()),
    }
    // Only how many there are counts; the others' have no ordinal that is surely known here.
    let places = vec![place; world];
    driver.multicast_granularity(&places).map_err(|error| error.to_string())
}

/// The heaps of all ranks, bound to one object and mapped for all devices. Undone in reverse when dropped, before the heaps
/// go: the owner sees to it that no kernel still runs.
#[derive(Debug)]
pub(crate) struct SharedHeaps {
    driver: Arc<dyn Driver>,
    object: Multicast,
    bytes: usize,
    bound: Vec<Place>,
    /// Whether other processes have the object, too.
    apart: bool,
    ptr: Option<DevicePtr>,
}

impl SharedHeaps {
    /// `heaps` are the ranks' in order, of equal size.
    pub fn new(driver: &Arc<dyn Driver>, places: &[Place], heaps: &[&Heap]) -> Result<SharedHeaps> {
        let bytes = heaps.first().map_or(0, |heap| heap.bytes());
        if let Some(other) = heaps.iter().find(|heap| heap.bytes() != bytes) {
            let expected = format!("{bytes} bytes, as rank 0's");
            return Err(Error::bad_argument("a heap", other.bytes(), expected));
        }
        let object = driver.multicast_create(places.len(), bytes)?;
        let mut shared = SharedHeaps::around(driver, object, bytes);
        shared.apart = false;
        for place in places {
            shared.add(*place)?;
        }
        for (place, heap) in places.iter().zip(heaps) {
            shared.bind(*place, heap)?;
        }
        shared.map(places)?;
        Ok(shared)
    }

    /// Around an object that several processes have and no heap is bound to. What follows has an order, over all processes that have the object: every device
    /// is added before the first heap is bound, and every heap is bound before a kernel uses the mapping.
    pub fn around(driver: &Arc<dyn Driver>, object: Multicast, bytes: usize) -> SharedHeaps {
        SharedHeaps {
            driver: driver.clone(),
            object,
            bytes,
            bound: Vec::new(),
            apart: true,
            ptr: None,
        }
    }

    /// Adds a device of this process.
    pub fn add(&self, place: Place) -> Result<()> {
        self.driver.multicast_add_device(self.object, place)
    }

    /// Binds the heap of a rank of this process.
    pub fn bind(&mut self, place: Place, heap: &Heap) -> Result<()> {
        self.driver
            .multicast_bind(self.object, place, heap.memory()?, 0, self.bytes)?;
        self.bound.push(place);
        Ok(())
    }

    /// Maps it for devices of this process.
    pub fn map(&mut self, accessors: &[Place]) -> Result<()> {
        self.ptr = Some(self.driver.multicast_map(self.object, self.bytes, accessors)?);
        Ok(())
    }

    /// What another process imports.
    #[cfg(target_os = "linux")]
    pub fn export(&self) -> Result<std::os::fd::OwnedFd> {
        self.driver.multicast_export(self.object)
    }

    /// Where it is mapped, for every rank.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr.unwrap_or(0)
    }
}

impl Drop for SharedHeaps {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure here; what is still mapped must not be taken apart.
        if self
            .ptr
            .is_some_and(|ptr| self.driver.multicast_unmap(ptr, self.bytes).is_err())
        {
            return;
        }
        // A peer's kernel may still use the object, and this rank's memory through it: the binding goes with the object's last
        // handle, in whichever process that is.
        let bound = if self.apart {
            Vec::new()
        } else {
            std::mem::take(&mut self.bound)
        };
        for place in bound {
            let _ = self.driver.multicast_unbind(self.object, place, 0, self.bytes);
        }
        let _ = self.driver.multicast_release(self.object);
    }
}
