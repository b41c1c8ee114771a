//! What the kernels of a device asked of the machine, as one number: the Rust side of `csrc/machine/tally.h`.

use super::arena::{Layout, SLICE};

/// The twin of `TwTally`.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C)]
pub(super) struct Tally {
    base: u64,
    sum: u64,
    calls: u64,
}

/// What the kernels of a device have asked of the machine so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Loads, stores, barriers, products ...: calls of lane 0 of every warp, without those of waits.
    pub calls: u64,
    /// Equal where they were the same, in the same order in each warp.
    pub digest: u64,
}

/// One tally a device, where calls are counted.
#[derive(Debug, Default)]
pub(super) struct Tallies(Vec<Tally>);

impl Tallies {
    /// Of so many devices; none where `counts` is false.
    pub fn new(counts: bool, layout: &Layout, devices: usize) -> Tallies {
        let of = |device: usize| Tally {
            base: layout.base + device as u64 * SLICE,
            ..Tally::default()
        };
        Tallies((0..if counts { devices } else { 0 }).map(of).collect())
    }

    /// What a warp of a device's gets, or null. It stays where it is.
    pub fn of(&mut self, device: usize) -> *mut Tally {
        self.0.get_mut(device).map_or(std::ptr::null_mut(), std::ptr::from_mut)
    }

    /// A warp of the device has returned from its kernel, in the middle of a piece.
    pub fn left(&mut self, device: usize, piece: u64) {
        if let Some(tally) = self.0.get_mut(device) {
            tally.sum = tally.sum.wrapping_add(piece);
        }
    }

    pub fn told(&self) -> Vec<Asked> {
        let told = |tally: &Tally| Asked {
            calls: tally.calls,
            digest: tally.sum,
        };
        self.0.iter().map(told).collect()
    }
}
