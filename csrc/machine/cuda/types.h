// Types, and the three words that open device code.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "machine/site.h"

#define TW_DEV __device__ __forceinline__
#define TW_UNROLL _Pragma("unroll")
#define TW_NO_UNROLL _Pragma("unroll 1")

// `__grid_constant__` lets the body pass `p` by reference without a local copy of the parameters.
#define TW_KERNEL(name, threads, ctas_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, ctas_per_sm) name(const __grid_constant__ TwParams p)

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
