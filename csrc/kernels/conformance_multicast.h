// The cases of multicast: `p.x` is a multicast address, `p.weight` this device's own address of the same memory.
#pragma once
#include "kernels/conformance_words.h"

#define TW_CONFORMANCE_MULTICAST_CASES(X) X(switch_sums) X(switch_stores)

namespace tw {
namespace conformance {
// out[12 t ..]: the sums over all members of 16 bytes: of bf16, of f16 (from 2048 on) and of f32 (from 4096 on).
TW_DEV void switch_sums(const TwParams& p) {
  if constexpr (mx::kMulticast) {
    const mx::gaddr at = p.x + 16 * mx::thread(), out = p.out + 48 * mx::thread();
    mx::st_global_v4(out, mx::multimem_ld_reduce_v4<mx::bf16>(at));
    mx::st_global_v4(out + 16, mx::multimem_ld_reduce_v4<mx::f16>(at + 2048));
    mx::st_global_v4(out + 32, mx::multimem_ld_reduce_v4<float>(at + 4096));
  }
}

// 16 bytes a thread to all members; out[4 t ..]: this device's, as the thread reads them by their own address.
TW_DEV void switch_stores(const TwParams& p) {
  if constexpr (mx::kMulticast) {
    const mx::u32 at = 16 * mx::thread(), i = mx::thread();
    mx::multimem_st_v4(p.x + at, mx::vec4{{7 * i + 1, ~i, 0x7fc00001u, i << 20}});
    mx::fence_alias(kHere);
    mx::st_global_v4(p.out + at, mx::ld_global_v4(p.weight + at));
  }
}
}  // namespace conformance
}  // namespace tw
