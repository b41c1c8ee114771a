// Warpgroups: products of wgmma, what the machine checks of them, stmatrix and register budgets. One CTA each but where
// said; `p.n` picks N, `p.k` the case or K.
#include "machine.h"

namespace {
using namespace mx;
constexpr u32 kRows = 64, kRowBytes = 128, kDepth = 64;

TW_DEV u64 descriptor(saddr tile) { return 1ull << 62 | 64ull << 32 | 1ull << 16 | (tile & 0x3ffff) >> 4; }

// The warpgroup copies `rows` rows of 64 values from `at` on, swizzled.
TW_DEV void fill(saddr tile, gaddr at, u64 ld, u32 rows) {
  for (u32 i = thread() % 128; i < rows * 8; i += 128) {
    const u32 row = i / 8, chunk = i % 8;
    st_shared_v4(tile + row * kRowBytes + (chunk ^ row % 8) * 16, ld_global_v4(at + (row * ld + chunk * 8) * 2));
  }
}

template <u32 N>
TW_DEV void put(const TwParams& p, const float (&d)[N / 2]) {
  for (u32 i = 0; i < N / 2; ++i) {
    const u64 row = block() * kRows + warp() * 16 + i / 2 % 2 * 8 + lane() / 4, col = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    st_global_b32(p.out + (row * p.out_ld + col) * 4, f32_bits(d[i]));
  }
}

// out[m, N] (f32) = x[m, k] weight[N, k]^T: a CTA for each 64 rows, K in steps of 64 through `p.slots` stages, of which
// one may be read while the next is filled: 2 are enough, 1 is not. `p.window`: a sum begins with what is in `out`.
template <class T, u32 N>
TW_DEV void product(const TwParams& p) {
  const u32 stage_bytes = (kRows + N) * kRowBytes;
  float d[N / 2];
  for (u32 i = 0; i < N / 2; ++i) {
    const u64 row = block() * kRows + warp() * 16 + i / 2 % 2 * 8 + lane() / 4, col = i / 4 * 8 + lane() % 4 * 2 + i % 2;
    if (p.window) d[i] = bits_f32(ld_global_b32(p.out + (row * p.out_ld + col) * 4));
  }
  for (u32 step = 0; step < p.k / kDepth; ++step) {
    const saddr a = step % p.slots * stage_bytes, b = a + kRows * kRowBytes;
    fill(a, p.x + (u64(block()) * kRows * p.x_ld + step * kDepth) * 2, p.x_ld, kRows);
    fill(b, p.weight + step * kDepth * 2, p.weight_ld, N);
    fence_async_shared(Site::ChunkFence);
    cta_sync(Site::StageBarrier);
    wgmma_fence();
    for (u32 k = 0; k < kDepth / 16; ++k) {
      wgmma<T, N>(d, descriptor(a + k * 32), descriptor(b + k * 32), step || k || p.window);
    }
    wgmma_commit();
    wgmma_wait<1>(d, Site::None);
  }
  wgmma_wait<0>(d, Site::WgmmaWait);
  put<N>(p, d);
}

template <class T>
TW_DEV void product_of(const TwParams& p) {
  if (p.n == 64) product<T, 64>(p);
  if (p.n == 128) product<T, 128>(p);
  if (p.n == 256) product<T, 256>(p);
}
}  // namespace

TW_HOPPER_KERNEL(selftest_wgmma_bf16, 128) { product_of<bf16>(p); }
TW_HOPPER_KERNEL(selftest_wgmma_f16, 128) { product_of<f16>(p); }

// The simulator's benchmark, and all of it together: out[m, n] (f32) = x[m, k] weight[n, k]^T in tiles of 128 x 256, by two
// warpgroups and a loader through three stages. Boxes of `p.map_x` are 64 rows, of `p.map_weight` 256.
TW_HOPPER_KERNEL(selftest_wgmma_gemm, 288) {
  constexpr u32 kStages = 3, kA = 2 * kRows * kRowBytes, kStageBytes = kA + 256 * kRowBytes, kMath = 8;
  constexpr saddr kFull = 0, kEmpty = 64, kFirst = 1024;
  const u32 across = p.n / 256, tiles = p.m / 128 * across, steps = p.k / kDepth;
  if (thread() == 0) {
    for (u32 i = 0; i < kStages; ++i) {
      mbar_init(kFull + 8 * i, 1);
      mbar_init(kEmpty + 8 * i, kMath);
    }
    mbar_init_fence();
  }
  cta_sync(Site::SetupBarrier);
  u32 at = 0;
  if (warp() == kMath) {
    if (lane() != 0) return;
    for (u32 tile = block(); tile < tiles; tile += grid()) {
      for (u32 step = 0; step < steps; ++step, ++at) {
        const u32 i = at % kStages, full = kFull + 8 * i, row = tile / across * 128;
        const saddr stage = kFirst + i * kStageBytes;
        mbar_wait(kEmpty + 8 * i, (at / kStages + 1) % 2, Site::StageEmpty);
        mbar_arrive_expect_tx(full, kStageBytes, Site::StageFull);
        tma_load_2d(stage, p.map_x, step * kDepth, row, full);
        tma_load_2d(stage + kA / 2, p.map_x, step * kDepth, row + kRows, full);
        tma_load_2d(stage + kA, p.map_weight, step * kDepth, tile % across * 256, full);
      }
    }
    return;
  }
  const u32 group = warp() / 4;
  for (u32 tile = block(); tile < tiles; tile += grid()) {
    float d[128];
    for (u32 step = 0; step < steps; ++step, ++at) {
      const u32 i = at % kStages;
      const saddr a = kFirst + i * kStageBytes + group * kA / 2, b = kFirst + i * kStageBytes + kA;
      mbar_wait(kFull + 8 * i, at / kStages % 2, Site::StageFull);
      wgmma_fence();
      for (u32 k = 0; k < kDepth / 16; ++k) wgmma<bf16, 256>(d, descriptor(a + k * 32), descriptor(b + k * 32), step || k);
      wgmma_commit();
      wgmma_wait<1>(d, Site::WgmmaWait);
      if (step && lane() == 0) mbar_arrive(kEmpty + 8 * ((at - 1) % kStages), Site::StageEmpty);
    }
    wgmma_wait<0>(d, Site::WgmmaWait);
    if (lane() == 0) mbar_arrive(kEmpty + 8 * ((at - 1) % kStages), Site::StageEmpty);
    for (u32 i = 0; i < 128; i += 2) {
      const u64 row = tile / across * 128 + warp() * 16 + i / 2 % 2 * 8 + lane() / 4;
      const u64 col = tile % across * 256 + i / 4 * 8 + lane() % 4 * 2;
      st_global_b64(p.out + (row * p.out_ld + col) * 4, f32_bits(d[i]) | u64(f32_bits(d[i + 1])) << 32);
    }
  }
}

// One m64n64k16 on descriptors `p.x` (A) and `p.weight` (B), 0: the right ones, with a fault. 0: none; 1: a thread adds where the
// others do not; 2: no fence; 3: no wait; 4: no commit; 5: A is overwritten before the wait; 6: B is not written; 7: no
// barrier before the issue, but one behind it; 8: a warp leaves; 9: waits that differ; 10: a warp shuffles while the others wait;
// 11: a commit behind the last wait; 12: no proxy fence.
TW_HOPPER_KERNEL(selftest_wgmma_case, 256) {
  const u64 a = p.x ? p.x : descriptor(0), b = p.weight ? p.weight : descriptor(8192);
  const u32 i = thread();
  for (u32 at = i * 16; at < (p.k == 6 ? 8192u : 16384u); at += threads() * 16) st_shared_v4(at, {{at, at, at, at}});
  if (p.k != 12) fence_async_shared(Site::ChunkFence);
  if (p.k != 7) cta_sync(Site::StageBarrier);
  float d[32] = {};
  if (p.k == 8 && warp() == 2) return;
  if (p.k != 2) wgmma_fence();
  wgmma<f16, 64>(d, a, b, p.k == 1 && i == 77);
  if (p.k == 7) cta_sync(Site::StageBarrier);
  if (p.k != 4) wgmma_commit();
  if (p.k == 5) st_shared_b32(i * 16, 7);
  if (p.k == 10 && warp() == 1) shfl(0, 0);
  if (p.k == 9 && warp() == 1) {
    wgmma_wait<1>(d, Site::WgmmaWait);
  } else if (p.k != 3) {
    wgmma_wait<0>(d, Site::WgmmaWait);
  }
  if (p.k == 11) wgmma_commit();
  u32 sum = 0;
  for (float x : d) sum += f32_bits(x);
  st_global_b32(p.out + i * 4, sum);
}

// out[64, 64] = x weight^T of one step of 64 in K, whose tiles TMA loads. `p.k` 0: right; 1: the loader does not wait
// for the product before it loads A once more; 2: nobody waits for the load of B.
TW_HOPPER_KERNEL(selftest_wgmma_tma, 160) {
  constexpr saddr kA = 1024, kB = kA + kRows * kRowBytes, kFull = 0, kEmpty = 8, kAgain = 16;
  if (thread() == 0) {
    mbar_init(kFull, 1);
    mbar_init(kEmpty, 128);
    mbar_init(kAgain, 1);
    mbar_init_fence();
  }
  cta_sync(Site::SetupBarrier);
  if (thread() == 128) {
    mbar_arrive_expect_tx(kFull, 2 * kRows * kRowBytes, Site::StageFull);
    tma_load_2d(kA, p.map_x, 0, 0, kFull);
    tma_load_2d(kB, p.map_weight, 0, 0, kFull);
    mbar_wait(kFull, 0, Site::StageFull);
    if (p.k != 1) mbar_wait(kEmpty, 0, Site::StageEmpty);
    mbar_arrive_expect_tx(kAgain, kRows * kRowBytes, Site::StageFull);
    tma_load_2d(kA, p.map_x, 0, 0, kAgain);
    mbar_wait(kAgain, 0, Site::StageFull);
  }
  if (thread() >= 128) return;
  float d[32];
  if (p.k != 2) mbar_wait(kFull, 0, Site::StageFull);
  wgmma_fence();
  for (u32 k = 0; k < kDepth / 16; ++k) wgmma<bf16, 64>(d, descriptor(kA + k * 32), descriptor(kB + k * 32), k);
  wgmma_commit();
  wgmma_wait<0>(d, Site::WgmmaWait);
  mbar_arrive(kEmpty, Site::StageEmpty);
  put<64>(p, d);
}

// stmatrix_x4 of values that name their place, at rows `p.k` bytes apart, and the way back with ldmatrix. 1 KB each warp.
TW_HOPPER_KERNEL(selftest_stmatrix, 64) {
  const saddr base = warp() * 2048;
  u32 r[4], back[4];
  for (u32 i = 0; i < 4; ++i) r[i] = thread() * 4 + i;
  stmatrix_x4(base + lane() * p.k, r);
  if (p.n == 0) warp_sync();
  const vec4 row = ld_shared_v4(base + (lane() ^ 1) * 16);
  cta_sync(Site::StageBarrier);
  ldmatrix_x4(back, base + lane() * 16);
  mma_wait(back, Site::MmaWait);
  st_global_v4(p.out + thread() * 32, row);
  st_global_v4(p.out + thread() * 32 + 16, {{back[0], back[1], back[2], back[3]}});
}

// Register budgets, 512 threads: warpgroup 0 gives back, 1 and 2 take, 3 stays. `p.k` 0: in order; 1: nobody gives back;
// 2: less is given back than asked; 3: asks for fewer than it has; 4: gives back more than it has; 5: a warp does not come.
TW_HOPPER_KERNEL(selftest_registers, 512) {
  const u32 group = warp() / 4;
  if (group == 0 && p.k == 0) reg_dealloc<24>();
  if (group == 0 && p.k == 2) reg_dealloc<40>();
  if (group == 0 && p.k == 3) reg_alloc<120>();
  if (group == 0 && p.k == 4) reg_dealloc<136>();
  if (group == 1 && (p.k < 3 || (p.k == 5 && warp() != 6))) reg_alloc<160>();
  if (group == 2 && p.k < 3) reg_alloc<200>();
  if (group == 3 && p.k == 0) reg_dealloc<128>();
  cta_sync(Site::TileBarrier);
  st_global_b32(p.out + thread() * 4, 1);
}
