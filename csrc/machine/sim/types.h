// The words that open device code. On this machine a kernel is an ordinary function that a fiber runs.
#pragma once
#include <string.h>

#include "machine/types.h"

#define TW_DEV inline
// The machine's own functions are always inlined: a wait stands in the frame of the function that calls it, where, or
// further out, the registers are that it has recorded.
#define TW_MACHINE inline __attribute__((always_inline))
#define TW_UNROLL
#define TW_NO_UNROLL
#define TW_KERNEL(name, threads, ctas_per_sm) extern "C" void tw_kernel_##name([[maybe_unused]] const TwParams& p)
#define TW_HOPPER_KERNEL(name, threads) TW_KERNEL(name, threads, 1)

namespace mx {
constexpr bool kHopper = true;     // what docs/machine.md lists under "Hopper" is there
constexpr bool kMulticast = true;  // and under "Multicast"
}
