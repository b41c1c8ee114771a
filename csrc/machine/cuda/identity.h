// Who a thread is. CTAs and grids are one-dimensional.
#pragma once
#include "types.h"

namespace mx {
TW_DEV u32 thread() { return threadIdx.x; }
TW_DEV u32 threads() { return blockDim.x; }
TW_DEV u32 block() { return blockIdx.x; }
TW_DEV u32 grid() { return gridDim.x; }
// Not `%laneid` and `%warpid`: the latter may change while a thread runs.
TW_DEV u32 lane() { return threadIdx.x % 32; }
TW_DEV u32 warp() { return threadIdx.x / 32; }

// What one thread of a warp does, or each lane on its own, is written in these two (docs/machine.md, "Lanes").
template <class F>
TW_DEV void elect(F f) {
  if (lane() == 0) f();
}
template <class F>
TW_DEV void each_lane(u32 mine, u32 count, F f) {
  if (mine < count) f(mine);
}

// Hopper. Without a cluster launch each CTA is a cluster of its own: rank 0 of 1.
TW_DEV u32 cluster_rank() {
  u32 x;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(x));
  return x;
}
TW_DEV u32 cluster_size() {
  u32 x;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(x));
  return x;
}
}  // namespace mx
