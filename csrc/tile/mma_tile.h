// The portable tensor-core tile: ldmatrix and mma.sync m16n8k16 on the stages of a ring, f32 accumulators (sm_80 on). The
// simulator runs them at mma_wait, which ends a stage.
//
// A warp owns a kWarpM x kWarpN part. An octet is row h (0: upper, 1: lower eight rows) of 16-row block i, four
// neighbouring 8-column blocks from 4g: pair j is columns (4g + j) * 8 + 2 * (lane % 4), which is how mma lays out D.
// K runs upwards in steps of 16, so an output's bits depend on K alone, not on the tile it falls into. Operands whose
// neighbours differ in the row are turned on their way into registers: the same values, the same products.
#pragma once
#include "tile/fragment.h"
#include "tile/stage.h"

namespace tw {

template <class T, uint32_t kBlockM, uint32_t kBlockN, uint32_t kWarpsM, uint32_t kWarpsN, uint32_t kRingStages>
struct MmaTile {
  using Type = T;
  using Team = Cta;
  static constexpr uint32_t kM = kBlockM, kN = kBlockN;
  static constexpr uint32_t kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr uint32_t kWarpM = kBlockM / kWarpsM, kWarpN = kBlockN / kWarpsN;
  static constexpr uint32_t kRows16 = kWarpM / 16, kCols8 = kWarpN / 8, kGroups = kCols8 / 4;
  static constexpr uint32_t kOctets = kRows16 * 2 * kGroups;
  static constexpr uint32_t kStages = kRingStages, kShared = kStages * (kM + kN) * kStageRowBytes;
  static constexpr uint32_t kTailAt = 0;  // the ring is at rest by then
  static_assert(kWarpM % 16 == 0 && kWarpN % 32 == 0, "MmaTile");

  struct Values {
    float d[kRows16][kCols8][4];
    TW_DEV Octet octet(uint32_t v) const {
      const uint32_t i = v / (2 * kGroups), h = v / kGroups % 2, g = v % kGroups;
      Octet o;
      TW_UNROLL
      for (int j = 0; j < 4; ++j) {
        o.f[2 * j] = d[i][4 * g + j][2 * h];
        o.f[2 * j + 1] = d[i][4 * g + j][2 * h + 1];
      }
      return o;
    }
    TW_DEV void add(const Values& x) {
      TW_UNROLL
      for (uint32_t i = 0; i < kRows16; ++i) {
        TW_UNROLL
        for (uint32_t j = 0; j < kCols8; ++j) {
          TW_UNROLL
          for (int e = 0; e < 4; ++e) d[i][j][e] = mx::add(d[i][j][e], x.d[i][j][e]);
        }
      }
    }
  };

  static TW_DEV uint32_t row_of(uint32_t v) {
    return mx::warp() / kWarpsN * kWarpM + v / (2 * kGroups) * 16 + v / kGroups % 2 * 8 + mx::lane() / 4;
  }
  static TW_DEV Columns columns_of(uint32_t v, uint32_t end) {
    return {mx::warp() % kWarpsN * kWarpN + v % kGroups * 32 + mx::lane() % 4 * 2, 8, end};
  }

  static TW_DEV uint32_t place(uint32_t v) {
    const uint32_t r = mx::warp() / kWarpsN * kRows16 + v / (2 * kGroups), g = mx::warp() % kWarpsN * kGroups + v % kGroups;
    return fragment_place<kN / kGroupColumns>(r, v / kGroups % 2, g, mx::lane());
  }

  // The octet that begins at column `col`, counted along a row.
  static TW_DEV uint32_t ordinal(uint32_t col) { return col / 32 * 4 + col % 32 / 2; }

  // x[row0.., :] w[col0.., :]^T
  static TW_DEV void multiply(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, Values& acc) {
    TW_UNROLL
    for (uint32_t i = 0; i < kRows16; ++i) {
      TW_UNROLL
      for (uint32_t j = 0; j < kCols8; ++j) {
        TW_UNROLL
        for (int e = 0; e < 4; ++e) acc.d[i][j][e] = 0.f;
      }
    }
    Ring<MmaTile>::multiply(x, row0, w, col0, acc);
  }

  template <bool kXByK, bool kWByK>
  static TW_DEV void multiply_stage(saddr a_stage, saddr b_stage, Values& acc) {
    const uint32_t a_row = mx::warp() / kWarpsN * kWarpM, b_row = mx::warp() % kWarpsN * kWarpN;
    uint32_t a[kRows16][4], b[kCols8 / 2][4];
    TW_UNROLL
    for (uint32_t k = 0; k < kChunks / 2; ++k) {  // 16 values are two chunks
      TW_UNROLL
      for (uint32_t i = 0; i < kRows16; ++i) load_matrices<kXByK, true>(a[i], a_stage, a_row + i * 16, k);
      TW_UNROLL
      for (uint32_t j = 0; j < kCols8 / 2; ++j) load_matrices<kWByK, false>(b[j], b_stage, b_row + j * 16, k);
      TW_UNROLL
      for (uint32_t i = 0; i < kRows16; ++i) {
        TW_UNROLL
        for (uint32_t j = 0; j < kCols8; ++j) {
          mx::mma<T>(acc.d[i][j], a[i], reinterpret_cast<const uint32_t(&)[2]>(b[j / 2][j % 2 * 2]));
        }
      }
    }
    mx::mma_wait(acc.d, Site::MmaWait);
  }

 private:
  // 16 rows' values of 16 of K, from the k-th on, as four 8x8 matrices: by eight rows, then by eight of K, or with kRowsFirst
  // the other way round; those are the orders of mma's A and of two of its B. Eight lanes give the lines of a matrix.
  template <bool kByK, bool kRowsFirst>
  static TW_DEV void load_matrices(uint32_t (&r)[4], saddr stage, uint32_t row, uint32_t k) {
    const uint32_t line = mx::lane() % 8, low = mx::lane() / 8 % 2 * 8, high = mx::lane() / 16 * 8;
    const uint32_t in_rows = kRowsFirst ? low : high, in_k = kRowsFirst ? high : low;
    if (kByK) {
      mx::ldmatrix_x4_trans(r, panel_chunk<2>(stage, row + in_rows, 16 * k + in_k + line));
    } else {
      mx::ldmatrix_x4(r, stage_chunk(stage, row + in_rows + line, 2 * k + in_k / 8));
    }
  }
};
}  // namespace tw
