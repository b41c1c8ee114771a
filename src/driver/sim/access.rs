//! Weak accesses to global memory off the fast path: the checks, the own device's granules by their bytes, and peers.
//!
//! A read must be ordered behind the granule's last writer (the shadow). A store to a peer and a `discard` must be ordered
//! behind its last reader or discarder: who overwrites staging must know that it was consumed. Reads of what the host
//! wrote are not tracked so, and stores to the own device's memory only once devices load from each other's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cta::Cta;
use super::fiber::Fiber;
use super::machine::Machine;
use super::pending::{Kind, Store};
use super::report::Trouble;
use super::shadow::{self, ALL_BYTES, GRANULE, HOST, UNALLOCATED, UNWRITTEN};
use super::switch::take_payload;
use super::units::Content;

impl Machine {
    /// True where the fiber knows that what `tag` names happened before.
    pub fn knows(cta: &Cta, f: &Fiber, tag: u64) -> bool {
        let w = shadow::writer(tag);
        let view = f.view.as_deref().unwrap_or(&cta.view);
        if w.slot != cta.slot || w.clock < cta.start {
            return view.others.knows(w.slot, w.who, w.clock);
        }
        let own = u32::from(w.who) / 2 == f.me.thread;
        match (own, w.who & 1) {
            (true, 0) => true,
            (true, _) if w.clock <= f.me.async_known => true,
            _ => view.own.get(usize::from(w.who)).is_some_and(|c| *c >= w.clock),
        }
    }

    /// Alignment, allocation and access rights of `bytes` at `addr`; the owner's device.
    pub fn check_place(&self, f: &Fiber, addr: u64, bytes: u64, write: bool) -> Result<usize, Trouble> {
        if !addr.is_multiple_of(bytes) {
            return Err(Trouble::Misaligned {
                shared: false,
                addr,
                bytes,
            });
        }
        let outside = Trouble::OutOfBounds {
            shared: false,
            addr,
            bytes,
            write,
        };
        let owner = self.layout.device_of(addr).ok_or(outside)?;
        // SAFETY: in the arena, so its shadow is mapped, at least for reading.
        if unsafe { *self.layout.shadow(addr) } == UNALLOCATED {
            return Err(outside);
        }
        // SAFETY: a fiber's CTA outlives it.
        let device = unsafe { (*f.cta).device };
        if owner != usize::from(device) {
            let allocations = self.arena.lock();
            let Some((_, a)) = allocations.find(addr, bytes) else {
                return Err(outside);
            };
            if a.accessors >> device & 1 == 0 {
                return Err(Trouble::NotMapped { addr, owner });
            }
        }
        Ok(owner)
    }

    /// Whether a read of `bytes` at `addr` (one granule) is of written memory, and ordered behind its last writer.
    pub fn check_written(&self, cta: &Cta, f: &Fiber, addr: u64, bytes: u64) -> Result<(), Trouble> {
        // SAFETY: `check_place` has found the granule allocated.
        let tag = unsafe { *self.layout.shadow(addr) };
        match tag {
            UNWRITTEN => Err(Trouble::Uninitialised {
                shared: false,
                addr,
                bytes,
            }),
            HOST => Ok(()),
            _ if tag & shadow::mask(addr, bytes) == 0 || Self::knows(cta, f, tag) => Ok(()),
            _ => Err(Trouble::Unordered {
                shared: false,
                addr,
                bytes,
                tag,
            }),
        }
    }

    /// A weak load: `bytes` at `addr` lie in one granule. Returns after every check; the bytes may then be read.
    pub fn check_load(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, bytes: u64) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, bytes, false)?;
        let peer = owner != usize::from(cta.device);
        if peer || !self.aliases.is_empty() {
            // Stores to a peer, or through the switch, that this thread made or knows of have happened for it.
            while let Some(id) = self.pending.newest_known(addr, bytes, |s| Self::knows(cta, f, s.tag)) {
                self.deliver(id);
            }
        }
        self.check_written(cta, f, addr, bytes)?;
        self.check_alias(cta, f, addr)?;
        let payload = take_payload(f, bytes as u32);
        if peer {
            self.guard(f);
            self.devices[owner].traffic.0 += u64::from(payload);
        }
        self.note_read(addr, bytes, f.me.write_tag)
    }

    /// Notes a read of what a kernel wrote. A store on its way to the same bytes races with it: had it been ordered
    /// before the read it would have arrived, and what is ordered behind a read is not issued before it.
    pub fn note_read(&mut self, addr: u64, bytes: u64, reader: u64) -> Result<(), Trouble> {
        // SAFETY: the caller has found the granule allocated, so its shadow and reader are mapped.
        unsafe {
            if *self.layout.shadow(addr) <= HOST {
                return Ok(());
            }
            let last = self.layout.reader(addr);
            *last = shadow::after_write(*last, reader, shadow::mask(addr, bytes));
        }
        match self.pending.data_on(addr, bytes) {
            Some(tag) => Err(Trouble::Overtaken { addr, tag }),
            None => Ok(()),
        }
    }

    /// Whether the thread knows that the granule's last reader or discarder is done with it.
    pub fn check_consumed(cta: &Cta, f: &Fiber, reader: u64, addr: u64) -> Result<(), Trouble> {
        match reader {
            0 => Ok(()),
            tag if Self::knows(cta, f, tag) => Ok(()),
            tag => Err(Trouble::Unconsumed { addr, tag }),
        }
    }

    /// A weak store from a fiber.
    pub fn store(&mut self, cta: &Cta, f: &mut Fiber, addr: u64, data: &[u8]) -> Result<(), Trouble> {
        let owner = self.check_place(f, addr, data.len() as u64, true)?;
        let own = owner == usize::from(cta.device);
        if !own || self.guarded {
            // SAFETY: `check_place` has found the granule allocated.
            let reader = unsafe { *self.layout.reader(addr) };
            if shadow::touches(reader, shadow::mask(addr, data.len() as u64)) {
                Self::check_consumed(cta, f, reader, addr)?;
            }
        }
        let payload = take_payload(f, data.len() as u32);
        if own {
            self.write(addr, data, f.me.write_tag);
            return Ok(());
        }
        self.devices[usize::from(cta.device)].traffic.0 += u64::from(payload);
        let mut sent = [0; GRANULE as usize];
        let sent = &mut sent[..data.len()];
        sent.copy_from_slice(data);
        self.cross_with(cta.device.into(), owner, sent);
        self.pending.add(addr, sent, Kind::Weak, f.me.write_tag, owner as u16);
        Ok(())
    }

    /// Writes bytes of one granule in allocated memory, as `tag`.
    pub fn write(&mut self, addr: u64, data: &[u8], tag: u64) {
        self.mark(addr, data.len() as u64, tag);
        // SAFETY: the caller has found the granule allocated, so its bytes are mapped; fibers are not running.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len()) };
        self.touched(addr, data.len() as u64);
    }

    /// As [`Machine::write`], for an aligned word: threads of the host and other processes find it whole, and behind it what
    /// was written before.
    pub fn write_word(&mut self, addr: u64, word: u64, tag: u64) {
        self.mark(addr, 8, tag);
        // SAFETY: as in `write`; aligned, and whoever shares it reads it atomically.
        unsafe { AtomicU64::from_ptr(addr as *mut u64) }.store(word, Ordering::Release);
        self.touched(addr, 8);
    }

    /// Notes `bytes` of one granule of allocated memory as written by `tag`.
    pub fn mark(&mut self, addr: u64, bytes: u64, tag: u64) {
        // SAFETY: the caller has found the granule allocated, so bytes and shadow are mapped; fibers are not running. Memory
        // that others have is not unwritten.
        unsafe {
            let granule = self.layout.shadow(addr);
            if *granule == UNWRITTEN && bytes != GRANULE {
                std::ptr::write_bytes((addr / GRANULE * GRANULE) as *mut u8, 0xff, GRANULE as usize);
            }
            *granule = shadow::after_write(*granule, tag, shadow::mask(addr, bytes));
        }
    }

    /// Lets a pending store arrive, and before it what must arrive before it.
    pub fn deliver(&mut self, id: super::pending::Id) {
        let mut arrived = Vec::new();
        self.pending.take(id, |store| arrived.push(store));
        for store in arrived {
            self.arrive(store);
        }
    }

    fn arrive(&mut self, store: Store) {
        self.digest = (self.digest ^ (store.addr - self.layout.base)).wrapping_mul(0x0000_0100_0000_01b3);
        self.fruitless = 0;
        // The memory may have been freed meanwhile: its kernel was told so or will be, by whoever touches it next.
        // SAFETY: a pending store's address is in the arena.
        if unsafe { *self.layout.shadow(store.addr) } == UNALLOCATED {
            return;
        }
        if let Kind::Release(snapshot) = &store.kind {
            self.cover(store.addr, snapshot);
        }
        self.publish(&store);
        match store.kind {
            Kind::Weak => self.write(store.addr, &store.data[..usize::from(store.bytes)], store.tag),
            // Signals are words of 8 bytes.
            _ => self.write_word(
                store.addr,
                store.data[..8].try_into().map_or(0, u64::from_le_bytes),
                store.tag,
            ),
        }
    }

    /// The bytes are dead. Reads of them before a write are errors from now on.
    pub fn discard(&mut self, cta: &Cta, f: &Fiber, addr: u64, bytes: u64) -> Result<(), Trouble> {
        if bytes == 0 {
            return Ok(());
        }
        if !addr.is_multiple_of(GRANULE) {
            return Err(Trouble::Misaligned {
                shared: false,
                addr,
                bytes: GRANULE,
            });
        }
        self.check_place(f, addr, GRANULE, true)?;
        if self.arena.lock().find(addr, bytes).is_none() {
            return Err(Trouble::OutOfBounds {
                shared: false,
                addr,
                bytes,
                write: true,
            });
        }
        let mark = self.arena.discarded(addr);
        let whole = bytes / GRANULE * GRANULE;
        // SAFETY: one allocation holds the bytes, and no fiber runs meanwhile. A last granule that is dead in part stays.
        unsafe {
            let readers = self.layout.readers_of(addr, whole);
            for (i, (reader, shadow)) in readers.iter_mut().zip(self.layout.shadow_of(addr, whole)).enumerate() {
                // The discard itself is what the next writer must know of, where there was anything to discard.
                if *shadow > HOST || *reader != 0 {
                    Self::check_consumed(cta, f, *reader, addr + i as u64 * GRANULE)?;
                    *reader = f.me.write_tag;
                }
                *shadow = mark;
            }
            if mark == HOST {
                std::ptr::write_bytes(addr as *mut u8, 0xff, whole as usize);
            }
        }
        Ok(())
    }

    /// Shared memory off the fast path: an error, the thread's own write, or bytes beside the last writer's.
    pub fn check_shared(cta: &Cta, f: &Fiber, addr: u32, bytes: u32, write: bool) -> Result<(), Trouble> {
        let (at, n) = (u64::from(addr), u64::from(bytes));
        if at + n > u64::from(f.me.shared_bytes) {
            return Err(Trouble::OutOfBounds {
                shared: true,
                addr: at,
                bytes: n,
                write,
            });
        }
        if !addr.is_multiple_of(bytes) {
            return Err(Trouble::Misaligned {
                shared: true,
                addr: at,
                bytes: n,
            });
        }
        if write {
            return Ok(());
        }
        // SAFETY: inside the window, so inside its shadow.
        let tag = unsafe { *f.me.shared_shadow.add(addr as usize / GRANULE as usize) };
        if tag <= HOST {
            return Err(Trouble::Uninitialised {
                shared: true,
                addr: at,
                bytes: n,
            });
        }
        let tag = match Self::content(cta, addr, tag) {
            Content::Loaded(tag) | Content::Undefined(tag) if !Self::knows(cta, f, tag) => {
                return Err(Trouble::NotLoaded { addr, tag });
            }
            Content::Undefined(_) => return Err(Trouble::UndefinedRead { addr }),
            Content::Stored(tag) => tag,
            _ => return Ok(()),
        };
        if tag & ALL_BYTES & shadow::mask(at, n) == 0 || Self::knows(cta, f, tag) {
            return Ok(());
        }
        Err(Trouble::Unordered {
            shared: true,
            addr: at,
            bytes: n,
            tag,
        })
    }
}
