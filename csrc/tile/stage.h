// The portable mainloop: operands go by cp.async through a ring of stages in shared memory, a tile computes on one while
// the next ones fill.
//
//     barrier                                 nobody still reads the ring from the tile before
//     fill stages 0 .. S-2
//     for each K step i:
//       wait for the copies of stage i; barrier      filled for all threads; and stage i-1 is read by all
//       start filling stage i-1 with step i+S-1
//       multiply stage i; its operands have been read when that returns
//
// A stage holds kM rows of x, then kN rows of the weight, 128 bytes of K each, in 16-byte chunks. Chunk c of row r stands
// at c ^ (r % 8): eight rows of one chunk, what ldmatrix reads at once, lie in eight different groups of banks.
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
template <class Tile>
struct Ring {
  using T = typename Tile::Type;
  static constexpr uint32_t kStep = kStageRowBytes / Element<T>::kSize;  // of K
  static constexpr uint32_t kStageBytes = (Tile::kM + Tile::kN) * kStageRowBytes;
  static_assert(Tile::kStages >= 2, "Ring");

  // x[row0.., :] w[col0.., :]^T, added to `acc` by Tile::multiply_stage(x's stage, the weight's stage, acc).
  template <class Values>
  static TW_DEV void multiply(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, Values& acc) {
    const uint32_t steps = ceil_div(x.k, kStep);
    mx::cta_sync(Site::StageBarrier);
    TW_UNROLL
    for (uint32_t s = 0; s + 1 < Tile::kStages; ++s) fill(s, steps, x, row0, w, col0);
    for (uint32_t step = 0; step < steps; ++step) {
      mx::cp_async_wait<Tile::kStages - 2>(Site::CopyWait);
      mx::cta_sync(Site::StageBarrier);
      fill(step + Tile::kStages - 1, steps, x, row0, w, col0);
      const saddr stage = mx::shared() + step % Tile::kStages * kStageBytes;
      Tile::multiply_stage(stage, stage + Tile::kM * kStageRowBytes, acc);
    }
  }

 private:
  static TW_DEV void fill(uint32_t step, uint32_t steps, const Operand<T>& x, uint32_t row0, const Operand<T>& w,
                          uint32_t col0) {
    if (step < steps) {
      const saddr stage = mx::shared() + step % Tile::kStages * kStageBytes;
      load_stage<T, Tile::kM, Tile::kThreads>(stage, x, row0, step * kStep);
      load_stage<T, Tile::kN, Tile::kThreads>(stage + Tile::kM * kStageRowBytes, w, col0, step * kStep);
    }
    mx::cp_async_commit();  // an empty group too: the wait counts groups
  }
};
}  // namespace tw
