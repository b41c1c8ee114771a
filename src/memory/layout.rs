//! Where everything lies in the symmetric heap: a pure function of the heap's size, the world size and the largest
//! one-shot message, hence equal on every rank without asking.
//!
//! ```text
//! control | packets, 2 halves | signals, 2 halves | split counters | scratch | staging, 2 halves
//! ```
//!
//! Packets hold, per half, one message of `one_shot_bytes` from every rank, twice its size (each 8-byte half of a packet
//! carries 4 bytes and its tag). The rest is shared out: scratch, which peers never touch, takes one part, each staging
//! half two, and each half has two signals per smallest tile (8 KiB) that it can hold. The counters of split blocks lie
//! just before the scratch, at whose start the products are that they count (`TwParams::split_space`).

use crate::abi::{self, CONTROL_BYTES, TwGroup};
use crate::error::{Error, Result};

/// Every region begins at a multiple of this, in bytes.
pub(crate) const ALIGN: u64 = 256;
/// The smallest tile that is staged: 64 x 64 or 16 x 256 elements of two bytes.
pub(crate) const SMALLEST_TILE: u64 = 8192;
const SIGNAL: u64 = 8;
/// Of the counters of split blocks.
const COUNTERS: u64 = abi::TW_SPLIT_BLOCKS as u64 * 8;

/// Offsets and sizes in bytes, from the start of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub heap_bytes: u64,
    pub world: u64,
    pub one_shot_bytes: u64,
    pub packets: u64,
    pub packets_half: u64,
    pub signals: u64,
    pub signals_half: u64,
    pub scratch: u64,
    pub scratch_bytes: u64,
    pub staging: u64,
    pub staging_half: u64,
}

const fn up(value: u64) -> u64 {
    value.next_multiple_of(ALIGN)
}

impl Layout {
    /// The layout of a heap of `heap_bytes`; an error where not even one tile a half is left.
    pub fn new(heap_bytes: usize, world: usize, one_shot_bytes: usize) -> Result<Layout> {
        Layout::of(heap_bytes as u64, world as u64, one_shot_bytes as u64).ok_or_else(|| Error::HeapTooSmall {
            what: format!("a group of {world} with one-shot messages of {one_shot_bytes} bytes"),
            need: smallest(world, one_shot_bytes, |_| true).unwrap_or(usize::MAX),
            have: heap_bytes,
        })
    }

    fn of(heap_bytes: u64, world: u64, one_shot_bytes: u64) -> Option<Layout> {
        let packets = up(CONTROL_BYTES as u64);
        let packets_half = one_shot_bytes.checked_mul(2 * world)?.checked_next_multiple_of(ALIGN)?;
        let signals = packets.checked_add(packets_half.checked_mul(2)?)?;
        // Each half has at least two signals a rank, whatever its size.
        let signals_least = up(2 * world * SIGNAL);
        let rest = heap_bytes
            .checked_sub(signals)?
            .checked_sub(2 * (signals_least + ALIGN) + COUNTERS)?;
        // A half of h bytes takes h / 2 of scratch with its twin, and 2 * 8 / 8192 of h for signals: 2 h + h / 2 + 2 h / 512.
        let staging_half = (rest as u128 * 256 / 641) as u64 / SMALLEST_TILE * SMALLEST_TILE;
        if staging_half == 0 {
            return None;
        }
        let signals_half = up(2 * SIGNAL * (staging_half / SMALLEST_TILE)).max(signals_least);
        let scratch = signals + 2 * signals_half + COUNTERS;
        let scratch_bytes = staging_half / 2;
        let staging = scratch + scratch_bytes;
        Some(Layout {
            heap_bytes,
            world,
            one_shot_bytes,
            packets,
            packets_half,
            signals,
            signals_half,
            scratch,
            scratch_bytes,
            staging,
            staging_half,
        })
    }

    /// Of a rank whose heap nobody else reaches: it is all scratch, but for the control block and the counters.
    #[cfg(target_os = "linux")]
    pub fn alone(heap_bytes: usize, world: usize) -> Result<Layout> {
        let packets = up(CONTROL_BYTES as u64);
        let scratch = packets + COUNTERS;
        let least = scratch + SMALLEST_TILE;
        let Some(room) = (heap_bytes as u64)
            .checked_sub(scratch)
            .filter(|room| *room >= SMALLEST_TILE)
        else {
            return Err(Error::HeapTooSmall {
                what: format!("a rank of a group of {world} on several hosts"),
                need: least as usize,
                have: heap_bytes,
            });
        };
        let scratch_bytes = room / ALIGN * ALIGN;
        Ok(Layout {
            heap_bytes: heap_bytes as u64,
            world: world as u64,
            one_shot_bytes: 0,
            packets,
            packets_half: 0,
            signals: packets,
            signals_half: 0,
            scratch,
            scratch_bytes,
            staging: scratch + scratch_bytes,
            staging_half: 0,
        })
    }

    /// Signals in one half.
    pub fn signals_count(&self) -> u64 {
        self.signals_half / SIGNAL
    }

    /// What must be zero before the first operation: control, packets, signals and counters lie together at the start.
    pub fn zeroed_bytes(&self) -> usize {
        self.scratch as usize
    }

    /// The kernels' view of it.
    pub fn group(&self) -> TwGroup {
        TwGroup {
            signals: self.signals,
            signals_half: self.signals_half,
            packets: self.packets,
            packets_half: self.packets_half,
            staging: self.staging,
            staging_half: self.staging_half,
            world: self.world as u32,
            ..TwGroup::default()
        }
    }
}

/// The smallest heap whose layout satisfies `enough`, which holds for every larger one too; `None` beyond 2^62 bytes.
/// Rounded up to 4 KiB.
pub(crate) fn smallest(world: usize, one_shot_bytes: usize, enough: impl Fn(&Layout) -> bool) -> Option<usize> {
    const PAGE: u64 = 4096;
    let fits = |pages: u64| Layout::of(pages * PAGE, world as u64, one_shot_bytes as u64).is_some_and(|l| enough(&l));
    let mut high = 1u64;
    while !fits(high) {
        high = high.checked_mul(2).filter(|h| *h <= 1 << 50)?;
    }
    let mut low = high / 2; // does not fit, or is 0
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle }
    }
    usize::try_from(high * PAGE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Layout> {
        let sizes = [1 << 16, 100_001, 1 << 20, 12_345_678, 1 << 26, 1 << 33];
        sizes.into_iter().flat_map(|bytes| {
            (1..=16).flat_map(move |world| {
                [0, 1, 4096, 65536]
                    .into_iter()
                    .filter_map(move |one_shot| Layout::of(bytes, world, one_shot))
            })
        })
    }

    #[test]
    fn regions_are_aligned_and_apart() {
        assert!(all().count() > 300);
        for l in all() {
            for at in [
                l.packets,
                l.packets_half,
                l.signals,
                l.signals_half,
                l.scratch,
                l.scratch_bytes,
                l.staging,
            ] {
                assert_eq!(at % ALIGN, 0, "{l:?}");
            }
            assert!(l.packets >= CONTROL_BYTES as u64);
            assert!(l.signals >= l.packets + 2 * l.packets_half);
            assert!(l.scratch >= l.signals + 2 * l.signals_half + COUNTERS);
            assert!(l.staging >= l.scratch + l.scratch_bytes);
            assert!(l.staging + 2 * l.staging_half <= l.heap_bytes, "{l:?}");
            assert!(l.packets_half >= 2 * l.world * l.one_shot_bytes);
            assert!(l.signals_count() >= 2 * (l.staging_half / SMALLEST_TILE).max(l.world));
        }
    }

    #[test]
    fn little_is_lost() {
        for l in all().filter(|l| l.heap_bytes >= 1 << 23) {
            let used = l.staging + 2 * l.staging_half;
            assert!(l.heap_bytes - used < 64 * 1024, "{} of {l:?}", l.heap_bytes - used);
        }
    }

    #[test]
    fn grows_with_the_heap() {
        let mut last = Layout::of(1 << 16, 3, 1000).unwrap();
        for bytes in ((1 << 16)..(1 << 18)).step_by(511) {
            let l = Layout::of(bytes, 3, 1000).unwrap();
            assert!(l.staging_half >= last.staging_half && l.signals_half >= last.signals_half);
            assert!(l.scratch_bytes >= last.scratch_bytes);
            last = l;
        }
    }

    #[test]
    fn the_smallest_heap_is_the_smallest() {
        for half in [8192, 100_000, 1 << 24] {
            let enough = |l: &Layout| l.staging_half >= half;
            let bytes = smallest(4, 65536, enough).unwrap() as u64;
            assert!(enough(&Layout::of(bytes, 4, 65536).unwrap()));
            assert!(!Layout::of(bytes - 4096, 4, 65536).is_some_and(|l| enough(&l)));
        }
        assert_eq!(smallest(4, 65536, |_| false), None);
        assert_eq!(smallest(4, usize::MAX, |_| true), None);
    }

    #[test]
    fn too_small_names_both_sizes() {
        let Err(Error::HeapTooSmall { need, have: 4096, .. }) = Layout::new(4096, 8, 65536) else {
            panic!()
        };
        assert!(Layout::new(need, 8, 65536).is_ok() && Layout::new(need - 4096, 8, 65536).is_err());
    }
}
