//! Kernels on the clocked node: CTAs onto SMs, in the order in which GPUs are seen to place them, and what their end leaves.

use std::rc::Rc;

use super::super::launch::{Kernel, registers};
use super::super::machine::{CTA_RESERVED, Machine, SM_CTAS, SM_THREADS};
use super::Timed;
use super::cluster::Cluster;
use super::warp::{Cta, Start, Wait, Warp};
use crate::driver::Launch;

impl Timed {
    /// SMs for the next cluster of a kernel: those with the fewest CTAs, lower numbers first; a cluster's are neighbours as far as
    /// there is room.
    fn find_sms(&self, gpu: usize, sms: std::ops::Range<usize>, launch: Launch, share: u32) -> Option<Vec<usize>> {
        let need = [launch.threads, launch.shared + CTA_RESERVED, 1, share];
        let room = [SM_THREADS, self.rates.sm_shared, SM_CTAS, SM_CTAS];
        let fits = |sm: usize, times: u32| {
            let taken = self.gpus[gpu].sms[sm].taken;
            (0..4).all(|i| taken[i] + times * need[i] <= room[i])
        };
        let first = sms
            .clone()
            .filter(|sm| fits(*sm, 1))
            .min_by_key(|sm| (self.gpus[gpu].sms[*sm].taken[2], *sm))?;
        let mut found = vec![first];
        while found.len() < launch.cluster as usize {
            let times = |sm: usize| found.iter().filter(|f| **f == sm).count() as u32 + 1;
            let next = (1..=sms.len())
                .map(|i| sms.start + (first - sms.start + i) % sms.len())
                .find(|sm| fits(*sm, times(*sm)))?;
            found.push(next);
        }
        Some(found)
    }

    fn start_cta(&mut self, number: u64, kernel: &mut Kernel, sm: usize, cluster: &Rc<Cluster>, rank: u32, at: u64) {
        let (launch, gpu) = (kernel.launch, kernel.stream.device);
        let block = kernel.placed;
        kernel.placed += 1;
        let taken = [
            launch.threads,
            launch.shared + CTA_RESERVED,
            1,
            registers(&kernel.entry),
        ];
        for (have, more) in self.gpus[gpu].sms[sm].taken.iter_mut().zip(taken) {
            *have += more;
        }
        let cta = Box::into_raw(Box::new(Cta {
            timed: self,
            kernel: number,
            gpu,
            sm,
            warps: Vec::new(),
            exited: 0,
            ended: at,
            threads: launch.threads,
            barriers: Default::default(),
            mbarriers: Vec::new(),
            cluster: cluster.clone(),
            written: 0,
            sent: 0,
            fence: 0..0,
            shared: vec![0; launch.shared.div_ceil(16) as usize],
            taken,
        }));
        cluster.members.borrow_mut().push(cta);
        self.ctas.push(cta);
        let start = Start {
            run: kernel.entry.run,
            params: &*kernel.params,
            block,
            threads: launch.threads,
            grid: launch.grid,
            rank,
            cluster: launch.cluster,
            at,
        };
        // SAFETY: just made; its warps point to it, and nothing else does.
        self.start_warps(unsafe { &mut *cta }, &start);
    }

    /// Takes a CTA off its SM.
    fn end_cta(&mut self, cta: *mut Cta) {
        self.ctas.retain(|other| *other != cta);
        // SAFETY: made by `start_cta` from a box; its warps are done or given up, and nobody refers to it any more: its
        // cluster's others have met it at their last barrier.
        let mut cta = unsafe { Box::from_raw(cta) };
        self.free_warps(&mut cta);
        for (have, less) in self.gpus[cta.gpu].sms[cta.sm].taken.iter_mut().zip(cta.taken) {
            *have -= less;
        }
    }

    /// Ends everything that runs.
    pub fn abandon(&mut self) {
        for cta in std::mem::take(&mut self.ctas) {
            self.end_cta(cta);
        }
        self.turns.clear();
        self.kernels.clear();
        if let Some(script) = &mut self.script {
            script.clear();
        }
    }

    /// Whoever reads memory now sees what has been stored, if nobody runs any more.
    pub fn land(&mut self) {
        if self.ctas.is_empty() {
            self.words.land(&self.arena);
        }
    }
}

impl Machine {
    /// Puts CTAs of a kernel where there is room, from the moment `at` on; true if it could.
    pub fn place_timed(&mut self, number: u64, at: Option<u64>) -> bool {
        let Some(timed) = self.timed.as_mut() else { return false };
        let Some(mut kernel) = timed.kernels.remove(&number) else {
            return false;
        };
        let at = at.unwrap_or_else(|| timed.streams.get(&kernel.stream).copied().unwrap_or(0).max(timed.time));
        let mut placed = false;
        while kernel.waiting_for_room() > 0 {
            let sms = kernel.sms();
            let Some(sms) = timed.find_sms(kernel.stream.device, sms, kernel.launch, registers(&kernel.entry)) else {
                break;
            };
            let cluster: Rc<Cluster> = Rc::default();
            for (rank, sm) in sms.into_iter().enumerate() {
                timed.start_cta(number, &mut kernel, sm, &cluster, rank as u32, at);
            }
            placed = true;
        }
        timed.kernels.insert(number, kernel);
        placed
    }

    /// A warp has returned from its kernel.
    pub(super) fn warp_left(&mut self, w: *mut Warp) {
        let Some(timed) = self.timed.as_mut() else { return };
        // SAFETY: its coroutine is done, and its CTA is live; no other reference.
        let (cta, last, ended, number) = unsafe {
            (*w).wait = Wait::Exited;
            let cta = (*w).cta;
            if let Some(script) = &mut timed.script {
                script.over((*w).name());
            }
            (*cta).exited += 1;
            (*cta).ended = (*cta).ended.max((*w).c.now);
            (
                cta,
                (*cta).exited as usize == (*cta).warps.len(),
                (*cta).ended,
                (*cta).kernel,
            )
        };
        if !last {
            return;
        }
        timed.end_cta(cta);
        let Some(kernel) = timed.kernels.get_mut(&number) else {
            return;
        };
        let stream = kernel.stream;
        let end = timed.streams.entry(stream).or_default();
        *end = (*end).max(ended);
        self.streams_stir = true;
        if kernel.cta_done() {
            timed.kernels.remove(&number);
            self.kernel_over(number, stream);
        } else if kernel.waiting_for_room() > 0 {
            self.place_timed(number, Some(ended));
        }
    }
}
