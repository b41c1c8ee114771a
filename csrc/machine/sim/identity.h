// Who a thread is. CTAs and grids are one-dimensional.
#pragma once
#include "self.h"

namespace mx {
TW_DEV u32 thread() { return self()->thread; }
TW_DEV u32 threads() { return self()->threads; }
TW_DEV u32 block() { return self()->block; }
TW_DEV u32 grid() { return self()->grid; }
TW_DEV u32 lane() { return self()->thread % 32; }
TW_DEV u32 warp() { return self()->thread / 32; }
}  // namespace mx
