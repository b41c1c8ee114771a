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
// A stage holds x's part, then the weight's, each in lines of 128 bytes as they lie in global memory. Of an operand whose
// neighbours differ in K, a line is a row's part of K. Of one whose neighbours differ in the row, the part is in panels of
// 128 bytes' worth of rows, and a line is one k of a panel: as many lines, since a step has 128 bytes' worth of K. In a
// line, 16-byte chunk c stands at c ^ (line % 8): eight lines of one chunk, what ldmatrix reads at once, lie in eight
// different groups of banks. What lies how is told at compile time within a mainloop, and chosen before it, so that
// neither costs the other anything; products and their order are the same.
#pragma once
#include "schedule/chunk.h"
#include "tile/matrix.h"

namespace tw {
constexpr uint32_t kStageRowBytes = 128;
constexpr uint32_t kChunks = kStageRowBytes / 16;

TW_DEV saddr stage_chunk(saddr stage, uint32_t line, uint32_t chunk) {
  return stage + line * kStageRowBytes + (chunk ^ (line % 8)) * 16;
}
// Of rows in panels: where the 16 bytes that begin at `row` lie for one k of the step.
template <uint32_t kSize>
TW_DEV saddr panel_chunk(saddr stage, uint32_t row, uint32_t k) {
  constexpr uint32_t kPanel = kStageRowBytes / kSize;
  return stage_chunk(stage, row / kPanel * kPanel + k, row % kPanel * kSize / 16);
}

// One operand of a GEMM: element (row, k) is m's (row, k), or with `by_k` its (k, row). Rows at or beyond `end` and k at or
// beyond `k` read as zero.
template <class T>
struct Operand {
  Matrix<T> m;
  uint32_t end, k;
  bool by_k;
  // From `first` on of a line of memory, a multiple of 16 bytes but for a first row.
  TW_DEV bool vectors(uint32_t first) const {
    return (m.base + uint64_t(first) * Element<T>::kSize) % 16 == 0 && m.ld * Element<T>::kSize % 16 == 0;
  }
};

template <class T, uint32_t kRows, uint32_t kThreads, bool kByK>
TW_DEV void load_stage(saddr stage, const Operand<T>& o, uint32_t row0, uint32_t k0) {
  constexpr uint32_t kSize = Element<T>::kSize, kPerChunk = 16 / kSize, kPanel = kStageRowBytes / kSize;
  static_assert(kRows % kPanel == 0 || !kByK, "load_stage");
  const bool vectors = o.vectors(kByK ? row0 : 0);
  TW_UNROLL
  for (uint32_t i = 0; i < kRows * kChunks / kThreads; ++i) {
    const uint32_t at = i * kThreads + mx::thread(), line = at / kChunks, chunk = at % kChunks;
    const uint32_t row = row0 + (kByK ? line / kPanel * kPanel + chunk * kPerChunk : line);
    const uint32_t k = k0 + (kByK ? line % kPanel : chunk * kPerChunk);
    const bool inside = row < o.end && k < o.k;
    const uint32_t valid = inside ? min_u32(kByK ? o.end - row : o.k - k, kPerChunk) * kSize : 0;
    const gaddr source = inside ? (kByK ? o.m.at(k, row) : o.m.at(row, k)) : 0;
    const saddr to = stage_chunk(stage, line, chunk);
    if (vectors) {
      mx::cp_async_16(to, source, valid);
    } else {
      mx::st_shared_v4(to, gather_16<kSize>(source, valid));
    }
  }
}
// Tiles of 256 columns have no registers left for other layouts than NT, and are asked for none: they are the twins of
// Hopper's, which multiplies no other (src/op/heuristics.rs).
template <class Tile>
constexpr bool kLayouts = Tile::kN <= 128;

template <class Tile>
struct Ring {
  using T = typename Tile::Type;
  static constexpr uint32_t kStep = kStageRowBytes / Element<T>::kSize;  // of K
  static constexpr uint32_t kStageBytes = (Tile::kM + Tile::kN) * kStageRowBytes;
  static_assert(Tile::kStages >= 2, "Ring");

  // x[row0.., :] w[col0.., :]^T, added to `acc` by Tile::multiply_stage(x's stage, the weight's stage, acc). An x by k
  // comes with a weight by k: nobody needs the fourth combination.
  template <class Values>
  static TW_DEV void multiply(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, Values& acc) {
    if constexpr (kLayouts<Tile>) {
      if (x.by_k) return run<true, true>(x, row0, w, col0, acc);
      if (w.by_k) return run<false, true>(x, row0, w, col0, acc);
    }
    run<false, false>(x, row0, w, col0, acc);
  }

 private:
  template <bool kXByK, bool kWByK, class Values>
  static TW_DEV void run(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, Values& acc) {
    const uint32_t steps = ceil_div(x.k, kStep);
    const auto fill = [&](uint32_t step) {
      if (step < steps) {
        const saddr stage = mx::shared() + step % Tile::kStages * kStageBytes;
        load_stage<T, Tile::kM, Tile::kThreads, kXByK>(stage, x, row0, step * kStep);
        load_stage<T, Tile::kN, Tile::kThreads, kWByK>(stage + Tile::kM * kStageRowBytes, w, col0, step * kStep);
      }
      mx::cp_async_commit();  // an empty group too: the wait counts groups
    };
    mx::cta_sync(Site::StageBarrier);
    TW_UNROLL
    for (uint32_t s = 0; s + 1 < Tile::kStages; ++s) fill(s);
    for (uint32_t step = 0; step < steps; ++step) {
      mx::cp_async_wait<Tile::kStages - 2>(Site::CopyWait);
      mx::cta_sync(Site::StageBarrier);
      fill(step + Tile::kStages - 1);
      const saddr stage = mx::shared() + step % Tile::kStages * kStageBytes;
      Tile::template multiply_stage<kXByK, kWByK>(stage, stage + Tile::kM * kStageRowBytes, acc);
    }
  }
};
}  // namespace tw
