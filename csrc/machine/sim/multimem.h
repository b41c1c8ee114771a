// One address for the memory of every device of a team. The switch takes the members in an order of its own, which the seed
// draws anew for every load (`src/driver/sim/switch.rs`).
#pragma once
#include "arith.h"
#include "calls.h"

namespace mx {
// Four bytes of T more to `sum`, and the sum as four bytes again.
template <class T>
struct Summand {
  float lo, hi;
  TW_MACHINE explicit Summand(u32 x) : lo(unpack_lo<T>(x)), hi(unpack_hi<T>(x)) {}
  TW_MACHINE void take(u32 x) {
    lo = add(lo, unpack_lo<T>(x));
    hi = add(hi, unpack_hi<T>(x));
  }
  TW_MACHINE u32 bits() const { return pack2<T>(lo, hi); }
};
template <>
struct Summand<float> {
  float f;
  TW_MACHINE explicit Summand(u32 x) : f(bits_f32(x)) {}
  TW_MACHINE void take(u32 x) { f = add(f, bits_f32(x)); }
  TW_MACHINE u32 bits() const { return f32_bits(f); }
};

template <class T>
TW_MACHINE vec4 multimem_ld_reduce_v4(gaddr a) {
  note(self(), Call::SwitchLoad, a, 0);
  u64 from[TW_MAX_RANKS];
  const u32 members = tw_sim_multicast_load(self(), a, from);
  vec4 x;
  for (int i = 0; i < 4; ++i) {
    u32 word;
    memcpy(&word, reinterpret_cast<const u32*>(from[0]) + i, 4);
    Summand<T> sum(word);
    for (u32 m = 1; m < members; ++m) {
      memcpy(&word, reinterpret_cast<const u32*>(from[m]) + i, 4);
      sum.take(word);
    }
    x.v[i] = sum.bits();
  }
  return x;
}
TW_MACHINE void multimem_st_v4(gaddr a, vec4 x) {
  note(self(), Call::SwitchStore, a, 0);
  tw_sim_multicast_store(self(), a, x.v);
}
TW_MACHINE void fence_alias(Site s) {
  note(self(), Call::AliasFence);
  tw_sim_fence_alias(self(), u32(s));
}
}  // namespace mx
