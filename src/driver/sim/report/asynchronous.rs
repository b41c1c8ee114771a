//! The texts of violations around mbarriers, clusters and the asynchronous proxy.

use super::super::machine::Machine;
use super::super::tensor_map::BadMap;
use super::super::units::in_flight;
use super::{Trouble, place_of, site_name, writer};

/// Whether a load is under way or over.
fn load(tag: u64) -> &'static str {
    match in_flight(tag) {
        true => "is still in flight",
        false => "completed in a phase that this thread has not waited for, nor anybody that it is ordered behind",
    }
}

fn bad_map(why: BadMap) -> String {
    match why {
        BadMap::Misaligned => "which is not at a multiple of 64".into(),
        BadMap::Absent => "which is all zero: the host has encoded none".into(),
        BadMap::Foreign => "which is not what this driver's encode_tensor_map gave".into(),
        BadMap::Rank { map, call } => format!("which has {map} dimensions, in an instruction for {call}"),
    }
}

pub(super) fn describe_asynchronous(m: &Machine, trouble: Trouble) -> String {
    match trouble {
        Trouble::BadBarrier { id, threads } => {
            format!("barrier {id} of {threads} threads: expected 1 to 15, and whole warps of the CTA")
        }
        Trouble::BarrierThreads { id, first, second } => {
            format!("threads of one CTA await different numbers at barrier {id}: the first {first}, this one {second}")
        }
        Trouble::BarrierPartWarp { id, site, warp } => format!(
            "a partly arrived warp: barrier {id} at {} is full, and only some lanes of warp {warp} are there",
            site_name(site)
        ),
        Trouble::ClusterLeft { site } => format!(
            "the cluster's barrier at {} waits for threads that have left the kernel",
            site_name(site)
        ),
        Trouble::ClusterSites { first, second } => format!(
            "threads of one cluster meet at different barriers: the first arrived at {}, this one at {}",
            site_name(first),
            site_name(second)
        ),
        Trouble::NoSuchCta { rank, size } => format!("names CTA {rank} of a cluster of {size}"),
        Trouble::CtaGone { rank } => format!(
            "reaches for the shared memory of CTA {rank} of the cluster, which has left: missing is a cluster_sync at the end"
        ),
        Trouble::BadMask { mask, size } => format!("multicasts to the CTAs {mask:#b} of a cluster of {size}"),
        Trouble::NoMbarrier { addr } => format!("uses an mbarrier at {addr:#x} that nobody has initialised"),
        Trouble::MbarrierOverwritten { addr, tag } => format!(
            "uses an mbarrier at {addr:#x} whose bytes were stored over by {}",
            writer(m, tag)
        ),
        Trouble::MbarrierCount { addr, count } => {
            format!("initialises the mbarrier at {addr:#x} for {count} arrivals: expected 1 to 1048575")
        }
        Trouble::MbarrierInUse {
            addr,
            pending,
            count,
            tx,
        } => format!(
            "initialises the mbarrier at {addr:#x} again while a phase is under way: {pending} of {count} arrivals and {tx} \
             bytes are outstanding, or threads wait"
        ),
        Trouble::TooManyMbarriers { threads, room } => format!(
            "the simulated machine has room for {room} mbarriers in a CTA of {threads} threads, and for none and no bulk \
             copies above 991 threads"
        ),
        Trouble::NoInitFence { addr, tag } => format!(
            "uses the mbarrier at {addr:#x}, initialised by {}: missing is mbar_init_fence by that thread, before the barrier",
            writer(m, tag)
        ),
        Trouble::InitUnordered { addr, tag } => format!(
            "uses the mbarrier at {addr:#x}, and nothing orders that behind its initialisation by {}: missing is a barrier \
             behind mbar_init_fence",
            writer(m, tag)
        ),
        Trouble::OverArrival { addr, phase, count, tx } => format!(
            "arrives at the mbarrier at {addr:#x} once more than the {count} times that phase {phase} takes; {tx} bytes are \
             outstanding"
        ),
        Trouble::TxOverflow { addr, tx, phase } => format!(
            "the mbarrier at {addr:#x} counts {tx} outstanding bytes in phase {phase}: beyond 1048575 either way"
        ),
        Trouble::BadParity { addr, parity } => {
            format!("waits for parity {parity} of the mbarrier at {addr:#x}: expected 0 or 1")
        }
        Trouble::BadMap { at, why } => format!("uses the tensor map at {at:#x}, {}", bad_map(why)),
        Trouble::NotLoaded { addr, tag } => format!(
            "reads shared memory at {addr:#x}, written by {}, which {}: missing is an mbar_wait for it",
            writer(m, tag),
            load(tag)
        ),
        Trouble::StoredOver { addr, tag } => format!(
            "stores over shared memory at {addr:#x}, written by {}, which {}: missing is an mbar_wait for it",
            writer(m, tag),
            load(tag)
        ),
        Trouble::LoadedOver { addr, tag } => format!(
            "issues a TMA load over shared memory at {addr:#x}, and nothing orders that behind its last use: written by {}; \
             missing is a wait for those who use it, such as an mbarrier that they arrive at",
            writer(m, tag)
        ),
        Trouble::LoadOverMbarrier { addr } => format!("issues a TMA load over the mbarrier at {addr:#x}"),
        Trouble::StillRead { addr, tag } => format!(
            "overwrites shared memory at {addr:#x} that a bulk copy reads, issued by {}: missing is bulk_wait_read (or \
             bulk_wait) by that thread, and order behind that",
            writer(m, tag)
        ),
        Trouble::NoSharedFence { addr, tag } => format!(
            "has the asynchronous proxy touch shared memory at {addr:#x}, written by ordinary stores of {}: missing is \
             fence_async_shared by that thread behind its stores, and before the barrier or arrival that leads here",
            writer(m, tag)
        ),
        Trouble::NoGlobalFence { addr, tag } => format!(
            "has TMA load global memory at {}, written by {}: this thread is ordered behind them, and \
             missing is its fence_async_global since",
            place_of(m, addr),
            writer(m, tag)
        ),
        Trouble::UndefinedRead { addr } => format!(
            "reads shared memory at {addr:#x}, which TMA loaded from memory that nobody had written since it was allocated or \
             discarded"
        ),
        Trouble::UndefinedSource { addr } => format!(
            "has a bulk copy read shared memory at {addr:#x}, which TMA loaded from memory that nobody had written since it \
             was allocated or discarded"
        ),
        Trouble::LoadSourceChanged { addr } => format!(
            "the source of a TMA load was written between its issue and its completion: global memory at {}",
            place_of(m, addr)
        ),
        Trouble::LoadUnfinished { addr, bar } => format!(
            "leaves, the last thread of its CTA, while a TMA load into shared memory at {addr:#x} is in flight, which would \
             complete on the mbarrier at {bar:#x}"
        ),
        Trouble::LoadUnwaited { addr, phase } => format!(
            "leaves, the last thread of its CTA, and nobody has waited for phase {phase} of the mbarrier at {addr:#x}, on which \
             a TMA load completes"
        ),
        Trouble::BadBulkSize { bytes } => {
            format!("bulk_store copies {bytes} bytes: expected a multiple of 16, above 0")
        }
        Trouble::BulkUnread { addr } => format!(
            "leaves while a bulk copy may still read shared memory at {addr:#x}: missing is bulk_wait_read or bulk_wait"
        ),
        Trouble::MixedGroups => {
            "one thread uses both cp.async and bulk copies, which the simulated machine does not keep apart".into()
        }
        // The others are told in `violation.rs`.
        other => format!("{other:?}"),
    }
}
