// The words that open device code.
#pragma once
#include "machine/types.h"

#define TW_DEV __device__ __forceinline__
#define TW_UNROLL _Pragma("unroll")
#define TW_NO_UNROLL _Pragma("unroll 1")

// `__grid_constant__` lets the body pass `p` by reference without a local copy of the parameters.
#define TW_KERNEL(name, threads, ctas_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, ctas_per_sm) name(const __grid_constant__ TwParams p)

// One CTA an SM, in sm_90a's machine code alone. Elsewhere the body is that of an inline function which nobody calls:
// it is checked and leaves nothing behind.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define TW_HOPPER_KERNEL(name, threads) TW_KERNEL(name, threads, 1)
#else
#define TW_HOPPER_KERNEL(name, threads) TW_DEV void name(const TwParams& p)
#endif

namespace mx {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kMulticast = true;
#else
constexpr bool kMulticast = false;
#endif
}  // namespace mx
