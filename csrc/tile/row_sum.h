// In which order the terms of a row are added. It is part of the numerics contract, and depends on columns alone, not on how
// many threads do it: column c goes into chain c mod 2048, upwards, and the chains' sums are added as a balanced binary tree,
// neighbours first. A warp at a time holds a span of 256 chains, eight in a thread.
#pragma once
#include "tile/octet.h"

namespace tw {
constexpr uint32_t kRowSpan = 256, kRowSpans = 8, kRowChains = kRowSpan * kRowSpans;

// Sums of two neighbours each; the first is all of it.
TW_DEV float fold_eight(const float (&x)[8]) {
  return mx::add(mx::add(mx::add(x[0], x[1]), mx::add(x[2], x[3])), mx::add(mx::add(x[4], x[5]), mx::add(x[6], x[7])));
}

// The sum of all lanes', on every lane.
TW_DEV float fold_lanes(float sum, uint32_t lanes = 32) {
  for (uint32_t mask = 1; mask < lanes; mask *= 2) sum = mx::add(sum, mx::bits_f32(mx::shfl_xor(mx::f32_bits(sum), mask)));
  return sum;
}

// The sum of a warp's span.
TW_DEV float fold_span(const float (&chain)[8]) { return fold_lanes(fold_eight(chain)); }
}  // namespace tw
