// The words that open device code. A kernel is an ordinary function that one fiber a warp runs. Everything of the kernels'
// is compiled a second time for this machine, under names of its own: the compiler is told mx=mx_timed and tw=tw_timed.
#pragma once
#include <string.h>

#include "machine/types.h"

#define TW_DEV inline
#define TW_MACHINE inline __attribute__((always_inline))
#define TW_UNROLL
#define TW_NO_UNROLL
#define TW_KERNEL(name, threads, ctas_per_sm) extern "C" void tw_timed_kernel_##name([[maybe_unused]] const TwParams& p)
#define TW_HOPPER_KERNEL(name, threads) TW_KERNEL(name, threads, 1)

namespace mx {
constexpr bool kHopper = true;
constexpr bool kMulticast = true;
}  // namespace mx
