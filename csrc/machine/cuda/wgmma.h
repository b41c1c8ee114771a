// Hopper: tensor cores by warpgroups, asynchronously, both operands in shared memory.
//
// To the compiler an `asm` has its outputs when it is over, but wgmma writes its accumulators later: only the
// hardware's wait says when. `volatile` keeps the asm statements in order among themselves; ordinary code, which knows
// registers as mere values, is free to read an accumulator between a wgmma and its wait, or to put off writing one
// until after the fence that was to publish it. Both are undefined (PTX ISA, wgmma.fence and wgmma.wait_group), and
// where ptxas sees them it serialises the whole pipeline. `hold` ends that freedom: an empty asm that pretends to read
// and write a register, so that its value before and its value after are two, and no use of the one can pass to the
// other side.
#pragma once
#include "types.h"

namespace mx {
TW_DEV void hold(float& x) { asm volatile("" : "+f"(x)::"memory"); }
template <class T, size_t N>
TW_DEV void hold(T (&all)[N]) {
  TW_UNROLL
  for (size_t i = 0; i < N; ++i) hold(all[i]);
}

// `acc`: the accumulators that ordinary code has written.
template <class... Acc>
TW_DEV void wgmma_fence(Acc&... acc) {
  (hold(acc), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
TW_DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N, class Acc>
TW_DEV void wgmma_wait(Acc& acc, Site) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  hold(acc);
}

template <class T, u32 N>
struct Wgmma;
template <class T, u32 N>
TW_DEV void wgmma(float (&d)[N / 2], u64 a, u64 b, bool add) {
  Wgmma<T, N>::issue(d, a, b, add);
}

// The text of the first 32, 64 and 128 operands, by tens: TW_TEN(4) is "%40, %41, .., %49, ".
#define TW_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define TW_TEXT_32 TW_TEN() TW_TEN(1) TW_TEN(2) "%30, %31"
#define TW_TEXT_64 TW_TEN() TW_TEN(1) TW_TEN(2) TW_TEN(3) TW_TEN(4) TW_TEN(5) "%60, %61, %62, %63"
#define TW_TEXT_128                                                                                            \
  TW_TEN() TW_TEN(1) TW_TEN(2) TW_TEN(3) TW_TEN(4) TW_TEN(5) TW_TEN(6) TW_TEN(7) TW_TEN(8) TW_TEN(9) TW_TEN(10) \
  TW_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"

// The operands themselves, by halves: TW_HELD_4(8) is d[8], .., d[11].
#define TW_HELD_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TW_HELD_8(i) TW_HELD_4(i), TW_HELD_4(i + 4)
#define TW_HELD_16(i) TW_HELD_8(i), TW_HELD_8(i + 8)
#define TW_HELD_32(i) TW_HELD_16(i), TW_HELD_16(i + 16)
#define TW_HELD_64(i) TW_HELD_32(i), TW_HELD_32(i + 32)
#define TW_HELD_128(i) TW_HELD_64(i), TW_HELD_64(i + 64)

// Behind the `count` accumulators come operands %A, %B (descriptors) and %C (whether to add). The immediates: neither
// operand is negated (1, 1), both are K-major (0, 0).
#define TW_WGMMA(T, N, count, A, B, C)                                                                   \
  template <>                                                                                            \
  struct Wgmma<T, N> {                                                                                   \
    static TW_DEV void issue(float (&d)[count], u64 a, u64 b, bool add) {                                \
      asm volatile("{ .reg .pred p; setp.ne.u32 p, %" #C ", 0;\n"                                        \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" TW_TEXT_##count "}, " \
                   "%" #A ", %" #B ", p, 1, 1, 0, 0; }"                                                  \
                   : TW_HELD_##count(0)                                                                  \
                   : "l"(a), "l"(b), "r"(u32(add))                                                       \
                   : "memory");                                                                          \
    }                                                                                                    \
  };
TW_WGMMA(bf16, 64, 32, 32, 33, 34)
TW_WGMMA(bf16, 128, 64, 64, 65, 66)
TW_WGMMA(bf16, 256, 128, 128, 129, 130)
TW_WGMMA(f16, 64, 32, 32, 33, 34)
TW_WGMMA(f16, 128, 64, 64, 65, 66)
TW_WGMMA(f16, 256, 128, 128, 129, 130)
#undef TW_WGMMA
#undef TW_TEN
#undef TW_TEXT_32
#undef TW_TEXT_64
#undef TW_TEXT_128
#undef TW_HELD_4
#undef TW_HELD_8
#undef TW_HELD_16
#undef TW_HELD_32
#undef TW_HELD_64
#undef TW_HELD_128
}  // namespace mx
