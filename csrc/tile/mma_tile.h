// The portable tensor-core tile: cp.async into a ring of stages, ldmatrix, mma.sync m16n8k16, f32 accumulators (sm_80 on).
//
//     barrier                                 nobody still reads the ring from the tile before
//     fill stages 0 .. S-2
//     for each K step i:
//       wait for the copies of stage i; barrier      filled for all threads; and stage i-1 is read by all
//       start filling stage i-1 with step i+S-1
//       ldmatrix and mma on stage i; mma_wait        operands are read (the simulator runs them here)
//
// A warp owns a kWarpM x kWarpN part. An octet is row h (0: upper, 1: lower eight rows) of 16-row block i, four
// neighbouring 8-column blocks from 4g: pair j is columns (4g + j) * 8 + 2 * (lane % 4), which is how mma lays out D.
// K runs upwards in steps of 16, so an output's bits depend on K alone, not on the tile it falls into.
#pragma once
#include "tile/stage.h"

namespace tw {

template <class T, uint32_t kBlockM, uint32_t kBlockN, uint32_t kWarpsM, uint32_t kWarpsN, uint32_t kStages>
struct MmaTile {
  using Type = T;
  static constexpr uint32_t kM = kBlockM, kN = kBlockN;
  static constexpr uint32_t kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr uint32_t kWarpM = kBlockM / kWarpsM, kWarpN = kBlockN / kWarpsN;
  static constexpr uint32_t kRows16 = kWarpM / 16, kCols8 = kWarpN / 8, kGroups = kCols8 / 4;
  static constexpr uint32_t kOctets = kRows16 * 2 * kGroups;
  static constexpr uint32_t kStep = kStageRowBytes / Element<T>::kSize;
  static constexpr uint32_t kStageBytes = (kBlockM + kBlockN) * kStageRowBytes;
  static constexpr uint32_t kShared = kStages * kStageBytes;
  static_assert(kWarpM % 16 == 0 && kWarpN % 32 == 0 && kStages >= 2, "MmaTile");

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
  };

  static TW_DEV uint32_t row_of(uint32_t v) {
    return mx::warp() / kWarpsN * kWarpM + v / (2 * kGroups) * 16 + v / kGroups % 2 * 8 + mx::lane() / 4;
  }
  static TW_DEV Columns columns_of(uint32_t v, uint32_t end) {
    return {mx::warp() % kWarpsN * kWarpN + v % kGroups * 32 + mx::lane() % 4 * 2, 8, end};
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
    const uint32_t steps = ceil_div(x.k, kStep);
    mx::cta_sync(Site::StageBarrier);
    TW_UNROLL
    for (uint32_t s = 0; s + 1 < kStages; ++s) fill(s, steps, x, row0, w, col0);
    for (uint32_t step = 0; step < steps; ++step) {
      mx::cp_async_wait<kStages - 2>(Site::CopyWait);
      mx::cta_sync(Site::StageBarrier);
      fill(step + kStages - 1, steps, x, row0, w, col0);
      multiply_stage(mx::shared() + step % kStages * kStageBytes, acc);
    }
  }

 private:
  static TW_DEV void fill(uint32_t step, uint32_t steps, const Operand<T>& x, uint32_t row0, const Operand<T>& w,
                          uint32_t col0) {
    if (step < steps) {
      const saddr stage = mx::shared() + step % kStages * kStageBytes;
      load_stage<T, kBlockM, kThreads>(stage, x, row0, step * kStep);
      load_stage<T, kBlockN, kThreads>(stage + kBlockM * kStageRowBytes, w, col0, step * kStep);
    }
    mx::cp_async_commit();  // an empty group too: the wait counts groups
  }

  static TW_DEV void multiply_stage(saddr stage, Values& acc) {
    const uint32_t lane = mx::lane();
    const uint32_t a_row = mx::warp() / kWarpsN * kWarpM + lane % 16;
    const uint32_t b_row = mx::warp() % kWarpsN * kWarpN + lane / 16 * 8 + lane % 8;
    const saddr b_stage = stage + kBlockM * kStageRowBytes;
    uint32_t a[kRows16][4], b[kCols8 / 2][4];
    TW_UNROLL
    for (uint32_t k = 0; k < kStep / 16; ++k) {
      TW_UNROLL
      for (uint32_t i = 0; i < kRows16; ++i) mx::ldmatrix_x4(a[i], stage_chunk(stage, a_row + i * 16, 2 * k + lane / 16));
      TW_UNROLL
      for (uint32_t j = 0; j < kCols8 / 2; ++j) {
        mx::ldmatrix_x4(b[j], stage_chunk(b_stage, b_row + j * 16, 2 * k + lane / 8 % 2));
      }
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
};
}  // namespace tw
