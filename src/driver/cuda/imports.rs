//! Memory that another process made. Its device may not be visible here, so what the driver calls its location may be none, or
//! another one, of this process: it is mapped for those who ask and nobody else, and copied by one of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use super::device::lock;
use crate::driver::{DevicePtr, Physical};

#[derive(Debug, Default)]
pub(super) struct Imports(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    handles: HashSet<u64>,
    /// By address: the bytes, and a device that they are mapped for.
    mapped: BTreeMap<DevicePtr, (usize, usize)>,
}

impl Imports {
    pub(super) fn came(&self, memory: Physical) {
        lock(&self.0).handles.insert(memory.0);
    }

    /// The handle ends; its number may come again for other memory.
    pub(super) fn went(&self, memory: Physical) {
        lock(&self.0).handles.remove(&memory.0);
    }

    pub(super) fn has(&self, memory: Physical) -> bool {
        lock(&self.0).handles.contains(&memory.0)
    }

    pub(super) fn mapped(&self, ptr: DevicePtr, bytes: usize, device: usize) {
        lock(&self.0).mapped.insert(ptr, (bytes, device));
    }

    pub(super) fn unmapped(&self, ptr: DevicePtr) {
        lock(&self.0).mapped.remove(&ptr);
    }

    /// A device that reaches the imported memory at `ptr`.
    pub(super) fn reached_by(&self, ptr: DevicePtr) -> Option<usize> {
        let known = lock(&self.0);
        let (start, (bytes, device)) = known.mapped.range(..=ptr).next_back()?;
        (ptr - start < *bytes as u64).then_some(*device)
    }
}
