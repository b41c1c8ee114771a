// sm_90 and later: one address for the memory of every device of a team (NVLS). The switch adds what it loads from all, and
// stores to all.
#pragma once
#include "types.h"

namespace mx {
// The sum of the 16 bytes at `a` of every member: values of T, accumulated in f32, rounded once.
template <class T>
TW_DEV vec4 multimem_ld_reduce_v4(gaddr a);
#define TW_LD_REDUCE(T, type)                                                                         \
  template <>                                                                                         \
  TW_DEV vec4 multimem_ld_reduce_v4<T>(gaddr a) {                                                     \
    vec4 x;                                                                                           \
    asm volatile("multimem.ld_reduce.relaxed.sys.global.add" type " {%0, %1, %2, %3}, [%4];"          \
                 : "=r"(x.v[0]), "=r"(x.v[1]), "=r"(x.v[2]), "=r"(x.v[3])                             \
                 : "l"(a)                                                                             \
                 : "memory");                                                                         \
    return x;                                                                                         \
  }
TW_LD_REDUCE(bf16, ".acc::f32.v4.bf16x2")
TW_LD_REDUCE(f16, ".acc::f32.v4.f16x2")
TW_LD_REDUCE(float, ".v4.f32")
#undef TW_LD_REDUCE

// The same 16 bytes to every member. The type says how wide they are: no value is looked at.
TW_DEV void multimem_st_v4(gaddr a, vec4 x) {
  asm volatile("multimem.st.relaxed.sys.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(a), "r"(x.v[0]), "r"(x.v[1]),
               "r"(x.v[2]), "r"(x.v[3])
               : "memory");
}

TW_DEV void fence_alias(Site) { asm volatile("fence.proxy.alias;" ::: "memory"); }
}  // namespace mx
