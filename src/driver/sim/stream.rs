//! Streams: commands in order, several streams at once.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::arena::{Allocations, clear};
use super::clock::{Rows, join};
use super::launch::Request;
use super::machine::Machine;
use super::report::Trouble;
use super::shadow::{self, GRANULE, HOST, UNWRITTEN};
use super::together::Together;

/// Orders streams whatever thread made them: by place, then by creation at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StreamKey {
    pub device: usize,
    pub share: usize,
    pub shares: usize,
    pub ordinal: u64,
}

/// Where a copy to the host leaves its bytes.
pub(super) type Landing = Arc<Mutex<Vec<u8>>>;

pub(super) enum Command {
    Launch(Box<Request>),
    CopyIn {
        dst: u64,
        data: Vec<u8>,
    },
    CopyOut {
        src: u64,
        bytes: u64,
        to: Landing,
    },
    Fill {
        dst: u64,
        byte: u8,
        bytes: u64,
    },
    /// By the copy engine of the stream's device.
    Copy {
        dst: u64,
        src: u64,
        bytes: u64,
    },
    Free {
        ptr: u64,
    },
    /// An event happens; its records are numbered.
    Record {
        event: usize,
        record: u64,
    },
    Wait {
        event: usize,
        record: u64,
    },
    /// Another library's collective, on the clock.
    Together(Together),
    Close,
}

#[derive(Default)]
pub(super) struct StreamState {
    /// With what the host knew when it asked, and when that was on the clock.
    pub queue: VecDeque<(Command, Rc<Rows>, u64)>,
    /// Commands finished.
    pub done: u64,
    /// What its next command knows.
    pub rows: Rc<Rows>,
    /// The kernel at its head, by number.
    pub running: Option<u64>,
}

impl Machine {
    /// Lets every stream do one thing if it can; false if none could.
    pub fn step_streams(&mut self) -> Result<bool, Trouble> {
        let keys: Vec<StreamKey> = self.streams.keys().copied().collect();
        let mut moved = false;
        // On a clock the order is no matter of chance: of launches at one moment the first may begin earlier.
        let first = if self.timed.is_some() {
            0
        } else {
            self.rng.below(keys.len())
        };
        for i in 0..keys.len() {
            moved |= self.step_stream(keys[(first + i) % keys.len()])?;
        }
        Ok(moved)
    }

    fn step_stream(&mut self, key: StreamKey) -> Result<bool, Trouble> {
        let Some(stream) = self.streams.get_mut(&key) else {
            return Ok(false);
        };
        if let Some(kernel) = stream.running {
            return self.place_ctas(kernel);
        }
        let blocked = match stream.queue.front() {
            None => true,
            Some((Command::Wait { event, record }, ..)) => self.events.get(event).is_none_or(|e| e.0 < *record),
            Some(&(Command::Together(what), ..)) => return Ok(self.step_together(what)),
            Some(_) => false,
        };
        if blocked {
            return Ok(false);
        }
        let Some((command, host, asked)) = stream.queue.pop_front() else {
            return Ok(false);
        };
        join(&mut stream.rows, &host, &mut Vec::new());
        let rows = stream.rows.clone();
        let checked = !self.foreign.runs_free();
        match command {
            Command::Launch(request) => {
                if let Some(timed) = &mut self.timed {
                    let launch = timed.launch();
                    timed.stream_takes(key, asked, |from| from + launch);
                }
                let kernel = self.start_kernel(key, *request, rows);
                if let Some(stream) = self.streams.get_mut(&key) {
                    stream.running = Some(kernel);
                }
                self.place_ctas(kernel)?;
                return Ok(true);
            }
            Command::CopyIn { dst, data } => self.host_write(dst, &data)?,
            Command::CopyOut { src, bytes, to } => {
                let data = self.host_read(src, bytes, checked.then_some(&rows))?;
                *to.lock().unwrap_or_else(PoisonError::into_inner) = data;
            }
            Command::Fill { dst, byte, bytes } => self.host_write(dst, &vec![byte; bytes as usize])?,
            Command::Copy { dst, src, bytes } => {
                let mut data = self.host_read(src, bytes, checked.then_some(&rows))?;
                for end in [src, dst] {
                    self.cross_from(key.device, end, &mut data);
                }
                self.host_write(dst, &data)?;
            }
            Command::Free { ptr } => self.arena.free(ptr).map_err(|_| Trouble::BadFree { ptr })?,
            Command::Record { event, record } => {
                self.pass_time();
                let at = match &mut self.timed {
                    Some(timed) => timed.stream_takes(key, asked, |from| from) / 1000,
                    None => self.now,
                };
                self.events.insert(event, (record, rows, at));
            }
            Command::Wait { event, .. } => {
                if let (Some(timed), Some((.., at))) = (&mut self.timed, self.events.get(&event)) {
                    timed.stream_takes(key, asked, |from| from.max(*at * 1000));
                }
                if let (Some(stream), Some((_, then, _))) = (self.streams.get_mut(&key), self.events.get(&event)) {
                    join(&mut stream.rows, then, &mut Vec::new());
                }
            }
            // Taken above, with the others'.
            Command::Together(_) => {}
            Command::Close => {
                self.finished(key);
                self.streams.remove(&key);
                return Ok(true);
            }
        }
        self.finished(key);
        Ok(true)
    }

    /// The command at the head of a stream is done.
    pub fn finished(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        stream.done += 1;
        let done = stream.done;
        self.satisfied |= self.linked() || self.targets.iter().any(|(k, seq)| *k == key && *seq <= done);
        self.digest = (self.digest ^ key.device as u64 ^ done << 8).wrapping_mul(0x0000_0100_0000_01b3);
        self.streams_stir = true;
        self.fruitless = 0;
    }

    fn host_range(a: &Allocations, addr: u64, bytes: u64) -> Result<(), Trouble> {
        match a.find(addr, bytes) {
            Some(_) => Ok(()),
            None => Err(Trouble::HostRange { addr, bytes }),
        }
    }

    /// A write by the host or a stream.
    pub fn host_write(&mut self, addr: u64, data: &[u8]) -> Result<(), Trouble> {
        let bytes = data.len() as u64;
        if bytes == 0 {
            return Ok(());
        }
        let arena = self.arena.clone();
        let allocations = arena.lock();
        Self::host_range(&allocations, addr, bytes)?;
        if let Some(timed) = &mut self.timed {
            timed.host_wrote(addr, bytes);
        }
        if !self.computes {
            // SAFETY: as below.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len()) };
            return Ok(());
        }
        // SAFETY: one allocation holds the bytes; fibers are not running, and the lock keeps it from being freed.
        unsafe {
            let granules = self.layout.shadow_of(addr, bytes);
            let n = granules.len();
            for edge in [0, n - 1] {
                if granules[edge] == UNWRITTEN {
                    let granule = (addr / GRANULE + edge as u64) * GRANULE;
                    std::ptr::write_bytes(granule as *mut u8, 0xff, GRANULE as usize);
                }
            }
            granules.fill(HOST);
            clear(self.layout.readers_of(addr, bytes));
            match <[u8; 8]>::try_from(data) {
                // A word that others may be polling.
                Ok(word) if addr.is_multiple_of(8) => {
                    AtomicU64::from_ptr(addr as *mut u64).store(u64::from_ne_bytes(word), Ordering::Release);
                }
                _ => std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len()),
            }
        }
        drop(allocations);
        self.touched(addr, bytes);
        Ok(())
    }

    /// A read by the host, or by a stream that knows `rows`: then every byte's writer must be known.
    pub fn host_read(&mut self, addr: u64, bytes: u64, rows: Option<&Rc<Rows>>) -> Result<Vec<u8>, Trouble> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        if let Some(timed) = &mut self.timed {
            timed.land();
        }
        let allocations = self.arena.lock();
        Self::host_range(&allocations, addr, bytes)?;
        let mut data = vec![0; bytes as usize];
        // SAFETY: one allocation holds the bytes; fibers are not running, and the lock keeps it from being freed.
        let granules = unsafe {
            std::ptr::copy_nonoverlapping(addr as *const u8, data.as_mut_ptr(), data.len());
            self.layout.shadow_of(addr, bytes)
        };
        // Nothing is known of memory's writers where nothing is computed.
        let granules = if self.computes { granules } else { &mut [] };
        for (i, tag) in granules.iter().enumerate() {
            let granule = (addr / GRANULE + i as u64) * GRANULE;
            let (from, to) = (granule.max(addr), (granule + GRANULE).min(addr + bytes));
            if *tag == UNWRITTEN {
                data[(from - addr) as usize..(to - addr) as usize].fill(0xff);
            } else if *tag > HOST
                && let Some(rows) = rows
                && tag & shadow::mask(from, to - from) != 0
            {
                let w = shadow::writer(*tag);
                if !rows.knows(w.slot, w.who, w.clock) {
                    return Err(Trouble::CopyUnordered { addr: from, tag: *tag });
                }
            }
        }
        Ok(data)
    }
}
