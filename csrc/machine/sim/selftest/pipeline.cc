// The roles of a Hopper kernel in small: a loader, workers, a storer, and mbarriers between them.
#include "await.h"

namespace {
using namespace mx;
constexpr u32 kRow = 128, kTile = 64 * kRow, kStages = 2, kWorkers = 64;
constexpr saddr kFull = 0, kEmpty = 16, kChunkFull = 32, kChunkEmpty = 48, kStage = 1024, kChunk = kStage + kStages * kTile;

TW_DEV saddr at(saddr first, u32 stage) { return first + 8 * stage; }

TW_DEV void load(const TwParams& p, u32 step) {
  const u32 stage = step % kStages;
  if (step >= kStages) mbar_wait(at(kEmpty, stage), (step / kStages - 1) % 2, Site::StageEmpty);
  mbar_arrive_expect_tx(at(kFull, stage), kTile, Site::StageFull);
  // Two CTAs bring each other half of the tile.
  for (u32 half = cluster_rank(); half < 2; half += cluster_size()) {
    const saddr to = kStage + stage * kTile + half * kTile / 2;
    if (cluster_size() == 1) {
      tma_load_2d(to, p.map_x, 0, step * 64 + half * 32, at(kFull, stage));
    } else {
      tma_load_2d_multicast(to, p.map_x, 0, step * 64 + half * 32, at(kFull, stage), 3);
    }
  }
}

TW_DEV void work(u32 step) {
  const u32 stage = step % kStages;
  mbar_wait(at(kFull, stage), step / kStages % 2, Site::StageFull);
  if (step >= kStages) mbar_wait(at(kChunkEmpty, stage), (step / kStages - 1) % 2, Site::ChunkEmpty);
  for (u32 i = thread() % kWorkers * 16; i < kTile; i += kWorkers * 16) {
    vec4 x = ld_shared_v4(kStage + stage * kTile + i);
    for (u32& word : x.v) word += 1 + cluster_rank();
    st_shared_v4(kChunk + stage * kTile + i, x);
  }
  fence_async_shared(Site::ChunkFence);
  mbar_arrive(at(kChunkFull, stage), Site::ChunkFull);
  for (u32 cta = 0; cta < cluster_size(); ++cta) mbar_arrive_at(at(kEmpty, stage), cta, Site::StageEmpty);
}
}  // namespace

// Adds 1 + the rank in the cluster to every word of `p.map_x`, whose boxes are 32 rows of 128 bytes: `p.n` tiles of 64 rows.
// `p.k` 0: to `p.map_out`, boxes of 64 rows, the CTAs of a cluster one behind the other. 1: to the next rank's staging,
// as shared memory has it, and from there to `p.out`, word by word.
TW_HOPPER_KERNEL(selftest_pipeline, 128) {
  if (thread() == 0) {
    for (u32 i = 0; i < kStages; ++i) {
      mbar_init(at(kFull, i), 1);
      mbar_init(at(kEmpty, i), kWorkers * cluster_size());
      mbar_init(at(kChunkFull, i), kWorkers);
      mbar_init(at(kChunkEmpty, i), 1);
    }
    mbar_init_fence();
  }
  cta_sync(Site::SetupBarrier);
  if (cluster_size() > 1) cluster_sync(Site::ClusterStart);
  const gaddr peer = p.group.heap[(p.group.rank + 1) % p.group.world], own = p.group.heap[p.group.rank];
  if (thread() == 0) {
    tma_prefetch(p.map_x);
    for (u32 step = 0; step < p.n; ++step) load(p, step);
  } else if (thread() == 32) {
    for (u32 step = 0; step < p.n; ++step) {
      const u32 stage = step % kStages, tile = block() * p.n + step;
      mbar_wait(at(kChunkFull, stage), step / kStages % 2, Site::ChunkFull);
      if (p.k == 0) {
        tma_store_2d(p.map_out, kChunk + stage * kTile, 0, tile * 64);
      } else {
        payload(kTile / 2);
        bulk_store(peer + p.group.staging + tile * kTile, kChunk + stage * kTile, kTile);
      }
      bulk_commit();
      bulk_wait_read<0>(Site::ChunkRead);
      mbar_arrive(at(kChunkEmpty, stage), Site::ChunkEmpty);
    }
    bulk_wait<0>(Site::BulkWait);
    if (p.k == 1) st_release_sys(peer + p.group.signals + block() * 8, 1, Site::TileRelease);
  } else if (warp() >= 2) {
    for (u32 step = 0; step < p.n; ++step) work(step);
    if (p.k == 1) {
      const bool there = thread() != 64 || await(own + p.group.signals + block() * 8, 1, p.group.deadline_ns, Site::TilePoll,
                                                 Site::TileAcquire);
      if (bar_sync_and(1, kWorkers, there, Site::TileAcquired)) {
        const u64 from = block() * u64(p.n) * kTile;
        for (u64 i = thread() % kWorkers * 16; i < p.n * u64(kTile); i += kWorkers * 16) {
          st_global_v4(p.out + from + i, ld_global_v4(own + p.group.staging + from + i));
        }
      }
    }
  }
  if (cluster_size() > 1) cluster_sync(Site::ClusterEnd);
}

// Every rank pushes 64 rows of 128 bytes to the next one's staging, by ordinary stores (`p.k` 0) or a bulk copy (1). There they are loaded by TMA, as
// plane 0 of `p.map_gathered` (boxes of 64 rows), and given out at `p.out` as they lie in shared memory.
TW_HOPPER_KERNEL(selftest_gather, 96) {
  const gaddr peer = p.group.heap[(p.group.rank + 1) % p.group.world], own = p.group.heap[p.group.rank];
  if (thread() == 0) {
    mbar_init(0, 1);
    mbar_init_fence();
  }
  cta_sync(Site::SetupBarrier);
  for (u32 i = thread() * 16; i < kTile; i += threads() * 16) {
    const vec4 x = {{p.group.rank, i, i + 1, i + 2}};
    if (p.k == 0) {
      st_global_v4(peer + p.group.staging + i, x);
    } else {
      st_shared_v4(kChunk + i, x);
    }
  }
  if (p.k == 1) fence_async_shared(Site::ChunkFence);
  cta_sync(Site::TileBarrier);
  if (thread() == 0) {
    if (p.k == 1) bulk_store(peer + p.group.staging, kChunk, kTile);
    bulk_commit();
    bulk_wait<0>(Site::BulkWait);
    st_release_sys(peer + p.group.signals, 1, Site::TileRelease);
  } else if (thread() == 32) {
    if (await(own + p.group.signals, 1, p.group.deadline_ns, Site::TilePoll, Site::TileAcquire)) {
      fence_async_global(Site::RowsFence);
      mbar_arrive_expect_tx(0, kTile, Site::StageFull);
      tma_load_4d(kStage, p.map_gathered, 0, 0, 0, 0, 0);
    } else {
      mbar_arrive(0, Site::StageFull);
    }
  } else if (warp() == 2) {
    mbar_wait(0, 0, Site::StageFull);
    for (u32 i = lane() * 16; i < kTile; i += 32 * 16) st_global_v4(p.out + i, ld_shared_v4(kStage + i));
    // Read by TMA and loaded: the staging may go.
    if (lane() == 0) discard(own + p.group.staging, kTile);
  }
}
