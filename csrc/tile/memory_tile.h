// The tile of the plain collectives: no GEMM, a partial is this rank's input, already in the wire type. 256 threads, 4096
// values, in one of two shapes:
//
//   16 x 256   thread t holds columns 8 (t % 32) .. + 7 of rows t / 32 and t / 32 + 8
//   1 x 4096   a flat vector: thread t holds columns 8 t .. + 7 and 2048 + 8 t .. + 7
#pragma once
#include "tile/matrix.h"

namespace tw {

template <class T>
struct MemoryTile {
  using Type = T;
  using Team = Cta;
  static constexpr uint32_t kM = 16, kN = 256, kThreads = 256, kTailAt = 0, kShared = kTailBytes;
  static constexpr uint32_t kOctets = 2;

  static TW_DEV uint32_t place(uint32_t v) { return v * kThreads + mx::thread(); }
  static TW_DEV uint32_t row_of(bool flat, uint32_t v) { return flat ? 0 : mx::thread() / 32 + 8 * v; }
  static TW_DEV uint32_t col_of(bool flat, uint32_t v) { return flat ? v * 2048 + mx::thread() * 8 : mx::thread() % 32 * 8; }
};
}  // namespace tw
