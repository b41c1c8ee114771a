// Shared memory, by byte address in the CTA's window.
#pragma once
#include "types.h"

namespace mx {
// Base of the dynamic shared memory. Not 0: sm_90 and later reserve the window's start for the system.
TW_DEV saddr shared() {
  extern __shared__ __align__(1024) uint8_t tw_dynamic_shared[];
  return saddr(__cvta_generic_to_shared(tw_dynamic_shared));
}

TW_DEV u32 ld_shared_b32(saddr a) {
  u32 x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(a) : "memory");
  return x;
}
TW_DEV vec4 ld_shared_v4(saddr a) {
  vec4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "r"(a)
               : "memory");
  return x;
}
TW_DEV void st_shared_b16(saddr a, u32 x) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(a), "h"(uint16_t(x)) : "memory");
}
TW_DEV void st_shared_b32(saddr a, u32 x) { asm volatile("st.shared.b32 [%0], %1;" ::"r"(a), "r"(x) : "memory"); }
TW_DEV void st_shared_b64(saddr a, u64 x) { asm volatile("st.shared.b64 [%0], %1;" ::"r"(a), "l"(x) : "memory"); }
TW_DEV void st_shared_v4(saddr a, vec4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(a), "r"(x.v[0]), "r"(x.v[1]), "r"(x.v[2]), "r"(x.v[3])
               : "memory");
}
}  // namespace mx
