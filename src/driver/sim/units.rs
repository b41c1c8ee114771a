//! What a CTA has beside its threads: mbarriers, named barriers, its place in a cluster, and what the asynchronous proxy
//! knows of its shared memory.
//!
//! A granule of shared memory names its last writer in its shadow. Besides threads these may be asynchronous units
//! ([`shadow::MBARRIERS`]): [`Content`] tells them apart.

use std::rc::Rc;

use super::clock::View;
use super::cluster::Cluster;
use super::cta::Cta;
use super::machine::Machine;
use super::mbarrier::Mbarrier;
use super::named::Named;
use super::shadow::{self, ALL_BYTES, GRANULE, HOST, IN_FLIGHT, MBARRIERS, READING, UNDEFINED};
use super::source::Sources;

pub(super) struct Units {
    pub cluster: Rc<Cluster>,
    /// In its cluster.
    pub rank: u32,
    pub mbarriers: Vec<Mbarrier>,
    /// Barriers 1 to 15.
    pub named: [Named; 16],
    /// By thread, its `fence_async_shared` so far: its clock, and its newest cp.async group waited for.
    pub fences: Vec<Vec<(u32, u32)>>,
    pub sources: Sources,
    /// What all threads knew at the start.
    pub initial: Rc<View>,
}

impl Units {
    pub fn new(cluster: Rc<Cluster>, rank: u32, threads: u32, initial: Rc<View>) -> Units {
        Units {
            cluster,
            rank,
            mbarriers: Vec::new(),
            named: Default::default(),
            fences: vec![Vec::new(); threads as usize],
            sources: Sources::default(),
            initial,
        }
    }
}

/// What a granule of shared memory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nobody has written it.
    Nothing,
    /// What a thread wrote by an ordinary store or cp.async.
    Stored(u64),
    /// What a TMA load writes or wrote: the mbarrier it completes on is the writer.
    Loaded(u64),
    /// The same, of memory that nobody had written.
    Undefined(u64),
}

impl Content {
    /// The writer, if there is one.
    pub fn tag(self) -> Option<u64> {
        match self {
            Content::Nothing => None,
            Content::Stored(tag) | Content::Loaded(tag) | Content::Undefined(tag) => Some(tag),
        }
    }
}

/// True where a TMA load has been issued and has not completed.
pub(super) fn in_flight(tag: u64) -> bool {
    shadow::clock(tag) == IN_FLIGHT
}

impl Machine {
    /// The tag of what a load writes that completes on mbarrier `index` of a CTA at clock `clock` of it.
    pub fn load_tag(cta: &Cta, index: usize, clock: u32) -> u64 {
        shadow::tag(cta.slot, 2 * cta.threads + index as u32, clock) | ALL_BYTES
    }

    /// The same for a granule whose source nobody had written.
    pub fn undefined_tag(cta: &Cta, index: usize, clock: u32) -> u64 {
        shadow::tag(cta.slot, 2 * cta.threads + UNDEFINED, clock) | index as u64
    }

    /// The source that bulk copies read, if `tag`, a granule's shadow, names one.
    pub fn source_of(cta: &Cta, tag: u64) -> Option<u32> {
        (tag > HOST && u32::from(shadow::writer(tag).who) == 2 * cta.threads + READING).then(|| shadow::clock(tag))
    }

    /// What the granule of `addr` holds whose shadow is `tag`; copies that read it change nothing.
    pub fn content(cta: &Cta, addr: u32, tag: u64) -> Content {
        if tag <= HOST {
            return Content::Nothing;
        }
        let first = 2 * cta.threads;
        match u32::from(shadow::writer(tag).who).checked_sub(first) {
            None => Content::Stored(tag),
            Some(..MBARRIERS) => Content::Loaded(tag),
            Some(UNDEFINED) => {
                let index = (tag & ALL_BYTES) as usize;
                Content::Undefined(Self::load_tag(cta, index, shadow::clock(tag)))
            }
            Some(_) => {
                let behind = cta
                    .units
                    .sources
                    .behind(shadow::clock(tag), addr / GRANULE as u32 * GRANULE as u32);
                // What stands behind a source never is a source: `behind` ends here.
                match Self::source_of(cta, behind) {
                    None => Self::content(cta, addr, behind),
                    Some(_) => Content::Nothing,
                }
            }
        }
    }
}
