// Sums through the switch: order between ordinary accesses and those by a multicast address.
#include "await.h"

namespace {
using namespace mx;
}  // namespace

// Every rank writes 16 bytes a thread to its own staging and signals rank 0, which adds them up through the switch
// (`p.x`: the multicast address of all heaps' start), stores the sums through it behind the staging's first 4 KiB, and
// signals all. `p.out`: what each thread then finds in its own heap. Value i of thread t of rank r is r + 4 t + i, in f32.
TW_KERNEL(selftest_switch, 64, 4) {
  const u32 t = thread(), rank = p.group.rank, world = p.group.world;
  const gaddr own = p.group.heap[rank];
  const u64 partials = p.group.staging, results = partials + 4096, signals = p.group.signals, done = signals + 256;
  vec4 mine;
  for (u32 i = 0; i < 4; ++i) mine.v[i] = f32_bits(float(rank + 4 * t + i));
  st_global_v4(own + partials + 16 * t, mine);
  cta_sync(Site::TileBarrier);
  if (t == 0) st_release_sys(p.group.heap[0] + signals + 8 * rank, 1, Site::TileRelease);
  if (rank == 0) {
    bool there = true;
    if (t < world) {
      there = await(own + signals + 8 * t, 1, p.group.deadline_ns, Site::TilePoll, Site::TileAcquire);
      fence_alias(Site::SumFence);
    }
    if (!cta_sync_and(there, Site::TileAcquired)) return;
    const u32 at = 16 * (threads() - 1 - t);  // another thread's
    multimem_st_v4(p.x + results + at, multimem_ld_reduce_v4<float>(p.x + partials + at));
    cta_sync(Site::TileBarrier);
    if (t < world) {
      fence_alias(Site::ResultFence);
      st_release_sys(p.group.heap[t] + done, 1, Site::TileRelease);
    }
  }
  const bool ended = t != 0 || await(own + done, 1, p.group.deadline_ns, Site::TilePoll, Site::TileAcquire);
  if (!cta_sync_and(ended, Site::TileAcquired)) return;
  st_global_v4(p.out + 16 * t, ld_global_v4(own + results + 16 * t));
}

// Thread 0 stores through the switch where `p.k` is 1, adds up through it where it is 2, and loads by an ordinary load
// where it is 3, at `p.x`.
TW_KERNEL(selftest_switch_at, 32, 8) {
  if (thread() != 0) return;
  if (p.k == 1) multimem_st_v4(p.x, {{1, 2, 3, 4}});
  if (p.k == 2) st_global_v4(p.out, multimem_ld_reduce_v4<bf16>(p.x));
  if (p.k == 3) st_global_v4(p.out, ld_global_v4(p.x));
}
