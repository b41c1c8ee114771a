//! TMA loads: boxes of global memory into the shared memory of one CTA or several of a cluster.
//!
//! A load is checked when it is issued, by what its thread knows then. From that moment its destination belongs to the
//! mbarrier it completes on, in a phase that nobody knows ([`shadow::IN_FLIGHT`]): a read, a store or another load there is
//! reported, whatever the schedule does. It runs at issue, between two bursts, or when nothing else can; then its source
//! must be as it was, the bytes get the running phase of the mbarrier as their writer, and are credited to it.
//!
//! Boxes of a multicast run one by one: CTAs of a cluster do not get their bytes at one time.

use super::box_source::BoxSource;
use super::config::Copies;
use super::cta::Cta;
use super::fiber::Fiber;
use super::machine::{FiberId, Machine};
use super::report::Trouble;
use super::shadow::{self, GRANULE, IN_FLIGHT, UNWRITTEN};
use super::tensor_map::{Map, ROW};

/// Alignment of a box in shared memory: eight rows, the period of the swizzle.
const BOX_ALIGNMENT: u32 = 8 * ROW;
const CHUNKS: usize = (ROW / 16) as usize;
/// Turns given away by polling threads after which a load that waits for nothing else to run runs all the same.
const PATIENCE: u64 = 4096;

/// A load for one CTA that has been issued and has not run.
#[derive(Debug)]
pub(super) struct Load {
    issuer: FiberId,
    /// Slot and first clock of the CTA that gets the bytes, and which of its mbarriers the credit.
    target: (u16, u32),
    index: usize,
    dst: u32,
    map: Map,
    at: [u32; 4],
    source: BoxSource,
}

/// A TMA load as a kernel asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub dst: u32,
    pub map: Map,
    pub at: [u32; 4],
    pub bar: u32,
    /// A mask of CTAs of the cluster; none: the thread's own.
    pub ctas: Option<u32>,
}

/// Where chunk `c` of the row at `to` stands: swizzled by the address, as the hardware does it.
pub(super) fn chunk_at(to: u32, c: usize) -> u32 {
    to + 16 * (c as u32 ^ (to / ROW % 8))
}

impl Machine {
    /// Issues a load.
    ///
    /// # Safety
    /// `cta` is the running fiber's; no reference to a CTA or a fiber is live.
    pub unsafe fn tma_load(&mut self, cta: *mut Cta, thread: u32, call: Call) -> Result<(), Trouble> {
        // SAFETY: the fiber and its CTA are only read; the references end with the block.
        let (source, cluster, mask, issuer) = unsafe {
            let (own, f) = (&*cta, &*(*cta).fibers.add(thread as usize));
            check_box(f, call.dst, call.map.bytes(), true)?;
            let source = self.check_box_source(own, f, &call.map, &call.at)?;
            let mask = call.ctas.unwrap_or(1 << own.units.rank);
            (source, own.units.cluster.clone(), mask, Self::id_of_parts(own, f))
        };
        if mask == 0 || u64::from(mask) >> cluster.size() != 0 {
            return Err(Trouble::BadMask {
                mask,
                size: cluster.size(),
            });
        }
        let first = self.loads.len();
        for rank in (0..cluster.size()).filter(|rank| mask >> rank & 1 != 0) {
            let of = self.member(&cluster, rank)?;
            // SAFETY: live CTAs, perhaps the same one, and only read: shadow is no part of what is referred to.
            let (index, left, target, reader) = unsafe {
                let (own, f, of) = (&*cta, &*(*cta).fibers.add(thread as usize), &*of);
                let index = Self::mbarrier_of_load(of, own, f, call.bar)?;
                let left = Self::claim(of, own, f, call.dst, call.map.bytes(), index)?;
                (index, left, (of.slot, of.start), Self::load_tag(of, index, IN_FLIGHT))
            };
            for source in left {
                // SAFETY: live, and no reference is.
                unsafe { (*of).units.sources.drop_granule(source) };
            }
            self.mark_readers(&call.map, &call.at, &source, reader);
            self.loads.push(Load {
                issuer,
                target,
                index,
                dst: call.dst,
                map: call.map,
                at: call.at,
                source: source.clone(),
            });
        }
        match self.character.copies {
            Copies::AtWait => Ok(()),
            Copies::AtIssue => self.run_loads(first, 1),
            Copies::Mixed => self.run_loads(first, 2),
        }
    }

    /// Runs loads from index `first` on, one in so many of them.
    fn run_loads(&mut self, first: usize, one_in: u32) -> Result<(), Trouble> {
        let mut at = first;
        while at < self.loads.len() {
            if one_in == 1 || self.rng.one_in(one_in) {
                let load = self.loads.remove(at);
                self.run_load(&load)?;
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Between two bursts: some loads complete. With `idle`, nothing else can run, so one does.
    pub fn progress_loads(&mut self, idle: bool) -> bool {
        let due = match self.character.copies {
            Copies::AtIssue | Copies::AtWait => self.fruitless > PATIENCE,
            Copies::Mixed => !self.loads.is_empty() && self.rng.one_in(2),
        };
        if self.loads.is_empty() || !(idle || due) {
            return false;
        }
        let load = self.loads.swap_remove(self.rng.below(self.loads.len()));
        self.fruitless = 0;
        if let Err(trouble) = self.run_load(&load) {
            let target = self.slots[usize::from(load.target.0)].cta;
            // SAFETY: a load's target is live (`run_load`), and has a first thread.
            let fiber = self.find(load.issuer).unwrap_or_else(|| unsafe { (*target).fibers });
            self.trouble = Some((trouble, fiber));
        }
        true
    }

    /// The loads into a CTA that have not run, by destination and mbarrier, when its last thread leaves.
    pub fn check_loads_over(&self, cta: &Cta) -> Result<(), Trouble> {
        match self.loads.iter().find(|l| l.target == (cta.slot, cta.start)) {
            None => Ok(()),
            Some(load) => Err(Trouble::LoadUnfinished {
                addr: load.dst,
                bar: cta.units.mbarriers[load.index].addr,
            }),
        }
    }

    /// Drops loads of a CTA that is taken away.
    pub fn forget_loads(&mut self, slot: u16, start: u32) {
        self.loads.retain(|l| l.target != (slot, start));
    }

    /// Takes the destination over: a load in flight is its writer from now on. The sources of bulk copies, once for each
    /// granule, that it took bytes from.
    fn claim(of: &Cta, own: &Cta, f: &Fiber, dst: u32, bytes: u32, index: usize) -> Result<Vec<u32>, Trouble> {
        let mut mbarriers = of.units.mbarriers.iter();
        if let Some(b) = mbarriers.find(|b| b.addr + 8 > dst && b.addr < dst + bytes) {
            return Err(Trouble::LoadOverMbarrier { addr: b.addr });
        }
        if Self::wgmma_in_flight(of, dst, bytes) {
            return Err(Trouble::WgmmaOverwritten { addr: dst, bytes });
        }
        let tag = Self::load_tag(of, index, IN_FLIGHT);
        let (mut known, mut left) = (UNWRITTEN, Vec::new());
        for g in dst / GRANULE as u32..(dst + bytes) / GRANULE as u32 {
            // SAFETY: every CTA has a first thread, and CTAs of a cluster have windows of one size, in which the box lies.
            let shadow = unsafe { &mut *(*of.fibers).me.shared_shadow.add(g as usize) };
            if *shadow != known && *shadow != UNWRITTEN {
                match Self::load_over(of, own, f, g * GRANULE as u32, *shadow)? {
                    Some(source) => left.push(source),
                    None => known = *shadow,
                }
            }
            *shadow = tag;
        }
        Ok(left)
    }

    /// Copies the box, and credits it.
    fn run_load(&mut self, load: &Load) -> Result<(), Trouble> {
        let cta = self.slots[usize::from(load.target.0)].cta;
        // SAFETY: a slot's CTA is live.
        if cta.is_null() || unsafe { (*cta).start } != load.target.1 {
            return Ok(());
        }
        self.check_unchanged(&load.map, &load.at, &load.source)?;
        // SAFETY: live, and nobody refers to it: this runs between two bursts, or on the stack of a fiber whose callback has
        // let go of its references. The executor's turn itself holds none.
        let cta = unsafe { &mut *cta };
        let barrier = &mut cta.units.mbarriers[load.index];
        let phase = barrier.phase;
        barrier.loaded = Some(phase);
        let clock = cta.start + phase;
        let (tag, undefined) = (
            Self::load_tag(cta, load.index, clock),
            Self::undefined_tag(cta, load.index, clock),
        );
        let (window, device) = (&mut cta.window, usize::from(cta.device));
        for r in 0..load.map.rows() {
            let (start, bytes) = load.map.row(&load.at, r);
            let to = load.dst + r * ROW;
            for c in 0..CHUNKS {
                let n = bytes.saturating_sub(16 * c as u64).min(16) as usize;
                let mut chunk = [0u8; 16];
                let from = (start + 16 * c as u64) as *const u8;
                if n == 16 {
                    // Nearly all of them: no call of memcpy.
                    // SAFETY: `check_unchanged` has found the row allocated.
                    chunk = unsafe { from.cast::<[u8; 16]>().read() };
                } else if n > 0 {
                    // SAFETY: as above.
                    chunk[..n].copy_from_slice(unsafe { std::slice::from_raw_parts(from, n) });
                }
                let granule = (chunk_at(to, c) / GRANULE as u32) as usize;
                self.cross_from(device, from as u64, &mut chunk[..n]);
                window.bytes[granule] = u128::from_le_bytes(chunk);
                window.shadow[granule] = match &load.source {
                    BoxSource::Tags(tags) if n > 0 => {
                        // A row that begins inside a granule has chunks in two.
                        let tags = &tags[r as usize][c..c + 1 + usize::from(!start.is_multiple_of(GRANULE))];
                        if tags.contains(&UNWRITTEN) { undefined } else { tag }
                    }
                    _ => tag,
                };
            }
        }
        self.mark_readers(&load.map, &load.at, &load.source, tag & !shadow::ALL_BYTES);
        self.credit(cta, load.index, -i64::from(load.map.bytes()))
    }
}

/// Place and alignment of a box in the shared memory of a thread's CTA.
pub(super) fn check_box(f: &Fiber, addr: u32, bytes: u32, write: bool) -> Result<(), Trouble> {
    let at = u64::from(addr);
    if !addr.is_multiple_of(BOX_ALIGNMENT) {
        return Err(Trouble::Misaligned {
            shared: true,
            addr: at,
            bytes: u64::from(BOX_ALIGNMENT),
        });
    }
    if at + u64::from(bytes) > u64::from(f.me.shared_bytes) {
        return Err(Trouble::OutOfBounds {
            shared: true,
            addr: at,
            bytes: u64::from(bytes),
            write,
        });
    }
    Ok(())
}
