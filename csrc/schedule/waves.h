// The order of an all-reduce (GEMM+AR, AR).
//
// All ranks walk one order, the raster: in wave w, CTA c of every rank works on block w * grid + c. So CTA c of the owner reduces what
// CTA c of the other ranks pushed at the same position, and no CTA of a rank depends on another of that rank. The owner of
// a block is (c + w) mod P: any P neighbouring CTAs have P owners, and so have P successive waves of one CTA.
// A round covers `panel` waves. In a staging half, a block's partials lie in slot (wave in the round) * wave_slots + c / P
// of its owner (distinct, since the CTAs of one owner in one wave differ by multiples of P); its result in slot (wave in
// the round) * grid + c of every rank.
//
// CTAs that compute nothing and only reduce (`Reducer`) take, in turn, groups of P neighbouring CTAs: one block that the
// rank owns, and one of each other rank.
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

  // The block of `owner` in a group of neighbours; none at the ragged end of a wave.
  constexpr WaveTile of_owner(uint32_t wave, uint32_t group, uint32_t owner) const {
    const uint32_t cta = group * world + (owner + world - wave % world) % world;
    return cta < grid ? at(wave, cta) : WaveTile{0, owner, 0, 0, {0, 0, 0, 0}};
  }
};

// One of `count` CTAs that share a round's groups: the n-th goes to number n mod count.
struct Reducer {
  uint32_t number, count;
  // Its first group of a wave, not below `wave_slots` if it has none; its others follow `count` apart.
  constexpr uint32_t first(const WaveOrder& order, uint32_t wave) const {
    return (number + count - wave % order.panel * order.wave_slots % count) % count;
  }
};

}  // namespace tw
