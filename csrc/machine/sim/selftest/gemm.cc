// out[m, n] (f32) = x[m, k] weight[n, k]^T: 64 x 64 tiles, four warps of 32 x 32, K in steps of 64 through two stages of
// cp.async. Dimensions are multiples of 64. The simulator's benchmark, and the test of its asynchronous operations.
#include "machine.h"

namespace {
using namespace mx;
constexpr u32 kTile = 64, kRowBytes = 128, kOperandBytes = kTile * kRowBytes, kStageBytes = 2 * kOperandBytes;

TW_DEV saddr chunk_at(saddr base, u32 row, u32 chunk) { return base + row * kRowBytes + (chunk ^ row % 8) * 16; }

TW_DEV void fill(const TwParams& p, u32 stage, u32 row0, u32 col0, u32 k0) {
  for (u32 i = 0; i < 4; ++i) {
    const u32 at = i * 128 + thread(), row = at / 8, chunk = at % 8;
    cp_async_16(chunk_at(stage * kStageBytes, row, chunk), p.x + ((row0 + row) * p.x_ld + k0 + chunk * 8) * 2, 16);
    cp_async_16(chunk_at(stage * kStageBytes + kOperandBytes, row, chunk),
                p.weight + ((col0 + row) * p.weight_ld + k0 + chunk * 8) * 2, 16);
  }
  cp_async_commit();
}

template <class T>
TW_DEV void gemm(const TwParams& p) {
  const u32 across = p.n / kTile, tiles = p.m / kTile * across, steps = p.k / kTile;
  const u32 warp_row = warp() / 2 * 32, warp_col = warp() % 2 * 32;
  for (u32 tile = block(); tile < tiles; tile += grid()) {
    const u32 row0 = tile / across * kTile, col0 = tile % across * kTile;
    float acc[2][4][4] = {};
    u32 a[2][4], b[2][4];
    cta_sync(Site::StageBarrier);
    fill(p, 0, row0, col0, 0);
    for (u32 step = 0; step < steps; ++step) {
      cp_async_wait<0>(Site::CopyWait);
      cta_sync(Site::StageBarrier);
      if (step + 1 < steps) fill(p, (step + 1) % 2, row0, col0, (step + 1) * kTile);
      const saddr stage = step % 2 * kStageBytes;
      for (u32 k = 0; k < 4; ++k) {
        for (u32 i = 0; i < 2; ++i) ldmatrix_x4(a[i], chunk_at(stage, warp_row + i * 16 + lane() % 16, 2 * k + lane() / 16));
        for (u32 j = 0; j < 2; ++j) {
          ldmatrix_x4(b[j], chunk_at(stage + kOperandBytes, warp_col + j * 16 + lane() / 16 * 8 + lane() % 8,
                                     2 * k + lane() / 8 % 2));
        }
        for (u32 i = 0; i < 2; ++i) {
          for (u32 j = 0; j < 4; ++j) mma<T>(acc[i][j], a[i], reinterpret_cast<const u32(&)[2]>(b[j / 2][j % 2 * 2]));
        }
      }
      mma_wait(acc, Site::MmaWait);
    }
    for (u32 i = 0; i < 2; ++i) {
      for (u32 j = 0; j < 4; ++j) {
        for (u32 h = 0; h < 2; ++h) {
          const u64 row = row0 + warp_row + i * 16 + h * 8 + lane() / 4, col = col0 + warp_col + j * 8 + lane() % 4 * 2;
          const u64 pair = f32_bits(acc[i][j][2 * h]) | u64(f32_bits(acc[i][j][2 * h + 1])) << 32;
          st_global_b64(p.out + (row * p.out_ld + col) * 4, pair);
        }
      }
    }
  }
}
}  // namespace

TW_KERNEL(selftest_gemm_bf16, 128, 4) { gemm<bf16>(p); }
TW_KERNEL(selftest_gemm_f16, 128, 4) { gemm<f16>(p); }
