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

/// The heaps of all ranks, bound to one object and mapped for all devices. Undone in reverse when dropped, before the heaps
/// go: the owner sees to it that no kernel still runs.
#[derive(Debug)]
pub(crate) struct SharedHeaps {
    driver: Arc<dyn Driver>,
    object: Multicast,
    bytes: usize,
    bound: Vec<Place>,
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
        let mut shared = SharedHeaps {
            driver: driver.clone(),
            object: driver.multicast_create(places.len(), bytes)?,
            bytes,
            bound: Vec::new(),
            ptr: None,
        };
        for place in places {
            driver.multicast_add_device(shared.object, *place)?;
        }
        for (place, heap) in places.iter().zip(heaps) {
            driver.multicast_bind(shared.object, *place, heap.memory(), 0, bytes)?;
            shared.bound.push(*place);
        }
        shared.ptr = Some(driver.multicast_map(shared.object, bytes, places)?);
        Ok(shared)
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
        for place in self.bound.drain(..) {
            let _ = self.driver.multicast_unbind(self.object, place, 0, self.bytes);
        }
        let _ = self.driver.multicast_release(self.object);
    }
}
