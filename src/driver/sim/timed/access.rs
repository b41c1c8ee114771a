//! What accesses to memory cost a warp: when its data is there, and how long a store holds it up.

use super::Timed;
use super::gpu::{self, Line};
use super::self_c::{FIRST_LOAD, LOADS};
use super::warp::{Cta, Warp};

/// Of the next access nobody has told how much is payload.
pub(super) const NO_PAYLOAD: u32 = u32::MAX;

impl Timed {
    /// The device whose memory an address is; of the host's, and of none, the asking one.
    pub fn owner(&self, addr: u64, own: usize) -> usize {
        self.arena.layout.device_of(addr).unwrap_or(own)
    }

    /// Where a contiguous access begins, whatever addresses the system gave.
    pub(super) fn place(&self, addr: u64) -> Line {
        Line::of(addr.wrapping_sub(self.arena.layout.base))
    }

    /// The same of rows of 128 bytes.
    pub(super) fn place_of_rows(&self, addr: u64) -> Line {
        Line::of_rows(addr.wrapping_sub(self.arena.layout.base))
    }

    /// What of an access to a peer is payload.
    pub(super) fn sent(&mut self, w: &mut Warp, device: usize, bytes: u32) {
        let payload = std::mem::replace(&mut w.c.payload, NO_PAYLOAD).min(bytes);
        self.traffic[device].0 += u64::from(payload) * u64::from(w.c.lanes);
    }

    /// Room for a load: one so far back has been waited for.
    pub(super) fn room_to_load(w: &mut Warp) {
        w.c.now = w.c.now.max(w.c.ready[w.c.loads.wrapping_add(1) as usize % LOADS]);
    }

    /// A number for a load whose data is there at `at`.
    pub(super) fn loaded(w: &mut Warp, at: u64) -> u32 {
        w.c.loads = w.c.loads.wrapping_add(1);
        w.c.ready[w.c.loads as usize % LOADS] = at;
        w.c.loads.wrapping_add(FIRST_LOAD)
    }

    pub(super) fn load(&mut self, cta: &Cta, w: &mut Warp, addr: u64, line: Line, bytes: u32) -> u64 {
        let owner = self.owner(addr, cta.gpu);
        let all = u64::from(bytes) * u64::from(w.c.lanes);
        if owner == cta.gpu {
            w.c.payload = NO_PAYLOAD;
            return self.gpus[owner].load(&self.rates, cta.sm, w.c.now, line, all);
        }
        self.sent(w, owner, bytes);
        gpu::load_from(
            &mut self.gpus,
            &self.rates,
            (cta.gpu, cta.sm, owner),
            (w.c.now, line, all),
        )
    }

    /// A store; when it is there.
    pub(super) fn store(&mut self, cta: &mut Cta, w: &mut Warp, addr: u64, bytes: u32) -> u64 {
        let (owner, line) = (self.owner(addr, cta.gpu), self.place(addr));
        let all = u64::from(bytes) * u64::from(w.c.lanes);
        if owner == cta.gpu {
            w.c.payload = NO_PAYLOAD;
            let (read, written) = self.gpus[owner].store(&self.rates, cta.sm, w.c.now, line, all);
            w.c.now = w.c.now.max(read.saturating_sub(self.rates.l2_latency));
            cta.written = cta.written.max(written);
            return written;
        }
        self.sent(w, cta.gpu, bytes);
        let way = (cta.gpu, cta.sm, owner);
        let (left, there, known) = gpu::store_to(&mut self.gpus, &self.rates, way, (w.c.now, line, all));
        // Stores are posted, as far as there is room for them.
        w.c.now = w.c.now.max(left.saturating_sub(self.rates.posted));
        cta.written = cta.written.max(known);
        cta.sent = w.c.now;
        there
    }
}
