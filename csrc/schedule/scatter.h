// The order of a reduce-scatter (GEMM+RS, RS).
//
// A round covers, of every owner's rows, one panel. Its blocks are `slots` per owner, in raster order. Rank r walks the owners
// r+1, r+2, .., r: what the next rank owns comes first, its own last, so that at any time the P ranks push to P different
// owners and a rank's own blocks are reduced when the others' partials have had the longest time to arrive.
// Position f of a round is (owner r+1 + f / slots, slot f % slots); CTA c takes positions c, c + grid, ...
#pragma once
#include "schedule/raster.h"

namespace tw {

struct ScatterTile {
  uint32_t index, owner, slot;  // index: of all blocks of all rounds, on every rank alike
  Block block;
};

struct ScatterOrder {
  uint32_t rows, cols, chunk, panel, world, rank, tile_m, tile_n, tiles_n, slots;

  constexpr uint32_t positions() const { return world * slots; }

  constexpr ScatterTile at(uint32_t q, uint32_t f) const {
    const uint32_t owner = (rank + 1 + f / slots) % world, slot = f % slots;
    const uint32_t index = (q * world + owner) * slots + slot;
    const Span part = panel_of(chunk_of(rows, chunk, owner), panel, q);
    const Cell cell = Raster{slots / tiles_n, tiles_n}.at(slot);
    const uint32_t row = part.begin + cell.row * tile_m, col = cell.col * tile_n;
    if (row >= part.end) return {index, owner, slot, {row, col, 0, 0}};
    return {index, owner, slot, {row, col, min_u32(tile_m, part.end - row), min_u32(tile_n, cols - col)}};
  }
};

}  // namespace tw
