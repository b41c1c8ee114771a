//! Kernels: CTAs onto SMs as there is room, and what their end leaves behind.

use std::ops::Range;
use std::rc::Rc;

use super::clock::{Row, Rows, join, join_one};
use super::cluster::Cluster;
use super::cta::Cta;
use super::machine::{CTA_RESERVED, Machine, SM_CTAS, SM_SHARED, SM_THREADS};
use super::report::Trouble;
use super::shadow::CLOCK_MAX;
use super::stream::StreamKey;
use super::table::Entry;
use crate::abi::TwParams;
use crate::driver::Launch;

/// A launch as the host asked for it.
#[derive(Clone)]
pub(super) struct Request {
    pub entry: Entry,
    pub launch: Launch,
    pub params: TwParams,
}

/// A kernel that is being placed or runs.
pub(super) struct Kernel {
    pub entry: Entry,
    pub launch: Launch,
    pub stream: StreamKey,
    /// At one address for as long as a thread reads it.
    pub params: Box<TwParams>,
    sms: Range<usize>,
    pub placed: u32,
    done: u32,
    /// Known at its start.
    pub before: Rc<Rows>,
    /// Known once it is over.
    after: Rc<Rows>,
    pub slots: Vec<u16>,
}

impl Kernel {
    pub fn waiting_for_room(&self) -> u32 {
        self.launch.grid - self.placed
    }

    /// The SMs that it may run on.
    pub fn sms(&self) -> Range<usize> {
        self.sms.clone()
    }

    /// One more CTA has ended. True if it was the last.
    pub fn cta_done(&mut self) -> bool {
        self.done += 1;
        self.done == self.launch.grid
    }
}

/// The SMs of a share of a device.
pub(super) fn share_of(sms: u32, share: usize, shares: usize) -> Range<usize> {
    let sms = sms as usize;
    share * sms / shares..(share + 1) * sms / shares
}

/// How many CTAs of a kernel an SM holds at once.
pub(super) fn ctas_per_sm(entry: &Entry, launch: Launch) -> u32 {
    let by_threads = SM_THREADS / launch.threads.max(1);
    let by_shared = SM_SHARED / (launch.shared + CTA_RESERVED);
    by_threads.min(by_shared).min(entry.ctas_per_sm).min(SM_CTAS)
}

/// A CTA's share of an SM's registers, in 1 / 32 of them.
pub(super) fn registers(entry: &Entry) -> u32 {
    SM_CTAS / entry.ctas_per_sm.clamp(1, SM_CTAS)
}

impl Machine {
    pub fn start_kernel(&mut self, stream: StreamKey, request: Request, before: Rc<Rows>) -> u64 {
        let Request { entry, launch, params } = request;
        let number = self.next_kernel;
        self.next_kernel += 1;
        let sms = share_of(
            self.devices[stream.device].sms.len() as u32,
            stream.share,
            stream.shares,
        );
        let kernel = |entry| Kernel {
            entry,
            launch,
            stream,
            params: Box::new(params),
            sms: sms.clone(),
            placed: 0,
            done: 0,
            after: before.clone(),
            before: before.clone(),
            slots: Vec::new(),
        };
        if let Some(timed) = &mut self.timed {
            timed.kernels.insert(number, kernel(timed.twin(entry)));
        }
        if self.computes {
            self.kernels.insert(number, kernel(entry));
        }
        number
    }

    /// Puts CTAs of a kernel where there is room; true if it could.
    pub fn place_ctas(&mut self, number: u64) -> Result<bool, Trouble> {
        let mut placed = self.place_timed(number, None);
        while let Some(kernel) = self.kernels.get(&number)
            && kernel.waiting_for_room() > 0
        {
            let Some(sms) = self.find_sms(number) else { break };
            let slots: Vec<u16> = sms.iter().map_while(|_| self.take_slot()).collect();
            if slots.len() < sms.len() {
                self.free_slots.extend(slots);
                break;
            }
            let cluster: Rc<Cluster> = Rc::default();
            for (rank, (slot, sm)) in slots.into_iter().zip(sms).enumerate() {
                self.start_cta(number, slot, sm as u32, cluster.clone(), rank as u32);
            }
            placed = true;
        }
        Ok(placed)
    }

    /// SMs with room for the kernel's next cluster, one for each of its CTAs; none where it must wait.
    fn find_sms(&mut self, number: u64) -> Option<Vec<usize>> {
        let kernel = self.kernels.get(&number)?;
        let (launch, share) = (kernel.launch, registers(&kernel.entry));
        let (device, sms) = (kernel.stream.device, kernel.sms.clone());
        if self.threads_live + launch.cluster * launch.threads > self.threads_room {
            return None;
        }
        let first = self.rng.below(sms.len());
        // Counted here what the cluster's CTAs before take.
        let mut taken = vec![0; sms.len()];
        let mut found = Vec::new();
        for _ in 0..launch.cluster {
            let i = (0..sms.len()).map(|i| (first + i) % sms.len()).find(|i| {
                let (sm, n) = (self.devices[device].sms[sms.start + i], taken[*i] + 1);
                sm.threads + n * launch.threads <= SM_THREADS
                    && sm.shared + n * (launch.shared + CTA_RESERVED) <= SM_SHARED
                    && sm.ctas + n <= SM_CTAS
                    && sm.registers + n * share <= SM_CTAS
            })?;
            taken[i] += 1;
            found.push(sms.start + i);
        }
        Some(found)
    }

    /// All threads of a CTA have left.
    pub fn end_cta(&mut self, cta: *mut Cta) {
        // SAFETY: live, its fibers are done, and nobody refers to them.
        let (slot, number, start) = unsafe { ((*cta).slot, (*cta).kernel, (*cta).start) };
        // SAFETY: as above.
        let last = unsafe { (*cta).leave_nothing() };
        // Everything it knew, and did, up to a clock that its slot's next occupant starts behind.
        // SAFETY: as above; one fiber at a time.
        let newest = |i| unsafe { (*cta).fiber(i) }.newest_clock();
        // SAFETY: as above.
        let end = (0..unsafe { (*cta).threads }).map(newest).max().unwrap_or(start);
        // SAFETY: as above.
        let phases = unsafe { &(*cta).units.mbarriers }.iter().map(|b| b.phase).max();
        let end = end.max(start + phases.unwrap_or(0)) + 1;
        let row: Row = vec![end; last.own.len()].into();
        if let Some(kernel) = self.kernels.get_mut(&number) {
            join(&mut kernel.after, &last.others, &mut Vec::new());
            join_one(&mut kernel.after, slot, &row);
        }
        self.free_cta(cta, end + 1);
        let Some(kernel) = self.kernels.get_mut(&number) else {
            return;
        };
        self.streams_stir = true;
        if kernel.cta_done() {
            self.end_kernel(number);
        }
    }

    /// A kernel has ended where it was computed, or on the clock: it is over when nothing of it is left.
    pub fn kernel_over(&mut self, number: u64, stream: StreamKey) {
        let timed = self.timed.as_ref();
        if self.kernels.contains_key(&number) || timed.is_some_and(|timed| timed.kernels.contains_key(&number)) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.running = None;
        }
        self.finished(stream);
    }

    fn end_kernel(&mut self, number: u64) {
        let Some(kernel) = self.kernels.remove(&number) else {
            return;
        };
        for &slot in &kernel.slots {
            for id in self.pending.of_slot(slot, |_| true) {
                self.deliver(id);
            }
        }
        for slot in kernel.slots {
            let old = self.slots[usize::from(slot)].clock > CLOCK_MAX / 4;
            if old {
                self.old_slots.push(slot)
            } else {
                self.free_slots.extend([slot])
            }
        }
        if let Some(stream) = self.streams.get_mut(&kernel.stream) {
            join(&mut stream.rows, &kernel.after, &mut Vec::new());
        }
        self.kernel_over(number, kernel.stream);
        if self.kernels.is_empty() && !self.old_slots.is_empty() {
            self.renew_clocks();
        }
    }
}
