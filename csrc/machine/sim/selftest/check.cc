// One CTA each: what the machine checks, and the right way beside it. `p.k` picks the case.
#include "machine.h"

namespace {
using namespace mx;
}

// Shuffles and the order that warp_sync makes among lanes.
TW_KERNEL(selftest_warp, 64, 4) {
  st_shared_b32(thread() * 16, thread() * 3);
  if (p.k == 0) warp_sync();
  const u32 neighbour = ld_shared_b32((thread() ^ 1) * 16);
  u32 sum = thread();
  for (u32 mask = 16; mask; mask /= 2) sum += shfl_xor(sum, mask);
  st_global_v4(p.out + thread() * 16, {{neighbour, sum, shfl(thread(), 5), lane()}});
}

// Every CTA of every launch writes its part of `p.out` (`p.n` words) with `p.k`: nothing waits for anything.
TW_KERNEL(selftest_fill, 128, 8) {
  for (u32 i = block() * threads() + thread(); i < p.n; i += grid() * threads()) st_global_b32(p.out + i * 4, p.k);
}

// Reads at `p.x`. 0: 16 bytes; 1: 4 bytes at an odd address; 2: 16 bytes behind a neighbour's write without a barrier;
// 3: the same with a barrier; 4: after a discard; 5: writes and reads back one's own; 6: writes at `p.x`; 7: like 3, while
// thread 0 discards it all without a barrier.
TW_KERNEL(selftest_read, 64, 4) {
  const gaddr at = p.x + thread() * 16;
  vec4 v = {};
  if (p.k == 0) v = ld_global_v4(at);
  if (p.k == 1) v.v[0] = ld_global_b32(at + 1);
  if (p.k == 2 || p.k == 3 || p.k == 5 || p.k == 7) {
    st_global_v4(at, {{thread(), 1, 2, 3}});
    if (p.k == 3 || p.k == 7) cta_sync(Site::TileBarrier);
    if (p.k == 7 && thread() == 0) discard(p.x, 16 * threads());
    v = ld_global_v4(p.k == 5 ? at : p.x + (thread() + 1) % threads() * 16);
  }
  if (p.k == 4) {
    if (thread() == 0) discard(p.x, 16 * threads());
    cta_sync(Site::TileBarrier);
    v = ld_global_v4(at);
  }
  if (p.k == 6) st_global_v4(at, {{1, 2, 3, 4}});
  if (p.out) st_global_v4(p.out + thread() * 16, v);
}

// Shared memory. 0: right; 1: read before any write; 2: no barrier; 3: cp.async without wait; 4: with wait, no barrier, own
// part; 5: beyond the window; 6: ldmatrix of what a neighbour warp wrote without a barrier.
TW_KERNEL(selftest_shared, 64, 4) {
  const u32 mine = thread() * 16, other = (thread() + 33) % threads() * 16;
  vec4 v = {};
  if (p.k == 0 || p.k == 2) {
    st_shared_v4(mine, {{thread(), 0, 0, 0}});
    if (p.k == 0) cta_sync(Site::StageBarrier);
    v = ld_shared_v4(other);
  }
  if (p.k == 1) v = ld_shared_v4(mine);
  if (p.k == 3 || p.k == 4) {
    cp_async_16(mine, p.x + mine, 16);
    cp_async_commit();
    if (p.k == 4) cp_async_wait<0>(Site::CopyWait);
    v = ld_shared_v4(mine);
  }
  if (p.k == 5) st_shared_b32(64 * 16 + thread() * 4, 1);
  if (p.k == 6) {
    st_shared_v4(mine, {{thread(), 0, 0, 0}});
    u32 r[4];
    ldmatrix_x4(r, other);
    mma_wait(r, Site::MmaWait);
    v = {{r[0], r[1], r[2], r[3]}};
  }
  st_global_v4(p.out + thread() * 16, v);
}

// Barriers. 0: right, with votes; 1: half a warp leaves first; 2: lanes of a warp at a barrier and at warp_sync;
// 3: two warps at different sites; 4: one thread waits for a word that never comes.
TW_KERNEL(selftest_barrier, 64, 4) {
  u32 votes = 0;
  if (p.k == 0) {
    votes = cta_sync_or(thread() == 63, Site::TileBarrier) * 1u + cta_sync_or(false, Site::TileBarrier) * 2u +
            cta_sync_and(thread() != 5, Site::TileBarrier) * 4u + cta_sync_and(true, Site::TileBarrier) * 8u;
  }
  if (p.k == 1) {
    if (lane() >= 16) return;
    cta_sync(Site::TileBarrier);
  }
  if (p.k == 2) {
    if (lane() >= 16) {
      warp_sync();
    } else {
      cta_sync(Site::TileBarrier);
    }
  }
  if (p.k == 3) cta_sync(warp() ? Site::TileBarrier : Site::StageBarrier);
  if (p.k == 4) {
    while (thread() == 7 && poll_relaxed_sys(p.x, 42, Site::TilePoll) != 42) pause(~0ull);
    cta_sync(Site::TileAcquired);
  }
  st_global_b32(p.out + thread() * 4, votes);
}

// Reads `p.x` and writes one more to `p.out`: order between kernels is the streams' business.
TW_KERNEL(selftest_stream, 32, 8) {
  const u64 at = (block() * threads() + thread()) * 4;
  st_global_b32(p.out + at, ld_global_b32(p.x + at) + 1);
}
