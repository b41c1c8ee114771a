// The order of an all-reduce (GEMM+AR, AR).
//
// All ranks walk one order, the raster: in wave w, CTA c of every rank works on block w * grid + c. So CTA c of the owner reduces what
// CTA c of the other ranks pushed at the same position, and no CTA of a rank depends on another of that rank. The owner of
// a block is (c + w) mod P: any P neighbouring CTAs have P owners, and so have P successive waves of one CTA.
// A round covers `panel` waves. In a staging half, a block's partials lie in slot (wave in the round) * wave_slots + c / P
// of its owner (distinct, since the CTAs of one owner in one wave differ by multiples of P); its result in slot (wave in
// the round) * grid + c of every rank.
#pragma once
#include "schedule/raster.h"

namespace tw {

struct WaveTile {
  uint32_t index, owner, slot, result_slot;
  Block block;
};

struct WaveOrder {
  uint32_t rows, cols, panel, world, grid, tile_m, tile_n, tiles_n, tiles, wave_slots;

  constexpr Block block(uint32_t t) const {
    if (t >= tiles) return {0, 0, 0, 0};
    const Cell cell = Raster{tiles / tiles_n, tiles_n}.at(t);
    const uint32_t row = cell.row * tile_m, col = cell.col * tile_n;
    if (row >= rows) return {row, col, 0, 0};  // there to make a pair
    return {row, col, min_u32(tile_m, rows - row), min_u32(tile_n, cols - col)};
  }

  constexpr WaveTile at(uint32_t wave, uint32_t cta) const {
    const uint32_t in_round = wave % panel, t = wave * grid + cta;
    return {t, (cta + wave) % world, in_round * wave_slots + cta / world, in_round * grid + cta, block(t)};
  }
};

}  // namespace tw
