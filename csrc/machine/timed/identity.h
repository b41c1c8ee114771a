// Who a thread is. Lane 0 runs for its warp; within `elect` for itself; `each_lane` runs lane after lane, all from the
// same moment on, and the warp goes on when the last one is done.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE u32 thread() { return self()->thread + self()->lane; }
TW_MACHINE u32 threads() { return self()->threads; }
TW_MACHINE u32 block() { return self()->block; }
TW_MACHINE u32 grid() { return self()->grid; }
TW_MACHINE u32 lane() { return self()->lane; }
TW_MACHINE u32 warp() { return self()->thread / 32; }
TW_MACHINE u32 cluster_rank() { return self()->cluster_rank; }
TW_MACHINE u32 cluster_size() { return self()->cluster_size; }

template <class F>
TW_MACHINE void elect(F f) {
  TwWarp* w = self();
  if (w->lane != 0) return;
  const u32 lanes = w->lanes;
  w->lanes = 1;
  f();
  w->lanes = lanes;
}

template <class F>
TW_MACHINE void each_lane(u32 mine, u32 count, F f) {
  TwWarp* w = self();
  if (mine >= count) return;
  settle(w);
  const u64 from = w->now;
  u64 until = from;
  const u64 noted = w->noted;
  w->lanes = 1;
  for (u32 i = 0; i < 32 && mine + i < count; ++i) {
    w->now = from;
    w->lane = i;
    f(mine + i);
    settle(w);
    until = later(until, w->now);
    w->noted = 0;
  }
  w->now = until;
  w->noted = noted;
  w->lane = 0;
  w->lanes = 32;
}
}  // namespace mx
