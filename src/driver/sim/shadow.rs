//! Shadow memory: one u64 for each 16-byte granule says who wrote it last. `csrc/machine/sim/self.h` tells the layout.

pub(super) const UNALLOCATED: u64 = 0;
pub(super) const UNWRITTEN: u64 = 1;
pub(super) const HOST: u64 = 2;

pub(super) const CLOCK_SHIFT: u32 = 16;
pub(super) const WHO_SHIFT: u32 = 41;
pub(super) const SLOT_SHIFT: u32 = 52;
pub(super) const CLOCK_ONE: u64 = 1 << CLOCK_SHIFT;
pub(super) const CLOCK_MAX: u32 = (1 << 25) - 1;
pub(super) const ALL_BYTES: u64 = 0xffff;
pub(super) const MAX_SLOTS: usize = (1 << 12) - 1;
pub(super) const MAX_THREADS: u32 = 1 << 10;
pub(super) const GRANULE: u64 = 16;

/// Entries of a row behind its threads': the asynchronous units of a CTA. First its mbarriers, whose clocks are their
/// phases; a TMA load writes as the mbarrier it completes on.
pub(super) const MBARRIERS: u32 = 64;
/// Marks what a load brought from memory that nobody had written; bits 0..15 of the tag number the mbarrier.
pub(super) const UNDEFINED: u32 = MBARRIERS;
/// Marks what a bulk copy reads; the tag's clock numbers the [`Source`](super::source::Source).
pub(super) const READING: u32 = MBARRIERS + 1;
const UNITS: u32 = MBARRIERS + 2;
/// The phase of a load that has not completed: nobody knows of it.
pub(super) const IN_FLIGHT: u32 = CLOCK_MAX;

/// Entries of a CTA's row. Above 991 threads there is no room in a tag for asynchronous units, and they cannot be used.
pub(super) fn row_entries(threads: u32) -> usize {
    let threads = 2 * threads;
    (if threads + UNITS <= 1 << (SLOT_SHIFT - WHO_SHIFT) {
        threads + UNITS
    } else {
        threads
    }) as usize
}

/// The last writer of a granule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Writer {
    pub slot: u16,
    /// Thread * 2, plus 1 for its asynchronous copies.
    pub who: u16,
    pub clock: u32,
}

pub(super) fn tag(slot: u16, who: u32, clock: u32) -> u64 {
    u64::from(slot) << SLOT_SHIFT | u64::from(who) << WHO_SHIFT | u64::from(clock) << CLOCK_SHIFT
}

pub(super) fn writer(tag: u64) -> Writer {
    Writer {
        slot: (tag >> SLOT_SHIFT) as u16,
        who: (tag >> WHO_SHIFT) as u16 & 0x7ff,
        clock: clock(tag),
    }
}

pub(super) fn clock(tag: u64) -> u32 {
    (tag >> CLOCK_SHIFT) as u32 & CLOCK_MAX
}

/// The bits of a granule's byte mask for `bytes` at `addr`, cut at the granule's end.
pub(super) fn mask(addr: u64, bytes: u64) -> u64 {
    let at = addr % GRANULE;
    let n = bytes.min(GRANULE - at);
    ((1u64 << n) - 1) << at
}

/// Whether a reader's tag is of any of the bytes in `mask`. One without a mask is of the whole granule.
pub(super) fn touches(tag: u64, mask: u64) -> bool {
    tag & ALL_BYTES == 0 || tag & mask != 0
}

/// The shadow after a write of the bytes in `mask` with `tag`: bytes of one writer and clock add up.
pub(super) fn after_write(old: u64, tag: u64, mask: u64) -> u64 {
    if old > HOST && (old ^ tag) >> CLOCK_SHIFT == 0 {
        old | mask
    } else {
        (tag & !ALL_BYTES) | mask
    }
}
