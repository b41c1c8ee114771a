//! What the C++ side calls for clusters, mbarriers and the asynchronous proxy; see [`callbacks`](super::callbacks).

use super::callbacks::{apart, callbacks, checked, together, with};
use super::fiber::{SelfC, suspend};
use super::named;
use super::report::Trouble;
use super::tensor_map::{Map, decode};
use super::tma;

/// `kTwThisCta` in `csrc/machine/sim/self.h`.
const THIS_CTA: u32 = u32::MAX;

/// The tensor map at `map`.
///
/// # Safety
/// A kernel's parameters, or other memory that is valid for 128 bytes.
unsafe fn map_at(map: *const [u64; 16], rank: u32) -> Result<Map, Trouble> {
    // SAFETY: passed on; read bytewise, so that a map at an odd address is an error and no more.
    let words = unsafe { map.read_unaligned() };
    decode(map as u64, &words, rank).map_err(|why| Trouble::BadMap { at: map as u64, why })
}

callbacks! {
    fn tw_sim_cluster_rank(me) -> u32 {
        with(me, |_, cta, _| cta.units.rank)
    }

    fn tw_sim_cluster_size(me) -> u32 {
        with(me, |_, cta, _| cta.units.cluster.size())
    }

    fn tw_sim_cluster_sync(me, site: u32) {
        if apart(me, |m, cta, thread| m.cluster_sync(cta, thread, site)) {
            suspend(me.cast());
        }
    }

    fn tw_sim_named_barrier(me, id: u32, threads: u32, vote: u32, mine: u32, site: u32) -> u32 {
        let call = named::Call { id, threads, vote, mine: mine != 0, site };
        if together(me, |m, cta, thread| m.named_barrier(cta, thread, call)) {
            suspend(me.cast());
        }
        with(me, |_, _, f| f.result)
    }

    fn tw_sim_mbar_init(me, bar: u32, count: u32) {
        checked(me, |m, cta, f| m.mbarrier_init(cta, f, bar, count));
    }

    fn tw_sim_mbar_init_fence(me) {
        checked(me, |m, cta, f| m.mbarrier_init_fence(cta, f));
    }

    fn tw_sim_mbar_arrive(me, bar: u32, _site: u32) {
        apart(me, |m, cta, thread| m.mbarrier_arrive(cta, cta, thread, bar, 0));
    }

    fn tw_sim_mbar_arrive_at(me, bar: u32, rank: u32, _site: u32) {
        apart(me, |m, cta, thread| {
            let cluster = (*cta).units.cluster.clone();
            let of = m.member(&cluster, rank)?;
            m.mbarrier_arrive(of, cta, thread, bar, 0)
        });
    }

    fn tw_sim_mbar_arrive_expect_tx(me, bar: u32, bytes: u32, site: u32) {
        apart(me, |m, cta, thread| {
            let expect = i64::from(bytes) + m.faults.tx_error(site);
            m.mbarrier_arrive(cta, cta, thread, bar, expect)
        });
    }

    fn tw_sim_mbar_wait(me, bar: u32, parity: u32, site: u32) {
        while checked(me, |m, cta, f| m.mbarrier_wait(cta, f, bar, parity, site)) {
            suspend(me.cast());
        }
    }

    fn tw_sim_fence_async_shared(me, site: u32) {
        checked(me, |m, cta, f| m.fence_async_shared(cta, f, site));
    }

    fn tw_sim_fence_async_global(me, site: u32) {
        checked(me, |m, cta, f| m.fence_async_global(cta, f, site));
    }

    fn tw_sim_tma_prefetch(me, map: *const [u64; 16]) {
        let map = map_at(map, 0);
        checked(me, |_, _, _| map.map(drop));
    }

    fn tw_sim_tma_load(me, dst: u32, map: *const [u64; 16], at: *const [u32; 4], rank: u32, bar: u32, ctas: u32) {
        let (map, at) = (map_at(map, rank), *at);
        let ctas = (ctas != THIS_CTA).then_some(ctas);
        apart(me, |m, cta, thread| m.tma_load(cta, thread, tma::Call { dst, map: map?, at, bar, ctas }));
    }

    fn tw_sim_tma_store(me, map: *const [u64; 16], src: u32, at: *const [u32; 4]) {
        let (map, at) = (map_at(map, 2), *at);
        checked(me, |m, cta, f| m.tma_store(cta, f, &map?, src, at));
    }

    fn tw_sim_bulk_store(me, dst: u64, src: u32, bytes: u32) {
        checked(me, |m, cta, f| m.bulk_store(cta, f, dst, src, bytes));
    }

    fn tw_sim_bulk_commit(me) {
        checked(me, |m, cta, f| m.bulk_commit(cta, f));
    }

    fn tw_sim_bulk_wait(me, open: u32, read: u32, site: u32) {
        checked(me, |m, cta, f| m.bulk_wait(cta, f, open, read != 0, site));
    }
}
