// What the conformance cases share: the case reads words of `p.x` and `p.weight` and writes words of `p.out`.
#pragma once
#include "machine.h"

namespace tw {
namespace conformance {
constexpr mx::u64 kPatience = 1000000000;  // ns
constexpr mx::Site kHere = mx::Site::None;
constexpr uint32_t kThreads = 128;

TW_DEV mx::u32 global_thread() { return mx::block() * kThreads + mx::thread(); }
TW_DEV mx::u32 word(mx::gaddr base, mx::u32 index) { return mx::ld_global_b32(base + 4 * index); }
TW_DEV void put(const TwParams& p, mx::u32 index, mx::u32 value) { mx::st_global_b32(p.out + 4 * index, value); }
}  // namespace conformance
}  // namespace tw
