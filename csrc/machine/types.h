// Types that both machines have.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "machine/site.h"

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
