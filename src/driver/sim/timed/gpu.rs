//! A GPU's memory system: what an access takes from an SM to the L2, to device memory, over the links.
//!
//! Bytes pass units, each of which serves one after the other: the SM's port, the L2, device memory, a link out of one GPU
//! and into the other. An access ends when the last of them has served it, and a latency later its data is there. Whether
//! the L2 has a line is told by how many bytes have been filled since it was touched last: less than the L2 holds, and it
//! is there. Lines are told apart by where an access begins: the kernels' tiles come to the same places again and again.

use super::ledger::Ledger;
use super::rates::Rates;
use super::self_c::{SmC, Unit};

const LINES: usize = 1 << 19;

/// The place of an access: neighbouring lanes' 16 bytes are neighbours, or rows of 128 bytes are, as in a box of TMA and
/// in a stage that cp.async fills. The two are told apart: what was stored as one is not found as the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    addr: u64,
    shift: u32,
}

impl Line {
    /// Of a contiguous access.
    pub fn of(addr: u64) -> Line {
        Line { addr, shift: 9 }
    }

    /// Of rows of 128 bytes, the first at `addr`: all of them go by its name.
    pub fn of_rows(addr: u64) -> Line {
        Line { addr, shift: 63 }
    }

    fn name(self) -> u64 {
        match self.shift {
            63 => (self.addr >> 7) | 1 << 63,
            shift => self.addr >> shift,
        }
    }
}

/// What the L2 has: by a line's hash, its name and how many bytes had been filled when it was touched.
#[derive(Debug)]
struct Cache {
    lines: Vec<(u64, u64)>,
    filled: u64,
    bytes: u64,
}

impl Cache {
    fn new(bytes: u64) -> Cache {
        Cache {
            lines: vec![(0, 0); LINES],
            filled: 0,
            bytes,
        }
    }

    /// Whether it is there; from now on it is.
    fn touch(&mut self, line: Line, bytes: u64) -> bool {
        let step = 1 << line.shift;
        // A warp's access is one line; a longer one is several.
        let (line, more) = (line.name(), bytes.saturating_sub(1) / step);
        let there = self.touch_one(line, bytes.min(step));
        for i in 1..=more.min(64) {
            self.touch_one(line + i, step);
        }
        there
    }

    fn touch_one(&mut self, line: u64, bytes: u64) -> bool {
        let at = line.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LINES.trailing_zeros());
        let (name, then) = &mut self.lines[at as usize];
        let there = *name == line && self.filled - *then < self.bytes;
        if !there {
            self.filled += bytes;
        }
        (*name, *then) = (line, self.filled);
        there
    }
}

/// An SM: what its warps use, and its way to the L2 and back.
#[derive(Debug, Default, Clone)]
pub(super) struct Sm {
    pub c: SmC,
    pub load: Unit,
    pub store: Unit,
    /// Threads, bytes of shared memory, CTAs and 1 / 32 of the registers that are taken.
    pub taken: [u32; 4],
}

/// A GPU.
#[derive(Debug)]
pub(super) struct Gpu {
    /// As many as there are from the start: warps point to them.
    pub sms: Vec<Sm>,
    cache: Cache,
    pub l2: Ledger,
    pub hbm: Ledger,
    pub out: Ledger,
    pub into: Ledger,
    /// To each peer alone, where links lead to single peers.
    pub pairs: Vec<Ledger>,
}

fn time(bytes: u64, each: f64) -> u64 {
    (bytes as f64 * each) as u64
}

impl Gpu {
    pub fn new(gpus: usize, sms: u32, rates: &Rates) -> Gpu {
        Gpu {
            sms: vec![Sm::default(); sms as usize],
            cache: Cache::new(rates.l2_bytes),
            l2: Ledger::default(),
            hbm: Ledger::default(),
            out: Ledger::default(),
            into: Ledger::default(),
            pairs: (0..gpus).map(|_| Ledger::default()).collect(),
        }
    }

    /// No request comes for a moment before `time`, but for what little warps are ahead of each other.
    pub fn forget(&mut self, time: u64) {
        let own = [&mut self.l2, &mut self.hbm, &mut self.out, &mut self.into];
        own.into_iter()
            .chain(&mut self.pairs)
            .for_each(|unit| unit.forget(time));
    }

    /// From the L2 or behind it; when the last byte has left it, latency included.
    fn fetch(&mut self, rates: &Rates, from: u64, line: Line, bytes: u64) -> u64 {
        let served = self.l2.serve(from, time(bytes, rates.l2));
        if self.cache.touch(line, bytes) {
            served + rates.l2_latency
        } else {
            self.hbm.serve(from, time(bytes, rates.hbm)).max(served) + rates.hbm_latency
        }
    }

    /// Into the L2, and some day to device memory.
    fn put(&mut self, rates: &Rates, from: u64, line: Line, bytes: u64) -> u64 {
        self.cache.touch(line, bytes);
        self.hbm.serve(from, time(bytes, rates.hbm));
        self.l2.serve(from, time(bytes, rates.l2))
    }

    /// A load of this GPU's own memory by one of its SMs.
    pub fn load(&mut self, rates: &Rates, sm: usize, from: u64, line: Line, bytes: u64) -> u64 {
        let port = self.sms[sm].load.serve(from, time(bytes, rates.port));
        self.fetch(rates, from, line, bytes).max(port + rates.l2_latency)
    }

    /// The same for several SMs at once: one read of the L2.
    pub fn multicast(&mut self, rates: &Rates, sms: &[usize], from: u64, line: Line, bytes: u64) -> u64 {
        let fetched = self.fetch(rates, from, line, bytes);
        let ports = sms
            .iter()
            .map(|sm| self.sms[*sm].load.serve(from, time(bytes, rates.port)));
        ports.max().unwrap_or(from).max(fetched)
    }

    /// A store to this GPU's own memory: when it has been read from the SM, and when it is known to be written.
    pub fn store(&mut self, rates: &Rates, sm: usize, from: u64, line: Line, bytes: u64) -> (u64, u64) {
        let port = self.sms[sm].store.serve(from, time(bytes, rates.port));
        let put = self.put(rates, port, line, bytes);
        (port, put + rates.l2_latency)
    }
}

/// The links out of `from` and into `to` for so many bytes; when the last has left, and when it is there.
fn cross(gpus: &mut [Gpu], rates: &Rates, (from, to): (usize, usize), at: u64, bytes: u64) -> (u64, u64) {
    let pair = gpus[from].pairs[to].serve(at, time(bytes, rates.pair));
    let left = gpus[from].out.serve(at, time(bytes, rates.link)).max(pair);
    // It comes in as it goes out, and waits only where others come in, too.
    let taken = gpus[to]
        .into
        .serve(left - time(bytes, rates.link), time(bytes, rates.link));
    (left, taken.max(left) + rates.link_latency)
}

/// A store to a peer's memory: when it has been read from the SM, when it is there, and when that is known here.
pub(super) fn store_to(
    gpus: &mut [Gpu],
    rates: &Rates,
    (from, sm, to): (usize, usize, usize),
    (at, line, bytes): (u64, Line, u64),
) -> (u64, u64, u64) {
    let port = gpus[from].sms[sm].store.serve(at, time(bytes, rates.port));
    let (left, there) = cross(gpus, rates, (from, to), port, bytes);
    gpus[to].put(rates, there, line, bytes);
    (left, there, there + rates.link_latency)
}

/// A load from a peer's memory.
pub(super) fn load_from(
    gpus: &mut [Gpu],
    rates: &Rates,
    (own, sm, of): (usize, usize, usize),
    (at, line, bytes): (u64, Line, u64),
) -> u64 {
    let asked = at + rates.link_latency;
    let fetched = gpus[of].fetch(rates, asked, line, bytes);
    let (_, there) = cross(gpus, rates, (of, own), fetched, bytes);
    there.max(gpus[own].sms[sm].load.serve(at, time(bytes, rates.port)))
}

/// The switch reads every member's bytes and sends their sum to one of them.
pub(super) fn load_sum(
    gpus: &mut [Gpu],
    rates: &Rates,
    (own, sm): (usize, usize),
    members: &[(usize, Line)],
    (at, bytes): (u64, u64),
) -> u64 {
    let asked = at + rates.link_latency;
    let mut left = asked;
    for (member, line) in members {
        let fetched = gpus[*member].fetch(rates, asked, *line, bytes);
        left = left.max(gpus[*member].out.serve(fetched, time(bytes, rates.link)));
    }
    let taken = gpus[own].into.serve(left, time(bytes, rates.link));
    gpus[own].sms[sm].load.serve(at, time(bytes, rates.port)).max(taken) + rates.link_latency
}

/// One store that the switch makes one to every member: when it has left, and when the last knows it.
pub(super) fn store_all(
    gpus: &mut [Gpu],
    rates: &Rates,
    (own, sm): (usize, usize),
    members: &[(usize, Line)],
    (at, bytes): (u64, u64),
) -> (u64, u64) {
    let port = gpus[own].sms[sm].store.serve(at, time(bytes, rates.port));
    let left = gpus[own].out.serve(port, time(bytes, rates.link));
    let mut there = left;
    for (member, line) in members {
        let taken = gpus[*member].into.serve(left, time(bytes, rates.link));
        gpus[*member].put(rates, taken, *line, bytes);
        there = there.max(taken + rates.link_latency);
    }
    (left, there + rates.link_latency)
}
