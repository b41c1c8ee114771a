//! A CTA from a free slot to running fibers, and back. What `start_cta` boxes, and counts to an SM, `free_cta` takes again.

use std::collections::VecDeque;
use std::rc::Rc;

use corosensei::Coroutine;

use super::arena::SLICE;
use super::bulk::Bulk;
use super::clock::View;
use super::cluster::Cluster;
use super::config::Copies;
use super::cta::{Barrier, Cta, Warp, Window};
use super::fiber::{Co, Fiber, NO_PAYLOAD, SelfC, Wait, WarpOp};
use super::launch::registers;
use super::machine::{CTA_RESERVED, CTA_SHARED, Machine};
use super::product::THREADS;
use super::registers::Account;
use super::shadow::{self, ALL_BYTES, UNDEFINED, UNWRITTEN};
use super::units::Units;
use super::warpgroup::Warpgroup;
use crate::abi::TwParams;

impl Machine {
    pub fn start_cta(&mut self, number: u64, slot: u16, sm: u32, cluster: Rc<Cluster>, rank: u32) {
        let careful = u32::from(self.faults.any_site());
        let follows = self.timed.is_some();
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
            own: (0..shadow::row_entries(launch.threads))
                .map(|i| u32::from(i < (2 * launch.threads + UNDEFINED) as usize) * (start - 1))
                .collect(),
            others: before,
        });
        cluster.members.borrow_mut().push((slot, start));
        let units = Units::new(cluster, rank, launch.threads, view.clone());
        let own_base = self.layout.base + device as u64 * SLICE;

        let mut warps: Vec<Warp> = (0..launch.threads.div_ceil(32))
            .map(|_| Warp {
                arrived: 0,
                op: WarpOp::Sync,
                values: [0; 32],
                from: [0; 32],
                ops: vec![Default::default(); 128],
                rows: [(0, [0; 4]); 32],
                exited: 0,
            })
            .collect();
        let mut warpgroups = Warpgroup::of_cta(launch.threads);
        let mut coroutines: Vec<Option<Co>> = Vec::with_capacity(launch.threads as usize);
        let mut fibers: Vec<Fiber> = Vec::with_capacity(launch.threads as usize);
        for thread in 0..launch.threads {
            let mut rows = vec![0; 32];
            let lead = thread % 32 == 0;
            let ops = &mut warps[thread as usize / 32].ops;
            let mut group = warpgroups
                .get_mut(thread as usize / THREADS)
                .filter(|_| (thread as usize).is_multiple_of(THREADS));
            let (wgmma_ops, wgmma_room) = group.as_mut().map_or((std::ptr::null_mut(), 0), |g| {
                (g.record.as_mut_ptr(), g.record.len() as u32)
            });
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
                wgmma_hash: 0,
                wgmma_ops,
                wgmma_row: std::ptr::null(),
                wgmma_count: 0,
                wgmma_room,
                wgmma_fenced: 0,
                guarded: 0,
                noted: (lead && follows).into(),
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
                bulk: Bulk::default(),
                async_view: None,
                rows,
                issued: Vec::new(),
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
            warpgroups,
            account: Account::default(),
            ready: VecDeque::new(),
            active: None,
            priority: self.rng.next() as u32,
            exited: 0,
            window,
            units,
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

    /// Takes a CTA off its SM and gives back what it had. Its slot stays taken until its kernel is over: stores that it
    /// has on their way still bear the slot's name.
    pub fn free_cta(&mut self, cta: *mut Cta, next_clock: u32) {
        // SAFETY: made by `start_cta` from a box, live, and used by nobody from here on: its fibers are done or reset.
        let mut cta = unsafe { Box::from_raw(cta) };
        self.deactivate(&mut cta);
        self.forget_loads(cta.slot, cta.start);
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
