// Who a thread is. CTAs and grids are one-dimensional.
#pragma once
#include "self.h"

namespace mx {
TW_MACHINE u32 thread() { return self()->thread; }
TW_MACHINE u32 threads() { return self()->threads; }
TW_MACHINE u32 block() { return self()->block; }
TW_MACHINE u32 grid() { return self()->grid; }
TW_MACHINE u32 lane() { return self()->thread % 32; }
TW_MACHINE u32 warp() { return self()->thread / 32; }

// What one thread of a warp does, or each lane on its own, is written in these two (docs/machine.md, "Lanes").
template <class F>
TW_MACHINE void elect(F f) {
  if (lane() == 0) f();
}
template <class F>
TW_MACHINE void each_lane(u32 mine, u32 count, F f) {
  if (mine < count) f(mine);
}
}  // namespace mx
