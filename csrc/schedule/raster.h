// The order of the blocks of a matrix: bands of `kBand` rows of blocks, in a band column after column, in a column
// downwards. What runs at once (about a hundred CTAs) is then about as high as wide in elements, so it shares operands in
// L2; and neighbours in the order are neighbours in a column: two CTAs of a cluster read the same weights.
#pragma once
#include "schedule/chunk.h"

namespace tw {
constexpr uint32_t kBand = 16;  // even: a pair never straddles two bands

// Place of a block, in blocks.
struct Cell {
  uint32_t row, col;
};

struct Raster {
  uint32_t rows, cols;  // in blocks; `rows` even where pairs matter
  constexpr Cell at(uint32_t t) const {
    const uint32_t band = t / (kBand * cols), in = t % (kBand * cols);
    const uint32_t height = min_u32(kBand, rows - band * kBand);
    return {band * kBand + in % height, in / height};
  }
};

// Blocks that a cluster's CTAs take together are neighbours in a raster, at positions n * cluster ..: where the first does
// not exist, none does.
constexpr uint32_t leader_of(uint32_t t, uint32_t cluster) { return t / cluster * cluster; }
}  // namespace tw
