// Hopper: clusters of CTAs, and the registers that warpgroups of a CTA hand to each other.
#pragma once
#include "types.h"

namespace mx {
// `.aligned`: the threads of a warp arrive together. What any thread of the cluster did before is seen by all after.
TW_DEV void cluster_sync(Site) {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// The compiler takes no notice of these: it allocates for the whole kernel by its launch bounds, and drops a setmaxnreg
// that it cannot keep to with a warning, which the build's report must not contain.
template <u32 N>
TW_DEV void reg_alloc() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes multiples of 8, 24 to 256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N) : "memory");
}
template <u32 N>
TW_DEV void reg_dealloc() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "setmaxnreg takes multiples of 8, 24 to 256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N) : "memory");
}
}  // namespace mx
