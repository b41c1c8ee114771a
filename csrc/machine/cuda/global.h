// Global and peer memory, weak accesses. Never `.nc`: the read-only cache is not coherent with what peers write.
#pragma once
#include "types.h"

namespace mx {
TW_DEV u32 ld_global_b16(gaddr a) {
  uint16_t x;
  asm volatile("ld.global.b16 %0, [%1];" : "=h"(x) : "l"(a) : "memory");
  return x;
}
TW_DEV u32 ld_global_b32(gaddr a) {
  u32 x;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(a) : "memory");
  return x;
}
TW_DEV vec4 ld_global_v4(gaddr a) {
  vec4 x;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])
               : "l"(a)
               : "memory");
  return x;
}
TW_DEV void st_global_b16(gaddr a, u32 x) {
  asm volatile("st.global.b16 [%0], %1;" ::"l"(a), "h"(uint16_t(x)) : "memory");
}
TW_DEV void st_global_b32(gaddr a, u32 x) { asm volatile("st.global.b32 [%0], %1;" ::"l"(a), "r"(x) : "memory"); }
TW_DEV void st_global_b64(gaddr a, u64 x) { asm volatile("st.global.b64 [%0], %1;" ::"l"(a), "l"(x) : "memory"); }
TW_DEV void st_global_v4(gaddr a, vec4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(a), "r"(x.v[0]), "r"(x.v[1]), "r"(x.v[2]), "r"(x.v[3])
               : "memory");
}

// What the simulator is told and the GPU need not know.
TW_DEV void discard(gaddr, u64) {}
TW_DEV void payload(u32) {}
}  // namespace mx
