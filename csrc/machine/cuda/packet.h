// One-shot packets: 16 bytes as two 8-byte halves {data, tag}. A vector access is one memory operation per element
// (PTX ISA, memory consistency model, vector data-types): each half arrives whole, in no order, hence a tag in each.
#pragma once
#include "types.h"

namespace mx {
TW_DEV vec4 ld_packet(gaddr a) {
  u64 lo, hi;
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];" : "=l"(lo), "=l"(hi) : "l"(a) : "memory");
  return vec4{{u32(lo), u32(lo >> 32), u32(hi), u32(hi >> 32)}};
}
TW_DEV vec4 poll_packet(gaddr a, u32, Site) { return ld_packet(a); }
TW_DEV void st_packet(gaddr a, vec4 x) {
  const u64 lo = u64(x.v[1]) << 32 | x.v[0], hi = u64(x.v[3]) << 32 | x.v[2];
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(a), "l"(lo), "l"(hi) : "memory");
}
}  // namespace mx
