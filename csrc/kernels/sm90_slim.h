// Few rows on Hopper (decode): a GEMM, and a one-shot GEMM+AR, of 64 x 128 blocks, whose K may be split over CTAs. Bound by
// how fast weights stream: eight stages of 24 KiB keep 192 KiB in flight an SM, and of up to 128 rows the two blocks of
// a column share one stream in a cluster.
//
// The math warpgroups are the team of the portable kernels' own code (kernels/gemm.h, all_reduce_one_shot.h), with products
// that come from the ring; the loader walks the same items.
#pragma once
#include "kernels/all_reduce_one_shot.h"
#include "kernels/gemm.h"
#include "kernels/sm90_roles.h"

namespace tw {

template <class Tile>
struct RingProducts {
  using Values = typename Tile::Values;
  const TwParams& p;
  Sm90Ring<Tile> ring;
  template <class Begun>
  TW_DEV void whole(const Block&, Values& values, Begun begun) { ring.multiply(p.k, values, begun); }
  template <class Begun>
  TW_DEV void range(const Block&, uint32_t s, Values& values, Begun begun) {
    ring.multiply(split_of(p.k, p.splits, s).size(), values, begun);
  }
};

template <class Tile, class Math>
TW_DEV void sm90_slim(const TwParams& p, Math math) {
  sm90_roles<Tile, Sm90Plain>(
      [&] {
        mx::elect([&] {
          Sm90Ring<Tile> ring;
          const WaveOrder order = gemm_order<GemmSource<Tile>>(p);
          const Items items = {p.tiles, p.splits, p.cluster};
          for (uint32_t i = mx::block(); i < items.count(); i += mx::grid()) {
            const Block b = order.block(items.block(i));
            // A block without rows completes a pair: it is multiplied like any other, by rows that TMA reads as zero.
            ring.load(p, split_of(p.k, p.splits, items.range(i)), b.col, true, load_x_rows(p, b.row));
          }
        });
      },
      [] {}, math, [](auto join) { join(); });
}

// No lambdas: one so long becomes a function of its own, and wgmma wants none between its instructions.
template <class Tile>
struct SlimGemm {
  const TwParams& p;
  TW_DEV void operator()() const { gemm_by<GemmSource<Tile>>(p, RingProducts<Tile>{p, {}}); }
};
template <class Tile>
struct SlimOneShot {
  const TwParams& p;
  TW_DEV void operator()() const { one_shot_by<GemmSource<Tile>>(p, RingProducts<Tile>{p, {}}); }
};

template <class Tile>
TW_DEV void sm90_slim_gemm(const TwParams& p) {
  sm90_slim<Tile>(p, SlimGemm<Tile>{p});
}
template <class Tile>
TW_DEV void sm90_slim_one_shot(const TwParams& p) {
  sm90_slim<Tile>(p, SlimOneShot<Tile>{p});
}
}  // namespace tw
