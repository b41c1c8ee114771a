// The tile of the plain collectives: no GEMM, a partial is this rank's input, already in the wire type.
//
// 256 threads, 16 x 256 values; thread t holds columns 8 (t % 32) .. + 7 of rows t / 32 and t / 32 + 8.
// A flat vector of `k` elements comes as rows of 256 columns, the last of which may be short (`k` 0: not flat).
#pragma once
#include "schedule/chunk.h"
#include "tile/matrix.h"

namespace tw {

template <class T>
struct MemoryTile {
  using Type = T;
  static constexpr uint32_t kM = 16, kN = 256, kThreads = 256, kShared = 0;
  static constexpr uint32_t kOctets = 2;
  struct Values {};

  static TW_DEV uint32_t row_of(uint32_t v) { return mx::thread() / 32 + 8 * v; }
  static TW_DEV Columns columns_of(uint32_t, uint32_t end) { return {mx::thread() % 32 * 8, 2, end}; }
};
}  // namespace tw
