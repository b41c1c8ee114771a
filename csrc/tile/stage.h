// A stage of the mainloop's ring in shared memory: kRows rows of an operand, 128 bytes of K each, in 16-byte chunks.
// Chunk c of row r stands at c ^ (r % 8): eight rows of one chunk, what ldmatrix reads at once, lie in eight different
// groups of banks.
#pragma once
#include "schedule/chunk.h"
#include "tile/matrix.h"

namespace tw {
constexpr uint32_t kStageRowBytes = 128;
constexpr uint32_t kChunks = kStageRowBytes / 16;

TW_DEV saddr stage_chunk(saddr stage, uint32_t row, uint32_t chunk) {
  return stage + row * kStageRowBytes + (chunk ^ (row % 8)) * 16;
}

// One operand of a GEMM, K contiguous. Rows at or beyond `end` and columns beyond k read as zero.
template <class T>
struct Operand {
  Matrix<T> m;
  uint32_t end, k;
  TW_DEV bool vectors() const { return m.base % 16 == 0 && m.ld * Element<T>::kSize % 16 == 0; }
};

template <class T, uint32_t kRows, uint32_t kThreads>
TW_DEV void load_stage(saddr stage, const Operand<T>& o, uint32_t row0, uint32_t k0) {
  constexpr uint32_t kSize = Element<T>::kSize, kPerChunk = 16 / kSize;
  const bool vectors = o.vectors();
  TW_UNROLL
  for (uint32_t i = 0; i < kRows * kChunks / kThreads; ++i) {
    const uint32_t at = i * kThreads + mx::thread(), row = at / kChunks, chunk = at % kChunks;
    const uint32_t k = k0 + chunk * kPerChunk;
    const bool inside = row0 + row < o.end && k < o.k;
    const uint32_t valid = inside ? min_u32(o.k - k, kPerChunk) * kSize : 0;
    const gaddr source = inside ? o.m.at(row0 + row, k) : o.m.base;
    const saddr to = stage_chunk(stage, row, chunk);
    if (vectors) {
      mx::cp_async_16(to, source, valid);
    } else {
      mx::st_shared_v4(to, gather_16<kSize>(source, valid));
    }
  }
}
}  // namespace tw
