//! Bulk copies out of shared memory: `bulk_store` and `tma_store_2d`, their groups and their waits.
//!
//! A copy reads its source between issue and a wait for the read, and writes its destination between that and the full
//! wait. From issue on its source is under watch ([`source`](super::source)): what overwrites it must be ordered behind the
//! wait for the read. What it writes bears the number of its group in the issuing thread's second clock, as cp.async
//! does: nobody knows of it before the full wait, the thread itself included.

use super::config::Copies;
use super::cta::Cta;
use super::fiber::{Fiber, NO_PAYLOAD};
use super::machine::Machine;
use super::pending::Kind;
use super::proxy::Readiness;
use super::report::Trouble;
use super::shadow::{self, ALL_BYTES, CLOCK_ONE, GRANULE, READING, UNALLOCATED};
use super::source::Reader;
use super::tensor_map::{Map, ROW};
use super::tma::{check_box, chunk_at};

/// Bytes of one granule on their way from shared to global memory.
#[derive(Debug, Clone, Copy)]
struct Piece {
    src: u32,
    bytes: u8,
    dst: u64,
}

/// A bulk copy out of shared memory whose thread has not waited for all of it.
#[derive(Debug)]
pub(super) struct BulkCopy {
    number: u64,
    /// The thread's second clock: the group.
    group: u32,
    tag: u64,
    /// The device that it writes to.
    owner: usize,
    pieces: Vec<Piece>,
    /// Of each piece, once they are read.
    data: Vec<[u8; 16]>,
    written: bool,
    /// Its thread has waited for the read.
    released: bool,
}

/// What a thread has under way.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    copies: Vec<BulkCopy>,
    commits: u32,
}

impl Bulk {
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }
}

impl Machine {
    /// cp.async.bulk.global.shared::cta
    pub fn bulk_store(&mut self, cta: &mut Cta, f: &mut Fiber, dst: u64, src: u32, bytes: u32) -> Result<(), Trouble> {
        if bytes == 0 || !bytes.is_multiple_of(16) {
            return Err(Trouble::BadBulkSize { bytes });
        }
        if !src.is_multiple_of(16) || u64::from(src) + u64::from(bytes) > u64::from(f.me.shared_bytes) {
            return Self::check_shared(cta, f, src, 16, false).and(Err(Trouble::OutOfBounds {
                shared: true,
                addr: u64::from(src),
                bytes: u64::from(bytes),
                write: false,
            }));
        }
        self.check_place(f, dst, GRANULE, true)?;
        Self::check_source_of_bulk(cta, f, src, bytes)?;
        let pieces = (0..bytes / 16).map(|i| Piece {
            src: src + 16 * i,
            bytes: 16,
            dst: dst + 16 * u64::from(i),
        });
        self.start_bulk(cta, f, pieces.collect(), bytes)
    }

    /// cp.async.bulk.tensor.2d.global.shared::cta
    pub fn tma_store(
        &mut self,
        cta: &mut Cta,
        f: &mut Fiber,
        map: &Map,
        src: u32,
        at: [u32; 4],
    ) -> Result<(), Trouble> {
        check_box(f, src, map.bytes(), false)?;
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for r in 0..map.rows() {
            let (start, n) = map.row(&at, r);
            let (to, mut done) = (src + r * ROW, 0);
            if n == u64::from(ROW) {
                Self::check_source_of_bulk(cta, f, to, ROW)?;
            }
            while done < n {
                // Within one granule on either side.
                let chunk = chunk_at(to, (done / GRANULE) as usize);
                if n < u64::from(ROW) {
                    Self::check_source_of_bulk(cta, f, chunk, GRANULE as u32)?;
                }
                let here = (GRANULE - (start + done) % GRANULE)
                    .min(GRANULE - done % GRANULE)
                    .min(n - done);
                pieces.push(Piece {
                    src: chunk + (done % GRANULE) as u32,
                    bytes: here as u8,
                    dst: start + done,
                });
                done += here;
            }
            bytes += n as u32;
        }
        self.start_bulk(cta, f, pieces, bytes)
    }

    /// Whether a bulk copy that `f` issues now may read `bytes` at `addr`.
    fn check_source_of_bulk(cta: &Cta, f: &Fiber, addr: u32, bytes: u32) -> Result<(), Trouble> {
        match Self::async_read_shared(cta, f, addr, bytes)? {
            Readiness::Defined => Ok(()),
            Readiness::Undefined => Err(Trouble::UndefinedSource { addr }),
        }
    }

    /// Issues a copy of checked sources.
    fn start_bulk(&mut self, cta: &mut Cta, f: &mut Fiber, pieces: Vec<Piece>, bytes: u32) -> Result<(), Trouble> {
        self.check_groups(cta, f)?;
        let (device, payload) = (
            usize::from(cta.device),
            std::mem::replace(&mut f.me.payload, NO_PAYLOAD),
        );
        let Some(first) = pieces.first() else {
            return Ok(());
        };
        let owner = self.layout.device_of(first.dst).unwrap_or(device);
        self.check_target(cta, f, &pieces, owner)?;
        if owner != device {
            self.devices[device].traffic.0 += u64::from(if payload == NO_PAYLOAD { bytes } else { payload });
        }
        self.bulk_copies += 1;
        let number = self.bulk_copies;
        Self::watch_source(cta, f, number, &pieces);
        f.bulk.copies.push(BulkCopy {
            number,
            group: shadow::clock(f.me.async_tag),
            tag: f.me.async_tag & !ALL_BYTES,
            owner,
            pieces,
            data: Vec::new(),
            written: false,
            released: false,
        });
        let last = f.bulk.copies.len() - 1;
        match self.character.copies {
            Copies::AtIssue => self.write_bulk(cta, f, last),
            Copies::Mixed => self.move_bulk(cta, f, last),
            Copies::AtWait => Ok(()),
        }
    }

    /// A thread's second clock numbers either its cp.async groups or its bulk groups.
    fn check_groups(&self, cta: &Cta, f: &Fiber) -> Result<(), Trouble> {
        let groups = shadow::clock(f.me.async_tag) == cta.start + f.bulk.commits;
        if !groups || !f.copies.is_empty() {
            return Err(Trouble::MixedGroups);
        }
        if shadow::row_entries(cta.threads) == 2 * cta.threads as usize {
            return Err(Trouble::TooManyMbarriers {
                threads: cta.threads,
                room: 0,
            });
        }
        f.tick_room()
    }

    /// Whether `f` may write all of it, and knows that what it overwrites on a peer was consumed.
    fn check_target(&self, cta: &Cta, f: &Fiber, pieces: &[Piece], owner: usize) -> Result<(), Trouble> {
        let mut known = 0;
        for piece in pieces {
            let granule = piece.dst / GRANULE * GRANULE;
            let outside = Trouble::OutOfBounds {
                shared: false,
                addr: piece.dst,
                bytes: u64::from(piece.bytes),
                write: true,
            };
            // SAFETY: in the arena, so its shadow is mapped, at least for reading.
            if self.layout.device_of(granule) != Some(owner) || unsafe { *self.layout.shadow(granule) } == UNALLOCATED {
                return Err(outside);
            }
            if owner == usize::from(cta.device) && !self.guarded {
                continue;
            }
            // SAFETY: just found allocated.
            let reader = unsafe { *self.layout.reader(granule) };
            if reader != known {
                Self::check_consumed(cta, f, reader, granule)?;
                known = reader;
            }
        }
        let ends = [pieces.first(), pieces.last()];
        for piece in ends.into_iter().flatten() {
            self.check_place(f, piece.dst / GRANULE * GRANULE, GRANULE, true)?;
        }
        Ok(())
    }

    /// Has stores over the source leave the fast path from here on.
    fn watch_source(cta: &mut Cta, f: &Fiber, copy: u64, pieces: &[Piece]) {
        let granule_of = |p: &Piece| p.src / GRANULE as u32;
        let first = pieces.iter().map(granule_of).min().unwrap_or(0);
        let last = pieces.iter().map(granule_of).max().unwrap_or(0);
        let mut tags = vec![0; (last - first + 1) as usize];
        let mut readers = vec![Reader {
            copy,
            issuer: f.me.write_tag,
            released: None,
        }];
        let mut before = Vec::new();
        for piece in pieces {
            let granule = granule_of(piece);
            // SAFETY: callers have found all pieces in the window.
            let tag = unsafe { *f.me.shared_shadow.add(granule as usize) };
            let addr = granule * GRANULE as u32;
            let behind = &mut tags[(granule - first) as usize];
            if *behind != 0 {
                continue;
            }
            *behind = tag;
            if let Some(id) = Self::source_of(cta, tag) {
                *behind = cta.units.sources.behind(id, addr);
                before.push(id);
            }
        }
        let mut copied = before.clone();
        copied.dedup();
        for id in copied {
            for reader in cta.units.sources.get(id).iter().flat_map(|s| &s.readers) {
                if !readers.contains(reader) {
                    readers.push(*reader);
                }
            }
        }
        for id in before {
            cta.units.sources.drop_granule(id);
        }
        let have: Vec<bool> = tags.iter().map(|t| *t != 0).collect();
        let id = cta.units.sources.add(first * GRANULE as u32, tags, readers);
        let mark = shadow::tag(cta.slot, 2 * cta.threads + READING, id) | ALL_BYTES;
        for (i, _) in have.into_iter().enumerate().filter(|(_, have)| *have) {
            // SAFETY: as above.
            unsafe { *f.me.shared_shadow.add(first as usize + i) = mark };
        }
    }

    /// Reads the source of copy `i` of the thread, if that has not happened.
    fn read_bulk(f: &mut Fiber, i: usize) {
        let (shared, copy) = (f.me.shared, &mut f.bulk.copies[i]);
        if !copy.data.is_empty() {
            return;
        }
        let read = |piece: &Piece| {
            let mut data = [0; 16];
            let n = usize::from(piece.bytes);
            // SAFETY: `start_bulk`'s callers have found all pieces in the window.
            data[..n].copy_from_slice(unsafe { std::slice::from_raw_parts(shared.add(piece.src as usize), n) });
            data
        };
        copy.data = copy.pieces.iter().map(read).collect();
    }

    /// Writes the destination of copy `i`, if that has not happened. To a peer this means: sends it on its way.
    fn write_bulk(&mut self, cta: &Cta, f: &mut Fiber, i: usize) -> Result<(), Trouble> {
        Self::read_bulk(f, i);
        let copy = &mut f.bulk.copies[i];
        if std::mem::replace(&mut copy.written, true) {
            return Ok(());
        }
        for (piece, data) in copy.pieces.iter().zip(&mut copy.data) {
            let data = &mut data[..usize::from(piece.bytes)];
            self.cross_with(cta.device.into(), copy.owner, data);
            if copy.owner != usize::from(cta.device) {
                self.pending
                    .add(piece.dst, data, Kind::Weak, copy.tag, copy.owner as u16);
                continue;
            }
            // SAFETY: in the arena, so its shadow is mapped, at least for reading. It may have been freed since the issue.
            if unsafe { *self.layout.shadow(piece.dst) } == UNALLOCATED {
                return Err(Trouble::OutOfBounds {
                    shared: false,
                    addr: piece.dst,
                    bytes: u64::from(piece.bytes),
                    write: true,
                });
            }
            self.write(piece.dst, data, copy.tag);
        }
        Ok(())
    }

    /// Perhaps the copy is read now, perhaps written too.
    fn move_bulk(&mut self, cta: &Cta, f: &mut Fiber, i: usize) -> Result<(), Trouble> {
        match self.rng.below(3) {
            0 => Ok(()),
            1 => {
                Self::read_bulk(f, i);
                Ok(())
            }
            _ => self.write_bulk(cta, f, i),
        }
    }

    /// Some of a thread's copies get on.
    pub fn run_some_bulk(&mut self, cta: &Cta, f: &mut Fiber) -> Result<(), Trouble> {
        let i = self.rng.below(f.bulk.copies.len());
        self.move_bulk(cta, f, i)
    }

    pub fn bulk_commit(&mut self, cta: &Cta, f: &mut Fiber) -> Result<(), Trouble> {
        self.check_groups(cta, f)?;
        f.bulk.commits += 1;
        f.me.async_tag += CLOCK_ONE;
        Ok(())
    }

    /// cp.async.bulk.wait_group: all but the newest `open` groups are read, or, without `read`, written.
    pub fn bulk_wait(&mut self, cta: &mut Cta, f: &mut Fiber, open: u32, read: bool, site: u32) -> Result<(), Trouble> {
        if self.faults.ignores(site) {
            return Ok(());
        }
        self.check_groups(cta, f)?;
        let newest = shadow::clock(f.me.async_tag).saturating_sub(1 + open);
        let full = !read && !self.faults.read_for_full(site);
        let mut moved = false;
        for i in 0..f.bulk.copies.len() {
            if f.bulk.copies[i].group > newest {
                continue;
            }
            if full {
                self.write_bulk(cta, f, i)?;
            } else {
                Self::read_bulk(f, i);
            }
            let copy = &mut f.bulk.copies[i];
            if !std::mem::replace(&mut copy.released, true) {
                cta.units.sources.release(copy.number, f.me.write_tag);
                moved = true;
            }
        }
        if full {
            f.bulk.copies.retain(|c| c.group > newest);
            f.me.async_known = f.me.async_known.max(newest);
        }
        match moved {
            true => f.tick_checked(),
            false => Ok(()),
        }
    }

    /// The thread has left: what it has not waited for is read by nobody knows when, the rest is written some time.
    pub fn bulk_left(&mut self, cta: &Cta, f: &mut Fiber) -> Result<(), Trouble> {
        if let Some(copy) = f.bulk.copies.iter().find(|c| !c.released) {
            return Err(Trouble::BulkUnread {
                addr: copy.pieces.first().map_or(0, |p| p.src),
            });
        }
        for i in 0..f.bulk.copies.len() {
            self.write_bulk(cta, f, i)?;
        }
        f.bulk.copies.clear();
        Ok(())
    }
}
