// The cut of K for split-K: a block of the output is the sum of S partial products, each over its own range of K, added
// in f32 from range 0's upwards. Ranges are whole steps of 64, in which every mainloop advances, so that a range begins
// as aligned as its row does; no two differ by more than a step, and S need not divide anything. How large S is, is the
// host's choice (src/op/splits.rs): of M, N, K and the type alone.
#pragma once
#include "schedule/chunk.h"

namespace tw {

constexpr uint32_t kSplitStep = 64;

// Range `s` of `splits`, at most ceil(k / 64) of them: none is empty then, but for k = 0.
constexpr Span split_of(uint32_t k, uint32_t splits, uint32_t s) {
  const uint64_t steps = ceil_div(k, kSplitStep), begin = steps * s / splits, end = steps * (s + 1) / splits;
  const uint64_t last = end * kSplitStep;
  return {uint32_t(begin * kSplitStep), last < k ? uint32_t(last) : k};
}

}  // namespace tw
