//! Clusters: CTAs that start together and reach each other's shared memory, and their barrier.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::clock::{Row, Rows, join, join_one};
use super::cta::Cta;
use super::fiber::Wait;
use super::machine::Machine;
use super::report::Trouble;

#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Slot and first clock of each CTA, by rank.
    pub members: RefCell<Vec<(u16, u32)>>,
    /// Threads at the cluster's barrier, and the place of the first.
    arrived: Cell<u32>,
    site: Cell<u32>,
}

impl Cluster {
    pub fn size(&self) -> u32 {
        self.members.borrow().len() as u32
    }

    /// The place where threads of the cluster wait for the others, if any do.
    pub fn waits_at(&self) -> Option<u32> {
        (self.arrived.get() > 0).then(|| self.site.get())
    }
}

impl Machine {
    /// CTA `rank` of a cluster, if it still runs.
    pub fn member(&self, cluster: &Cluster, rank: u32) -> Result<*mut Cta, Trouble> {
        let members = cluster.members.borrow();
        let Some(&(slot, start)) = members.get(rank as usize) else {
            return Err(Trouble::NoSuchCta {
                rank,
                size: members.len() as u32,
            });
        };
        let cta = self.slots[usize::from(slot)].cta;
        // SAFETY: a slot's CTA is live.
        if cta.is_null() || unsafe { (*cta).start } != start {
            return Err(Trouble::CtaGone { rank });
        }
        Ok(cta)
    }

    /// Arrival at the cluster's barrier; true if the fiber must wait.
    ///
    /// # Safety
    /// `cta` is the running fiber's; no reference to a CTA or a fiber is live.
    pub unsafe fn cluster_sync(&mut self, cta: *mut Cta, thread: u32, site: u32) -> Result<bool, Trouble> {
        if self.faults.ignores(site) {
            return Ok(false);
        }
        // SAFETY: as the caller says; the references end before other CTAs are looked at.
        let (cluster, threads) = unsafe {
            let cta = &mut *cta;
            let f = cta.fiber(thread);
            f.tick_room()?;
            let warp = &cta.warps[f.warp()];
            if warp.arrived != 0 {
                return Err(Trouble::WarpSplit { op: warp.op, site });
            }
            (cta.units.cluster.clone(), cta.threads)
        };
        let members = (0..cluster.size())
            .map(|rank| self.member(&cluster, rank))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| Trouble::ClusterLeft { site })?;
        // SAFETY: live CTAs, only read.
        if members.iter().any(|m| unsafe { (**m).exited } > 0) {
            return Err(Trouble::ClusterLeft { site });
        }
        match cluster.waits_at() {
            None => cluster.site.set(site),
            Some(first) if first != site => return Err(Trouble::ClusterSites { first, second: site }),
            Some(_) => {}
        }
        cluster.arrived.set(cluster.arrived.get() + 1);
        if cluster.arrived.get() < threads * members.len() as u32 {
            // SAFETY: the running fiber.
            unsafe { (*cta).fiber(thread) }.wait = Wait::Cluster { site };
            return Ok(true);
        }
        cluster.arrived.set(0);
        self.fruitless = 0;
        let keep = self.faults.any_early();
        let mut others: Rc<Rows> = Rc::default();
        let mut rows: Vec<(u16, Row)> = Vec::new();
        for &member in &members {
            // SAFETY: a live CTA, all of whose threads have arrived; one reference at a time.
            let member = unsafe { &mut *member };
            // SAFETY: as above.
            unsafe { member.join_all(keep) };
            join(&mut others, &member.view.others, &mut Vec::new());
            rows.push((member.slot, member.view.own.clone().into()));
        }
        for (slot, row) in &rows {
            join_one(&mut others, *slot, row);
        }
        for &member in &members {
            // SAFETY: as above; none of its fibers runs but the caller's, which is not referred to.
            unsafe {
                let current = member == cta;
                let member = &mut *member;
                let view = Rc::make_mut(&mut member.view);
                view.others = others.clone();
                let row = view.own.as_ptr();
                for i in 0..member.threads {
                    let f = member.fiber(i);
                    f.me.row = row;
                    if !(current && i == thread) {
                        member.wake(f);
                    }
                }
                self.activate(member);
            }
        }
        Ok(false)
    }
}
