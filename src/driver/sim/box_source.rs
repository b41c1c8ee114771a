//! The global memory that a TMA load reads: checked when it is issued, and found unchanged when it runs. A box of which
//! the host wrote every byte, the common one, costs a look at its shadow.

use super::copies::changed;
use super::cta::Cta;
use super::fiber::Fiber;
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{GRANULE, HOST, UNALLOCATED, UNWRITTEN};
use super::tensor_map::{Map, ROW};

/// Granules that a row of a box touches at most, where it begins inside one.
const TOUCHED: usize = (ROW / 16) as usize + 1;

/// The shadow of a load's source when it was issued.
#[derive(Debug, Clone)]
pub(super) enum BoxSource {
    /// The host wrote all of it.
    Host,
    /// By row of the box, what it touches.
    Tags(Vec<[u64; TOUCHED]>),
}

impl Machine {
    /// The granules that `bytes` at `addr` touch, if they are of one device.
    fn granules(&self, addr: u64, bytes: u64) -> Result<&[u64], Trouble> {
        let last = addr + bytes - 1;
        if self.layout.device_of(addr).is_none() || self.layout.device_of(addr) != self.layout.device_of(last) {
            return Err(Trouble::OutOfBounds {
                shared: false,
                addr,
                bytes,
                write: false,
            });
        }
        // SAFETY: in the arena, whose shadow is mapped everywhere for reading; callers write none of it.
        Ok(unsafe { self.layout.shadow_of(addr, bytes) })
    }

    /// Whether the box may be read by the asynchronous proxy as `f` knows things now.
    pub fn check_box_source(&mut self, cta: &Cta, f: &Fiber, map: &Map, at: &[u32; 4]) -> Result<BoxSource, Trouble> {
        let mut tags: Option<Vec<[u64; TOUCHED]>> = None;
        let mut known = HOST;
        for r in 0..map.rows() {
            let (start, bytes) = map.row(at, r);
            let mut row = [HOST; TOUCHED];
            if bytes > 0 {
                let granules = self.granules(start, bytes)?;
                row[..granules.len()].copy_from_slice(granules);
                if self.layout.device_of(start) != Some(usize::from(cta.device)) {
                    self.check_place(f, start / GRANULE * GRANULE, GRANULE, false)?;
                    for g in (start / GRANULE..(start + bytes).div_ceil(GRANULE)).map(|g| g * GRANULE) {
                        while let Some(id) = self.pending.newest_known(g, GRANULE, |s| Self::knows(cta, f, s.tag)) {
                            self.deliver(id);
                        }
                    }
                    let granules = self.granules(start, bytes)?;
                    row[..granules.len()].copy_from_slice(granules);
                }
            }
            if row.iter().all(|t| *t == HOST) && tags.is_none() {
                continue;
            }
            for (i, &tag) in row.iter().enumerate() {
                if tag == known || tag == HOST {
                    continue;
                }
                let addr = (start / GRANULE + i as u64) * GRANULE;
                match tag {
                    UNALLOCATED => {
                        return Err(Trouble::OutOfBounds {
                            shared: false,
                            addr: start,
                            bytes,
                            write: false,
                        });
                    }
                    UNWRITTEN => {}
                    _ if !Self::knows(cta, f, tag) => {
                        return Err(Trouble::Unordered {
                            shared: false,
                            addr,
                            bytes: GRANULE,
                            tag,
                        });
                    }
                    _ if !Self::knows_async(cta, f, tag) => return Err(Trouble::NoGlobalFence { addr, tag }),
                    _ => known = tag,
                }
            }
            if !self.pending.is_empty() {
                for i in (0..TOUCHED).filter(|i| row[*i] > HOST) {
                    let addr = (start / GRANULE + i as u64) * GRANULE;
                    if let Some(tag) = self.pending.data_on(addr, GRANULE) {
                        return Err(Trouble::Overtaken { addr, tag });
                    }
                }
            }
            let list = tags.get_or_insert_with(|| vec![[HOST; TOUCHED]; map.rows() as usize]);
            list[r as usize] = row;
        }
        Ok(tags.map_or(BoxSource::Host, BoxSource::Tags))
    }

    /// Who overwrites what kernels wrote must know that this load, read as `tag`, is over.
    pub fn mark_readers(&self, map: &Map, at: &[u32; 4], source: &BoxSource, tag: u64) {
        let BoxSource::Tags(tags) = source else { return };
        for (r, row) in tags.iter().enumerate() {
            let (start, _) = map.row(at, r as u32);
            for i in (0..TOUCHED).filter(|i| row[*i] > HOST) {
                // SAFETY: `check_box_source` has found the granule allocated, so its reader is mapped; if it has been freed
                // since, its mapping still is there.
                unsafe { *self.layout.reader((start / GRANULE + i as u64) * GRANULE) = tag };
            }
        }
    }

    pub fn check_unchanged(&self, map: &Map, at: &[u32; 4], source: &BoxSource) -> Result<(), Trouble> {
        for r in 0..map.rows() {
            let (start, bytes) = map.row(at, r);
            if bytes == 0 {
                continue;
            }
            let now = self.granules(start, bytes)?;
            let moved = match source {
                BoxSource::Host => now.iter().any(|t| *t != HOST),
                BoxSource::Tags(tags) => now
                    .iter()
                    .zip(&tags[r as usize])
                    .any(|(now, then)| changed(*then, *now, GRANULE)),
            };
            if moved {
                return Err(Trouble::LoadSourceChanged { addr: start });
            }
        }
        Ok(())
    }
}
