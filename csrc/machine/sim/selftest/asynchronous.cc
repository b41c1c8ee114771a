// Misuse of mbarriers, copies and clusters, and the right way beside it. `p.k` picks the case.
#include "machine.h"

namespace {
using namespace mx;
constexpr u32 kBox = 8192;

TW_DEV void ready(u32 count) {
  if (thread() == 0) {
    mbar_init(0, count);
    mbar_init_fence();
  }
  cta_sync(Site::SetupBarrier);
}
}  // namespace

// 0: right, two phases; 1: never initialised; 2: no fence; 3: no barrier; 4: initialised again in flight; 5: one arrival too
// many; 6: more bytes than it counts; 7: an odd address; 8: nobody arrives; 9: two phases late; 10: stored over;
// 11: parity 2; 12: initialised again when all is over; 13: 65 of them; 14: no arrivals; 15: a wait that passes on nothing
// but order: what is read was written behind it.
TW_HOPPER_KERNEL(selftest_mbarrier, 64) {
  u32 seen = 0;
  if (p.k == 0 || p.k == 12) {
    ready(32);
    for (u32 phase = 0; phase < 2; ++phase) {
      if (warp() == 0) {
        st_shared_b32(1024 + lane() * 16, lane() + phase);
        mbar_arrive(0, Site::StageFull);
        // The next phase's stores wait for the other warp.
        if (phase == 0) bar_sync(2, 64, Site::StageEmpty);
      } else {
        mbar_wait(0, phase, Site::StageFull);
        seen += ld_shared_b32(1024 + (31 - lane()) * 16);
        if (phase == 0) bar_sync(2, 64, Site::StageEmpty);
      }
    }
    cta_sync(Site::TileBarrier);
    if (p.k == 12) {
      if (thread() == 0) {
        mbar_init(0, 1);
        mbar_init_fence();
        mbar_arrive(0, Site::StageFull);
      }
      cta_sync(Site::TileBarrier);
      mbar_wait(0, 0, Site::StageFull);
    }
  }
  if (p.k == 1) mbar_arrive(8, Site::StageFull);
  if (p.k == 2 || p.k == 3) {
    if (thread() == 0) {
      mbar_init(0, 64);
      if (p.k == 3) mbar_init_fence();
    }
    if (p.k == 2) cta_sync(Site::SetupBarrier);
    // So late that it is initialised, whatever the schedule.
    for (u32 i = 0; thread() && i < 8; ++i) pause(time_ns() + 1000);
    mbar_arrive(0, Site::StageFull);
  }
  if (p.k == 4) {
    ready(64);
    mbar_arrive(0, Site::StageFull);
    if (thread() == 5) mbar_init(0, 64);
    mbar_wait(0, 0, Site::StageFull);
  }
  if (p.k == 5) {
    ready(63);
    mbar_arrive_expect_tx(0, 16, Site::StageFull);
  }
  if (p.k == 6) {
    ready(2);
    if (thread() < 2) mbar_arrive_expect_tx(0, 1 << 19, Site::StageFull);
  }
  if (p.k == 7 && thread() == 0) mbar_init(4, 1);
  if (p.k == 8) {
    ready(65);
    mbar_arrive_expect_tx(0, 16, Site::StageFull);
    if (thread() == 63) mbar_wait(0, 0, Site::StageFull);
  }
  if (p.k == 9) {
    ready(1);
    for (u32 i = 0; thread() == 0 && i < 2; ++i) mbar_arrive(0, Site::StageFull);
    cta_sync(Site::TileBarrier);
    mbar_wait(0, 0, Site::StageFull);
  }
  if (p.k == 10) {
    ready(64);
    if (thread() == 3) st_shared_b32(4, 7);
    cta_sync(Site::TileBarrier);
    mbar_arrive(0, Site::StageFull);
  }
  if (p.k == 11) {
    ready(64);
    mbar_wait(0, 2, Site::StageFull);
  }
  if (p.k == 13) {
    for (u32 i = 0; thread() == 0 && i < 65; ++i) mbar_init(8 * i, 1);
  }
  if (p.k == 14 && thread() == 0) mbar_init(0, 0);
  if (p.k == 15) {
    ready(1);
    if (thread() == 0) {
      mbar_arrive(0, Site::StageFull);
      st_shared_b32(1024, 1);
    }
    mbar_wait(0, 0, Site::StageFull);
    // Between lanes that have all passed, so that the store has happened.
    if (thread()) pause(time_ns() + 1000);
    if (thread()) seen = ld_shared_b32(1024);
  }
  if (p.out) st_global_b32(p.out + thread() * 4, seen);
}

// Loads and bulk copies. 0: right; 1: left with a load in flight; 2: left with a bulk copy unread; 3: the source stored
// over; 4: a load over a load; 5: a load over a neighbour's store that nothing orders; 6: a load over one's own store without
// a fence; 7: reading what was loaded from memory nobody wrote; 8: a load over the mbarrier; 9: a map that is none; 10: a map
// of another rank; 11: a box at a bad address; 12: 24 bytes; 13: a store into a load in flight; 14: a load over the source of a
// bulk copy; 15: a bulk copy without the writer's fence; 16: with the fence, without order; 17: one thread with both kinds of
// groups; 18: the same source twice, waited for once; 19: the same, waited for; 20: what the host wrote is written again
// while it is loaded; 21: a bulk copy beyond the end; 22: loads without waiting for what another thread has waited for;
// 23: a bulk copy read back before, 24: and after its full wait; 25: the bytes before the arrival that expects them; 26: a bulk copy
// of what was loaded from memory nobody wrote.
TW_HOPPER_KERNEL(selftest_copies, 64) {
  constexpr saddr box = 1024, source = box + 2 * kBox;
  u32 seen = 0;
  ready(1);
  const bool one = thread() == 0;
  if (p.k == 0 || p.k == 1 || p.k == 4 || p.k == 7 || p.k == 8 || p.k == 11 || p.k == 13 || p.k == 20 || p.k == 22) {
    if (one) {
      mbar_arrive_expect_tx(0, p.k == 4 ? 2 * kBox : kBox, Site::StageFull);
      tma_load_2d(p.k == 8 ? 0 : p.k == 11 ? box + 128 : box, p.map_x, 0, 0, 0);
      if (p.k == 4) tma_load_2d(box, p.map_x, 0, 0, 0);
      if (p.k == 13) st_shared_b32(box, 1);
      if (p.k == 20) st_global_b32(p.x, 1);
    }
    if (p.k == 22 && thread() == 32) {
      mbar_wait(0, 0, Site::StageFull);
      bar_sync(1, 32, Site::StageEmpty);
    } else if (p.k == 22 && warp() == 1) {
      bar_sync(1, 32, Site::StageEmpty);
    } else if (p.k != 1 && p.k != 22) {
      mbar_wait(0, 0, Site::StageFull);
    }
    if (p.k == 22) pause(time_ns() + 1000);
    if (p.k != 1 && (p.k != 22 || warp() == 0)) seen = ld_shared_b32(box + thread() * 128);
  }
  if (p.k == 25) {
    if (one) {
      tma_load_2d(box, p.map_x, 0, 0, 0);
      pause(time_ns() + 1000);
      mbar_arrive_expect_tx(0, kBox, Site::StageFull);
    }
    mbar_wait(0, 0, Site::StageFull);
    seen = ld_shared_b32(box + thread() * 128);
  }
  if (p.k == 26 && one) {
    mbar_arrive_expect_tx(0, kBox, Site::StageFull);
    tma_load_2d(box, p.map_x, 0, 0, 0);
    mbar_wait(0, 0, Site::StageFull);
    bulk_store(p.out, box, 1024);
  }
  if (p.k == 2 || p.k == 3 || p.k == 14 || p.k == 18 || p.k == 19) {
    st_shared_v4(source + thread() * 16, {{thread(), 1, 2, 3}});
    fence_async_shared(Site::ChunkFence);
    cta_sync(Site::TileBarrier);
    if (one) {
      bulk_store(p.out + 1024, source, 1024);
      bulk_commit();
      if (p.k == 18 || p.k == 19) {
        bulk_store(p.out + 2048, source, 1024);
        bulk_commit();
        if (p.k == 18) bulk_wait_read<1>(Site::ChunkRead);
        if (p.k == 19) bulk_wait_read<0>(Site::ChunkRead);
      }
      if (p.k == 14) {
        mbar_arrive_expect_tx(0, kBox, Site::StageFull);
        tma_load_2d(source, p.map_x, 0, 0, 0);
      }
    }
    if (p.k == 2) return;
    cta_sync(Site::TileBarrier);
    if (thread() == 7) st_shared_b32(source, 9);
    if (one) bulk_wait<0>(Site::BulkWait);
  }
  if (p.k == 5 || p.k == 6) {
    if (thread() == (p.k == 5 ? 9 : 0)) st_shared_b32(box + 256, 1);
    if (p.k == 5 && one) pause(time_ns() + 1000);
    if (one) {
      mbar_arrive_expect_tx(0, kBox, Site::StageFull);
      tma_load_2d(box, p.map_x, 0, 0, 0);
    }
    mbar_wait(0, 0, Site::StageFull);
  }
  if (p.k == 9 && one) tma_prefetch(p.map_weight);
  if (p.k == 10 && one) tma_load_4d(box, p.map_x, 0, 0, 0, 0, 0);
  if (p.k == 12 && one) bulk_store(p.out, source, 24);
  if (p.k == 15 || p.k == 16) {
    st_shared_v4(source + thread() * 16, {{thread(), 1, 2, 3}});
    if (p.k == 15) cta_sync(Site::TileBarrier);
    fence_async_shared(Site::ChunkFence);
    if (p.k == 15) pause(time_ns() + 1000);
    if (p.k == 16) cta_sync(Site::TileBarrier);
    if (p.k == 16) st_shared_v4(source + thread() * 16, {{thread(), 1, 2, 4}});
    if (p.k == 16) fence_async_shared(Site::ChunkFence);
    if (one) {
      pause(time_ns() + 1000);
      bulk_store(p.out + 1024, source, 1024);
      bulk_commit();
      bulk_wait<0>(Site::BulkWait);
    }
  }
  if (p.k == 17 && one) {
    cp_async_16(source, p.x, 16);
    cp_async_commit();
    cp_async_wait<0>(Site::CopyWait);
    fence_async_shared(Site::ChunkFence);
    bulk_store(p.out + 1024, source, 16);
  }
  if (p.k == 21 || p.k == 23 || p.k == 24) {
    if (one) {
      st_shared_v4(source, {{1, 2, 3, 4}});
      fence_async_shared(Site::ChunkFence);
      bulk_store(p.k == 21 ? p.out + 4096 - 8192 * 8192 : p.out + 1024, source, 16);
      bulk_commit();
      if (p.k == 23) bulk_wait_read<0>(Site::ChunkRead);
      if (p.k == 24) bulk_wait<0>(Site::BulkWait);
      seen = ld_global_b32(p.out + 1024);
      bulk_wait<0>(Site::BulkWait);
    }
  }
  st_global_b32(p.out + thread() * 4, seen);
}

// Clusters and named barriers. 0: right: ranks, an arrival from every thread of the cluster, what it passes on; 1: one CTA
// leaves before the end; 2: arrives at a CTA that has left; 3: at a CTA that does not exist; 4: different places;
// 5: barrier 0; 6: part of a warp; 7: different numbers of threads; 8: multicast to nobody; 9: votes of some warps;
// 10: another CTA's mbarrier before the cluster's barrier.
TW_HOPPER_KERNEL(selftest_cluster, 64) {
  u32 seen = cluster_rank() * 16 + cluster_size();
  ready(threads() * cluster_size());
  if (p.k == 10) {
    if (cluster_rank() == 0) pause(time_ns() + 1000);
    mbar_arrive_at(0, 1 - cluster_rank(), Site::StageFull);
  }
  if (p.k != 1 && p.k != 4) cluster_sync(Site::ClusterStart);
  if (p.k == 0) {
    st_global_b32(p.x + (block() * threads() + thread()) * 16, block() * threads() + thread());
    for (u32 cta = 0; cta < cluster_size(); ++cta) mbar_arrive_at(0, cta, Site::StageFull);
    mbar_wait(0, 0, Site::StageFull);
    const u32 first = block() - cluster_rank();
    for (u32 i = 0; i < cluster_size(); ++i) seen += ld_global_b32(p.x + ((first + i) * threads() + 63 - thread()) * 16);
    cluster_sync(Site::ClusterEnd);
  }
  if (p.k == 1) {
    if (cluster_rank() == 1) return;
    cluster_sync(Site::ClusterEnd);
  }
  if (p.k == 2 && cluster_rank() == 0) {
    for (u32 i = 0; i < 8; ++i) pause(time_ns() + 100000);
    mbar_arrive_at(0, 1, Site::StageFull);
  }
  if (p.k == 3) mbar_arrive_at(0, 2, Site::StageFull);
  if (p.k == 4) cluster_sync(cluster_rank() ? Site::ClusterEnd : Site::ClusterStart);
  if (p.k == 5) bar_sync(0, 32, Site::TileBarrier);
  if (p.k == 6 && thread() % 32 < 16) bar_sync(1, 32, Site::TileBarrier);
  if (p.k == 7) bar_sync(1, 32 + 32 * warp(), Site::TileBarrier);
  if (p.k == 8 && thread() == 0) tma_load_2d_multicast(1024, p.map_x, 0, 0, 0, 0);
  if (p.k == 9) {
    seen = bar_sync_or(1 + warp(), 32, thread() == 40, Site::TileBarrier) * 1u +
           bar_sync_and(1 + warp(), 32, thread() != 3, Site::TileBarrier) * 2u +
           bar_sync_or(3, 64, thread() == 40, Site::TileBarrier) * 4u;
  }
  st_global_b32(p.out + (block() * threads() + thread()) * 4, seen);
}
