// The words that open device code.
#pragma once
#include "machine/types.h"

#define TW_DEV __device__ __forceinline__
#define TW_UNROLL _Pragma("unroll")
#define TW_NO_UNROLL _Pragma("unroll 1")

// `__grid_constant__` lets the body pass `p` by reference without a local copy of the parameters.
#define TW_KERNEL(name, threads, ctas_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, ctas_per_sm) name(const __grid_constant__ TwParams p)
