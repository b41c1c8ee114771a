//! A group of which this process drives one rank. Everything that ranks decide by is a function of what all have said: facts are the
//! least that any rank has, and the machine is as one rank tells it. Each rank makes a heap and maps the others'; nobody launches
//! before all have.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::super::holdings::{Holdings, Local};
use super::super::links::Links;
use super::super::membership::Membership;
use super::super::nccl;
use super::super::{GROUPS, Group, GroupConfig, Numerics, Rank, RankPlace, budget, holdings, residence};
use super::hall::{Given, Hall};
use super::id::digest;
use super::machine;
use super::mesh::Mesh;
use super::peers::Peers;
use super::places::{self, Told};
use super::words::Process;
use crate::abi::TwControl;
use crate::driver::{Driver, Place};
use crate::error::{Error, Result};
use crate::memory::heap::Heap;
use crate::memory::layout::Layout;
use crate::memory::multicast;
use crate::op::Facts;
use crate::op::kernel::Kernel;
use crate::trace;

/// What a rank's device offers to the group.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub hopper: bool,
    /// Resident CTAs, in the order of [`Kernel::all_clusters`].
    ctas: Vec<u32>,
    /// Bytes that its part of a multicast object is a multiple of, or why it has none.
    pub multicast: Result<usize, String>,
    /// A hash of the machine as it was told: what does not survive the way would give ranks different routes.
    machine: String,
}

/// One that joins.
pub(super) struct Joiner<'a> {
    pub driver: &'a Arc<dyn Driver>,
    pub rank: usize,
    pub at: RankPlace,
    pub config: &'a GroupConfig,
}

impl Joiner<'_> {
    /// The group of `processes`, all of which are in the hall.
    pub fn join(&self, hall: &mut Hall, processes: &[Process]) -> Result<Rank> {
        let (driver, config, world) = (self.driver, self.config, processes.len());
        let told = hall.gather("place", self.prepare().map(|told| (told, Given::new())))?;
        let told: Vec<Told> = told.into_iter().map(|(told, _)| told).collect();
        places::check(&told, processes)?;
        let mut links = machine::agree(driver, hall, self.rank, &told, config.probing)?;
        let gpus: Vec<usize> = told
            .iter()
            .map(|told| {
                links
                    .topology()
                    .gpu_of(&told.identity())
                    .unwrap_or(links.topology().gpus.len())
            })
            .collect();
        let offers = hall.gather("offer", self.offer(world, &links).map(|offer| (offer, Given::new())))?;
        let offers: Vec<Offer> = offers.into_iter().map(|(offer, _)| offer).collect();
        let machines = offers.iter().map(|offer| offer.machine.clone());
        agreed_on("the hash of the machine's links as it was told", machines)?;
        let unit = self.multicast(&offers, &told, &links);

        holdings::give_back();
        // From here on what was made is given back whatever happens, and not before the work in its stream is done.
        let mut holdings = Holdings::default();
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let layout = Layout::new(config.heap_bytes, world, config.one_shot_bytes)?;
        let exported = self.make(number, &mut holdings, &layout, *unit.as_ref().unwrap_or(&1));
        let heard = hall.gather("heap", exported.map(|(bytes, fd)| (bytes, vec![(None, fd)])))?;
        let heaps = heard.iter().map(|(bytes, _)| format!("{bytes} bytes"));
        agreed_on("the size of the heap", heaps)?;
        let imported = self.import(&mut holdings, heard, &told, &links, &gpus);
        let tried = hall.gather("mapping", imported.map(|tried| (tried, Given::new())))?;
        for (from, (tried, _)) in tried.into_iter().enumerate() {
            for (to, reached) in tried {
                let gpu = |rank: usize| gpus.get(rank).copied().unwrap_or(usize::MAX);
                links.found(gpu(from), gpu(to), reached);
            }
        }
        let mesh = Mesh::join(hall, self.rank, world)?;
        let shared = match unit {
            Ok(_) => self.share(hall, &holdings.heaps, world)?,
            Err(reason) => Err(reason),
        };
        if let (Numerics::InSwitch, Err(reason)) = (config.numerics, &shared) {
            links.say(format!("no sums in the switch, though asked for: {reason}"));
        }
        let mut machine = links.machine_on(&gpus);
        // Whoever claimed what: here is one.
        machine.multicast |= shared.is_ok();
        let by_nccl = match nccl::wanted(&**driver, &machine, config) {
            Ok(()) => self.by_nccl(hall, &holdings, &layout)?,
            Err(reason) => Err(reason),
        };
        let facts = Facts {
            world,
            layout,
            hopper: offers.iter().all(|offer| offer.hopper),
            ctas: least(&offers),
            nccl: nccl::policy(&**driver, &machine, config.nccl),
            communicators: by_nccl.as_ref().map(drop).map_err(String::clone),
            machine,
            multicast: shared.as_ref().map(drop).map_err(String::clone),
        };
        holdings.shared = shared.ok();
        holdings.nccl = by_nccl.ok();
        let peers = Peers::new(mesh);
        holdings.line = Some(peers.line());
        let mut group = Group::of(driver, number, holdings, facts, links, config);
        group.peers = Some(peers);
        self.ready(hall, group, told.iter().map(Told::to_string))
    }

    /// The end of joining: nobody launches before all have come so far.
    pub(super) fn ready(&self, hall: &mut Hall, group: Group, places: impl Iterator<Item = String>) -> Result<Rank> {
        // From here on this rank leaves in good order, whatever happens.
        let rank = Rank::new(Membership::new(group), self.rank, 0);
        let group = rank.group.group();
        let listening = group.peers.as_ref().map_or(Ok(()), |peers| peers.listen(group));
        hall.gather("readiness", listening.map(|()| ((), Given::new())))?;
        trace::group_made(&rank, places);
        Ok(rank)
    }

    pub(super) fn prepare(&self) -> Result<Told> {
        let RankPlace { place, stream } = self.at;
        let stream = stream.ok_or_else(|| Error::bad_argument("the rank's stream", "none", "one to launch on"))?;
        if self.driver.stream_is_capturing(stream)? {
            let expected = "one that does not: a group is made before its launches are captured";
            return Err(Error::bad_argument("the rank's stream", "one that captures", expected));
        }
        // All kernels are there before the first launch: loading one under a kernel that waits may deadlock.
        self.driver.load_kernels(place)?;
        Told::of(&**self.driver, place, stream)
    }

    pub(super) fn offer(&self, world: usize, links: &Links) -> Result<Offer> {
        let place = self.at.place;
        let ctas = residence::resident_ctas(&**self.driver, &[place], self.config.max_ctas)?;
        let of = |kernel: (Kernel, u32)| ctas.get(&kernel).copied().unwrap_or(0);
        let described = serde_json::to_vec(&(links.topology(), links.probe())).unwrap_or_default();
        Ok(Offer {
            hopper: residence::all_hopper(&**self.driver, &[place])?,
            ctas: Kernel::all_clusters().map(of).collect(),
            multicast: multicast::offered(&**self.driver, place, world),
            machine: digest([described.as_slice()]),
        })
    }

    /// This rank's part: its heap, whose control block is ready for the peers' first words, exported.
    fn make(&self, number: u64, holdings: &mut Holdings, layout: &Layout, unit: usize) -> Result<(usize, OwnedFd)> {
        let (driver, RankPlace { place, stream }) = (self.driver, self.at);
        holdings.budget = Some(budget::claim(driver, number, &[place], self.config.max_ctas)?);
        let heap = Heap::new(driver, place, self.config.heap_bytes, unit, &[place])?;
        let (ptr, memory, bytes) = (heap.ptr(), heap.memory()?, heap.bytes());
        holdings.heaps.push(heap);
        let local = Local::new(driver, self.rank, place, stream)?;
        let stream = local.lane.stream;
        holdings.locals.push(local);
        driver.fill(ptr, 0, layout.zeroed_bytes(), stream)?;
        driver.copy_in(ptr, &TwControl::initial().to_bytes(), stream)?;
        driver.stream_synchronize(stream)?;
        Ok((bytes, driver.physical_export(memory)?))
    }

    /// Maps the others' heaps for this rank's device, in rank order with its own. One that the machine's links do not reach is held and
    /// not mapped: operations with it are declined on all ranks. Where nobody knows of a link it is tried: with which ranks, and
    /// whether that went well.
    fn import(
        &self,
        holdings: &mut Holdings,
        heard: Vec<(usize, Vec<OwnedFd>)>,
        told: &[Told],
        links: &Links,
        gpus: &[usize],
    ) -> Result<Vec<(usize, bool)>> {
        let (driver, place) = (self.driver, self.at.place);
        let mut own = holdings.heaps.pop();
        let mut tried = Vec::new();
        for (rank, (bytes, fds)) in heard.into_iter().enumerate() {
            if rank == self.rank {
                holdings.heaps.extend(own.take());
                continue;
            }
            let [fd] = fds.as_slice() else {
                let name = format!("the heaps that rank {rank} gives");
                return Err(Error::bad_argument(name, fds.len(), "one"));
            };
            // A device that is not visible here has no ordinal; only that of the mapping counts then.
            let owner: Place = told[rank].here(&**driver)?.unwrap_or(place);
            let known = match gpus[rank] == gpus[self.rank] {
                true => Some(true),
                false => links.reaches(gpus[self.rank], gpus[rank]),
            };
            let import = |accessors: &[Place]| Heap::import(driver, fd.as_fd(), owner, bytes, accessors);
            holdings.heaps.push(match known {
                Some(true) => import(&[place])?,
                Some(false) => import(&[])?,
                None => {
                    let mapped = import(&[place]);
                    tried.push((rank, mapped.is_ok()));
                    mapped.or_else(|_| import(&[]))?
                }
            });
        }
        Ok(tried)
    }
}

/// Checks that all ranks, rank 0 first, have said the same of `what`. All have heard all, and so come to the same end.
fn agreed_on(what: &str, said: impl Iterator<Item = String>) -> Result<()> {
    let said: Vec<String> = said.collect();
    let Some(zero) = said.first() else {
        return Ok(());
    };
    match said.iter().position(|one| one != zero) {
        Some(rank) => Err(Error::Mismatch {
            rank,
            peer: 0,
            what: what.to_string(),
            ours: said[rank].clone(),
            theirs: zero.clone(),
        }),
        None => Ok(()),
    }
}

/// For each kernel what is resident on every rank.
pub(super) fn least(offers: &[Offer]) -> HashMap<(Kernel, u32), u32> {
    let kernels = Kernel::all_clusters().enumerate();
    let least = |index: usize| {
        offers
            .iter()
            .map(|offer| offer.ctas.get(index).copied().unwrap_or(0))
            .min()
    };
    kernels
        .map(|(index, kernel)| (kernel, least(index).unwrap_or(0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_differs_first_is_told_with_both_values() {
        let said = |said: &[usize]| agreed_on("the heap", said.iter().map(usize::to_string));
        assert!(said(&[]).is_ok() && said(&[4, 4, 4]).is_ok());
        let error = said(&[4, 4, 5, 6]).unwrap_err().to_string();
        assert!(error.contains("the heap is 5 on rank 2 and 4 on rank 0"), "{error}");
    }
}
