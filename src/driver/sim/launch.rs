//! Kernels: CTAs onto SMs as there is room, fibers for their threads, and what their end leaves behind.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use corosensei::Coroutine;

use super::arena::{SLICE, clear};
use super::clock::{Row, Rows, View, join, join_one};
use super::config::Copies;
use super::cta::{Barrier, Cta, Warp, Window};
use super::fiber::{Co, Fiber, NO_PAYLOAD, SelfC, Wait, WarpOp};
use super::machine::{CTA_RESERVED, CTA_SHARED, FIRST_CLOCK, Machine, SM_CTAS, SM_SHARED, SM_THREADS};
use super::report::Trouble;
use super::shadow::{self, ALL_BYTES, CLOCK_MAX, HOST, UNWRITTEN};
use super::stream::StreamKey;
use super::table::Entry;
use crate::abi::TwParams;
use crate::driver::Launch;

/// A launch as the host asked for it.
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
    params: Box<TwParams>,
    sms: Range<usize>,
    placed: u32,
    done: u32,
    /// Known at its start.
    before: Rc<Rows>,
    /// Known once it is over.
    after: Rc<Rows>,
    slots: Vec<u16>,
}

impl Kernel {
    pub fn waiting_for_room(&self) -> u32 {
        self.launch.grid - self.placed
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
fn registers(entry: &Entry) -> u32 {
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
        let kernel = Kernel {
            entry,
            launch,
            stream,
            params: Box::new(params),
            sms,
            placed: 0,
            done: 0,
            after: before.clone(),
            before,
            slots: Vec::new(),
        };
        self.kernels.insert(number, kernel);
        number
    }

    /// Puts CTAs of a kernel where there is room; true if it could.
    pub fn place_ctas(&mut self, number: u64) -> Result<bool, Trouble> {
        let mut placed = false;
        while let Some(kernel) = self.kernels.get(&number)
            && kernel.waiting_for_room() > 0
        {
            let (launch, share) = (kernel.launch, registers(&kernel.entry));
            let (device, sms) = (kernel.stream.device, kernel.sms.clone());
            if self.threads_live + launch.threads > self.threads_room {
                break;
            }
            let first = self.rng.below(sms.len());
            let found = (0..sms.len()).map(|i| sms.start + (first + i) % sms.len()).find(|sm| {
                let sm = self.devices[device].sms[*sm];
                sm.threads + launch.threads <= SM_THREADS
                    && sm.shared + launch.shared + CTA_RESERVED <= SM_SHARED
                    && sm.ctas < SM_CTAS
                    && sm.registers + share <= SM_CTAS
            });
            let Some(sm) = found else { break };
            let Some(slot) = self.take_slot() else { break };
            self.start_cta(number, slot, sm as u32);
            placed = true;
        }
        Ok(placed)
    }

    fn start_cta(&mut self, number: u64, slot: u16, sm: u32) {
        let careful = u32::from(self.faults.any_site());
        let Some(kernel) = self.kernels.get_mut(&number) else {
            return;
        };
        let (entry, launch, device) = (kernel.entry, kernel.launch, kernel.stream.device);
        let block = kernel.placed;
        kernel.placed += 1;
        kernel.slots.push(slot);
        let params: *const TwParams = &*kernel.params;
        let before = kernel.before.clone();

        let place = &mut self.devices[device].sms[sm as usize];
        place.threads += launch.threads;
        place.shared += launch.shared + CTA_RESERVED;
        place.ctas += 1;
        place.registers += registers(&entry);
        self.threads_live += launch.threads;

        let start = self.slots[usize::from(slot)].clock;
        let history = &mut self.slots[usize::from(slot)].history;
        if history.len() == 8 {
            history.remove(0);
        }
        history.push((start, entry.name, device as u16, block));

        let mut window = self.windows.pop().unwrap_or_else(|| Window::new(CTA_SHARED));
        let granules = launch.shared.div_ceil(16) as usize;
        window.shadow[..granules].fill(UNWRITTEN);
        let view = Rc::new(View {
            own: vec![start - 1; 2 * launch.threads as usize],
            others: before,
        });
        let own_base = self.layout.base + device as u64 * SLICE;

        let mut warps: Vec<Warp> = (0..launch.threads.div_ceil(32))
            .map(|_| Warp {
                arrived: 0,
                op: WarpOp::Sync,
                values: [0; 32],
                from: [0; 32],
                ops: vec![Default::default(); 128],
                exited: 0,
            })
            .collect();
        let mut coroutines: Vec<Option<Co>> = Vec::with_capacity(launch.threads as usize);
        let mut fibers: Vec<Fiber> = Vec::with_capacity(launch.threads as usize);
        for thread in 0..launch.threads {
            let mut rows = vec![0; 32];
            let lead = thread % 32 == 0;
            let ops = &mut warps[thread as usize / 32].ops;
            let me = SelfC {
                thread,
                block,
                threads: launch.threads,
                grid: launch.grid,
                shared: window.bytes.as_mut_ptr().cast(),
                shared_shadow: window.shadow.as_mut_ptr(),
                shared_bytes: launch.shared,
                careful,
                own_base,
                own_shadow: self.layout.shadow(own_base),
                write_tag: shadow::tag(slot, 2 * thread, start),
                async_tag: shadow::tag(slot, 2 * thread + 1, start) | ALL_BYTES,
                row: view.own.as_ptr(),
                async_known: start - 1,
                async_now: u32::from(self.character.copies != Copies::AtWait),
                async_queued: 0,
                payload: NO_PAYLOAD,
                stack_base: 0,
                mma_hash: 0,
                mma_lowest: u64::MAX,
                mma_ops: if lead { ops.as_mut_ptr() } else { std::ptr::null_mut() },
                mma_rows: rows.as_mut_ptr(),
                mma_count: 0,
                mma_room: if lead { ops.len() as u32 } else { 0 },
                row_count: 0,
                row_room: rows.len() as u32,
            };
            fibers.push(Fiber {
                me,
                cta: std::ptr::null_mut(),
                stack_slot: 0,
                yielder: std::ptr::null(),
                view: None,
                wait: Wait::Nothing,
                result: 0,
                polls: 0,
                parking: 0,
                polled: Vec::new(),
                watched: Vec::new(),
                copies: Vec::new(),
                rows,
            });
            coroutines.push(None);
        }
        let fibers = Box::into_raw(fibers.into_boxed_slice()).cast::<Fiber>();
        let coroutines = Box::into_raw(coroutines.into_boxed_slice()).cast::<Option<Co>>();
        let cta = Box::into_raw(Box::new(Cta {
            machine: self.me,
            slot,
            start,
            kernel: number,
            device: device as u16,
            sm,
            block,
            threads: launch.threads,
            fibers,
            coroutines,
            view,
            previous: None,
            barrier: Barrier::default(),
            warps,
            ready: VecDeque::new(),
            active: None,
            priority: self.rng.next() as u32,
            exited: 0,
            window,
        }));
        for thread in 0..launch.threads as usize {
            let Some(stack) = self.slab.take() else { break };
            // SAFETY: the CTA's own fibers and coroutines, both `threads` long; nothing else refers to them yet.
            unsafe {
                let f = fibers.add(thread);
                (*f).cta = cta;
                (*f).stack_slot = stack.slot;
                (*f).me.stack_base = corosensei::stack::Stack::base(&stack).get() as u64;
                *coroutines.add(thread) = Some(Coroutine::with_stack(stack, move |yielder, ()| {
                    (*f).yielder = yielder;
                    (entry.run)(params);
                }));
                (*cta).ready.push_back(thread as u16);
            }
        }
        self.slots[usize::from(slot)].cta = cta;
        // SAFETY: just made; no other reference.
        self.activate(unsafe { &mut *cta });
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
        let end = (0..unsafe { (*cta).threads }).map(newest).max().unwrap_or(start) + 1;
        let row: Row = vec![end; last.own.len()].into();
        if let Some(kernel) = self.kernels.get_mut(&number) {
            join(&mut kernel.after, &last.others, &mut Vec::new());
            join_one(&mut kernel.after, slot, &row);
        }
        self.free_cta(cta, end + 1);
        let Some(kernel) = self.kernels.get_mut(&number) else {
            return;
        };
        kernel.done += 1;
        self.streams_stir = true;
        if kernel.done == kernel.launch.grid {
            self.end_kernel(number);
        }
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
            stream.running = None;
            join(&mut stream.rows, &kernel.after, &mut Vec::new());
        }
        self.finished(kernel.stream);
        if self.kernels.is_empty() && !self.old_slots.is_empty() {
            self.renew_clocks();
        }
    }

    /// With nothing running, starts all clocks anew: whatever kernels wrote counts as written by the host from here on.
    fn renew_clocks(&mut self) {
        let ranges: Vec<(u64, u64)> = self.arena.lock().ranges().collect();
        for (start, bytes) in ranges {
            // SAFETY: a live allocation, and no fiber exists.
            unsafe {
                self.layout
                    .shadow_of(start, bytes)
                    .iter_mut()
                    .for_each(|tag| *tag = (*tag).min(HOST));
                clear(self.layout.readers_of(start, bytes));
            }
        }
        let nothing: Rc<Rows> = Rc::default();
        for stream in self.streams.values_mut() {
            stream.rows = nothing.clone();
            stream.queue.iter_mut().for_each(|(_, rows)| *rows = nothing.clone());
        }
        self.events.values_mut().for_each(|(_, rows)| *rows = nothing.clone());
        self.host = nothing;
        self.published.clear();
        self.free_slots.extend(self.old_slots.drain(..));
        for slot in &mut self.slots {
            slot.clock = FIRST_CLOCK;
            slot.history.clear();
        }
    }

    /// Takes a CTA off its SM and gives back what it had. Its slot stays taken until its kernel is over: stores that it
    /// has on their way still bear the slot's name.
    pub fn free_cta(&mut self, cta: *mut Cta, next_clock: u32) {
        // SAFETY: made by `start_cta` from a box, live, and used by nobody from here on: its fibers are done or reset.
        let mut cta = unsafe { Box::from_raw(cta) };
        self.deactivate(&mut cta);
        let slot = &mut self.slots[usize::from(cta.slot)];
        slot.cta = std::ptr::null_mut();
        slot.clock = next_clock;
        if let Some(kernel) = self.kernels.get(&cta.kernel) {
            let (launch, entry, device) = (kernel.launch, kernel.entry, kernel.stream.device);
            let place = &mut self.devices[device].sms[cta.sm as usize];
            place.threads -= launch.threads;
            place.shared -= launch.shared + CTA_RESERVED;
            place.ctas -= 1;
            place.registers -= registers(&entry);
        }
        self.threads_live -= cta.threads;
        let n = cta.threads as usize;
        // SAFETY: made by `start_cta` as boxed slices of this length.
        let (fibers, coroutines) = unsafe {
            let coroutines = Box::from_raw(std::ptr::slice_from_raw_parts_mut(cta.coroutines, n));
            (
                Box::from_raw(std::ptr::slice_from_raw_parts_mut(cta.fibers, n)),
                coroutines,
            )
        };
        for (f, co) in fibers.iter().zip(coroutines) {
            let id = Self::id_of_parts(&cta, f);
            for word in &f.watched {
                if let Some(list) = self.watch.get_mut(word) {
                    list.retain(|other| *other != id);
                    if list.is_empty() {
                        self.watch.remove(word);
                    }
                }
            }
            let Some(mut co) = co else { continue };
            if !co.done() {
                // SAFETY: the stack below holds C++ frames and callbacks that own nothing, so that forgetting them
                // leaks nothing and no destructor is owed.
                unsafe { co.force_reset() };
            }
            self.slab.free(co.into_stack().slot);
        }
        self.windows.push(std::mem::replace(&mut cta.window, Window::new(0)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::arena::Arena;
    use super::super::config::SimConfig;
    use super::*;

    #[test]
    fn renewed_clocks_forget_writers_and_free_old_slots() {
        let arena = Arc::new(Arena::new(1).unwrap());
        let at = arena.allocate(0, 64).unwrap();
        let mut m = Machine::new(&SimConfig::new(1, 0), arena).unwrap();
        let slot = m.take_slot().unwrap();
        m.slots[usize::from(slot)].clock = CLOCK_MAX / 2;
        m.old_slots.push(slot);
        m.write(at, &[1; 16], shadow::tag(slot, 0, 77));
        m.host_write(at + 16, &[2; 4]).unwrap();
        let unknown = m.host_read(at, 64, Some(&Rc::default()));
        assert!(matches!(unknown, Err(Trouble::CopyUnordered { .. })));
        m.renew_clocks();
        // SAFETY: one allocation, and nothing else uses it.
        let shadow = unsafe { m.layout.shadow_of(at, 64) };
        assert_eq!(shadow, [HOST, HOST, UNWRITTEN, UNWRITTEN]);
        let data = m.host_read(at, 64, Some(&Rc::default())).unwrap();
        assert_eq!((data[0], data[16], data[20], data[63]), (1, 2, 0xff, 0xff));
        assert_eq!(m.take_slot(), Some(slot));
        assert_eq!(m.slots[usize::from(slot)].clock, FIRST_CLOCK);
    }
}
