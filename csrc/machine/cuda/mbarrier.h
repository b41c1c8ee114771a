// Hopper: mbarriers, 8 bytes of shared memory that count arrivals and bytes of bulk copies; and the fences between the
// generic proxy (ordinary accesses) and the async proxy (bulk copies, TMA, wgmma's operands).
#pragma once
#include "types.h"

namespace mx {
TW_DEV void mbar_init(saddr bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
TW_DEV void mbar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// The new phase's state is of no use to those who wait by parity: `_`.
TW_DEV void mbar_arrive(saddr bar, Site) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
// `.cta` though the barrier may be another CTA's: in `.release.cluster` ptxas puts a fence of the whole GPU
// (MEMBAR.ALL.GPU) before every arrival, and in the wait's `.acquire.cluster` an emptying of L1 (CCTL.IVALL). Both are
// about global memory. What CTAs of a cluster tell each other here is that an operand in shared memory has been read,
// and for that nothing is outstanding: wgmma's wait comes first.
TW_DEV void mbar_arrive_at(saddr bar, u32 cta, Site) {
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cta.shared::cluster.b64 _, [there]; }" ::"r"(bar),
      "r"(cta)
      : "memory");
}
TW_DEV void mbar_arrive_expect_tx(saddr bar, u32 bytes, Site) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

// Each try sleeps in hardware until the phase ends or a limit of the machine's own passes.
TW_DEV void mbar_wait(saddr bar, u32 parity, Site) {
  u32 over;
  do {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(over)
        : "r"(bar), "r"(parity)
        : "memory");
  } while (!over);
}

TW_DEV void fence_async_shared(Site) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
TW_DEV void fence_async_global(Site) { asm volatile("fence.proxy.async.global;" ::: "memory"); }
}  // namespace mx
