// Hopper's mainloop: a ring of stages in shared memory between one thread that loads by TMA and two warpgroups that
// multiply by wgmma, a pair of mbarriers a stage.
//
//     loader                                      math
//       wait empty[s] (both CTAs of a cluster)      wait full[s]
//       arrive full[s], expecting the bytes         wgmma on s, 16 of K at a time; commit
//       TMA: x's rows, the weight's rows            wait until only that group is in flight
//                                                   arrive empty[s - 1], here and at the other CTA
//
// A stage holds 64 of K. In a cluster of two, both CTAs have the same columns: each loads half of the weight's rows and
// multicasts it to both, so its ring waits for the math of both. K runs upwards: an output's bits depend on K alone.
#pragma once
#include "schedule/chunk.h"
#include "tile/sm90_tile.h"

namespace tw {

template <class Tile>
class Sm90Ring {
  uint32_t stage = 0, phase = 0;  // of the loader or of a math thread: each walks the ring by itself
  saddr base = mx::shared();      // asked for once: reading it costs a special register

  static TW_DEV saddr barrier(uint32_t i, saddr from) { return from + Tile::kBarriersAt + 8 * i; }
  static TW_DEV saddr barrier(uint32_t i) { return barrier(i, mx::shared()); }
  TW_DEV saddr full(uint32_t s) const { return barrier(s, base); }
  TW_DEV saddr empty(uint32_t s) const { return barrier(Tile::kStages + s, base); }
  TW_DEV saddr flag(uint32_t s) const { return base + Tile::kFlagsAt + 4 * s; }
  TW_DEV saddr x_of(uint32_t s) const { return base + s * Tile::kStageBytes; }
  TW_DEV saddr weight_of(uint32_t s) const { return x_of(s) + Tile::kXBytes; }
  TW_DEV void next() {
    if (++stage == Tile::kStages) {
      stage = 0;
      phase ^= 1;
    }
  }

 public:
  // The barriers behind the ring's: of output chunks, and of a round of gathered rows.
  static TW_DEV saddr chunk_full(uint32_t i) { return barrier(2 * Tile::kStages + i); }
  static TW_DEV saddr chunk_empty(uint32_t i) { return barrier(2 * Tile::kStages + kSm90MathGroups * kSm90Chunks + i); }
  static TW_DEV saddr round_read() { return barrier(Tile::kBarriers - 1); }

  // All threads of the CTA, once.
  static TW_DEV void setup() {
    Cta::one([&] {
      for (uint32_t s = 0; s < Tile::kStages; ++s) {
        mx::mbar_init(barrier(s), 1);
        mx::mbar_init(barrier(Tile::kStages + s), kSm90MathWarps * mx::cluster_size());
      }
      for (uint32_t i = 0; i < kSm90MathGroups * kSm90Chunks; ++i) {
        mx::mbar_init(chunk_full(i), 128);
        mx::mbar_init(chunk_empty(i), 1);
      }
      mx::mbar_init(round_read(), kSm90MathWarps + 1);
      mx::mbar_init_fence();
    });
    mx::cta_sync(Site::SetupBarrier);
    if (mx::cluster_size() > 1) mx::cluster_sync(Site::ClusterStart);
  }

  // All threads of the CTA, when their roles are done: nobody leaves while another CTA may still write to it.
  static TW_DEV void leave() {
    if (mx::cluster_size() > 1) mx::cluster_sync(Site::ClusterEnd);
  }

  // One thread: the stages of a block whose columns begin at `col`, over a range of K that begins at a multiple of 64. `load_x(to, k, bar)` loads a stage of x; `live` false:
  // there is none, and math will not multiply. The weight comes all the same: the other CTA of a cluster counts on its half.
  template <class LoadX>
  TW_DEV void load(const TwParams& p, const Span& depth, uint32_t col, bool live, LoadX load_x) {
    constexpr uint32_t kHalf = Tile::kN / 2;
    for (uint32_t k = depth.begin; k < depth.end; k += Tile::kStep) {
      mx::mbar_wait(empty(stage), phase ^ 1, Site::StageEmpty);
      mx::st_shared_b32(flag(stage), live);
      mx::mbar_arrive_expect_tx(full(stage), (live ? Tile::kXBytes : 0) + Tile::kWeightBytes, Site::StageFull);
      if (live) load_x(x_of(stage), k, full(stage));
      if (mx::cluster_size() > 1) {
        const uint32_t half = mx::cluster_rank();
        mx::tma_load_2d_multicast(weight_of(stage) + half * kHalf * kSm90RowBytes, p.map_weight, k, col + half * kHalf,
                                  full(stage), 3);
      } else {
        mx::tma_load_2d(weight_of(stage), p.map_weight, k, col, full(stage));
        mx::tma_load_2d(weight_of(stage) + kHalf * kSm90RowBytes, p.map_weight, k, col + kHalf, full(stage));
      }
      next();
    }
  }

  // A math warpgroup: its part of the block's product over `depth` of K. False, and no values: the loader had nothing to
  // multiply. `begun` is called when the first stage of something is there.
  template <class Begun>
  TW_DEV bool multiply(uint32_t depth, typename Tile::Values& acc, Begun begun) {
    const uint32_t steps = ceil_div(depth, Tile::kStep);
    bool live = false;
    for (uint32_t step = 0; step < steps; ++step) {
      mx::mbar_wait(full(stage), phase, Site::StageFull);
      if (step == 0) {
        live = mx::ld_shared_b32(flag(stage));
        if (live) begun();
      }
      if (live) {
        const uint64_t a = wgmma_descriptor(x_of(stage) + Tile::row64() * 64 * kSm90RowBytes);
        const uint64_t b = wgmma_descriptor(weight_of(stage) + Tile::col0() * kSm90RowBytes);
        mx::wgmma_fence();
        TW_UNROLL
        for (uint32_t k = 0; k < Tile::kStep / 16; ++k) {
          mx::wgmma<typename Tile::Type, Tile::kWgN>(acc.d, a + 2 * k, b + 2 * k, step + k != 0);
        }
        mx::wgmma_commit();
      }
      if (step != 0) {
        mx::wgmma_wait<1>(acc.d, Site::WgmmaWait);
        release(stage == 0 ? Tile::kStages - 1 : stage - 1);
      }
      next();
    }
    mx::wgmma_wait<0>(acc.d, Site::WgmmaWait);
    release(stage == 0 ? Tile::kStages - 1 : stage - 1);
    return live;
  }

 private:
  TW_DEV void release(uint32_t s) const {
    mx::elect([&] {
      for (uint32_t cta = 0; cta < mx::cluster_size(); ++cta) mx::mbar_arrive_at(empty(s), cta, Site::StageEmpty);
    });
  }
};
}  // namespace tw
