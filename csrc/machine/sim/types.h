// Types, and the three words that open device code. On this machine a kernel is an ordinary function that a fiber runs.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"
#include "machine/site.h"

// Always inlined: a kernel is one frame, so a register recorded for `mma_wait` is still there when the wait comes.
#define TW_DEV inline __attribute__((always_inline))
#define TW_UNROLL
#define TW_NO_UNROLL
#define TW_KERNEL(name, threads, ctas_per_sm) extern "C" void tw_kernel_##name([[maybe_unused]] const TwParams& p)

namespace mx {
using u32 = uint32_t;
using u64 = uint64_t;
using saddr = u32;  // byte address in the CTA's shared window
using gaddr = u64;  // device address, this rank's or a mapped peer's

struct alignas(16) vec4 {
  u32 v[4];
};

// Tags of element types; never values. The tag of f32 is `float`.
struct bf16 {};
struct f16 {};
}  // namespace mx
