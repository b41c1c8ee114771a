// A rank's own GEMM on Hopper: the first half of an unfused operation.
#pragma once
#include "kernels/sm90_roles.h"
#include "schedule/waves.h"

namespace tw {

template <class Tile>
TW_DEV void sm90_gemm(const TwParams& p) {
  const WaveOrder order = {p.m, p.n, 1, 1, mx::grid(), Tile::kM, Tile::kN, p.tiles_n, p.tiles, 1};
  const auto each = [&](auto body) {
    for (uint32_t t = mx::block(); t < p.tiles; t += mx::grid()) body(t, order.block(t));
  };
  sm90_roles<Tile, Sm90Plain>(
      [&] {
        mx::elect([&] {
          Sm90Ring<Tile> ring;
          each([&](uint32_t, const Block& b) { ring.load(p, {0, p.k}, b.col, b.rows != 0, load_x_rows(p, b.row)); });
        });
      },
      [&] {
        mx::elect([&] {
          ChunkReader<Tile> chunks;
          Stamps<OneWarp> stamps(p);
          each([&](uint32_t t, const Block& b) { store_block<Tile>(p, p.m, t, b, chunks, stamps); });
          stamps.close();
        });
      },
      [&] {
        Sm90Ring<Tile> ring;
        ChunkWriter<Tile> chunks;
        Stamps<Sm90Math> stamps(p);
        each([&](uint32_t t, const Block& b) { multiply_output<Tile, true, true>(p, p.m, t, b, ring, chunks, stamps); });
        stamps.close();
      },
      [](auto join) { join(); });
}
}  // namespace tw
