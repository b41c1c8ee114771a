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
}  // namespace mx
