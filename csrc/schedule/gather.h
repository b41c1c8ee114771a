// The order of an all-gather (AG+GEMM, AG).
//
// A round covers, of every source's rows, one panel, cut into row blocks of the tile's height: a tile never straddles two
// sources, so it waits for one signal. A rank pushes its row blocks in order to all peers. It consumes its own rows first,
// which need no waiting, then those of rank+1, rank+2, ..: the P ranks read from P different sources at any time.
// Position f of a round is (source rank + f / per_source, row block, column block), column blocks innermost.
#pragma once
#include "schedule/chunk.h"

namespace tw {

struct GatherTile {
  uint32_t source, row_block;
  uint32_t local_row;  // of the block's first row within the source's panel
  Block block;         // rows counted in the gathered matrix
};

struct GatherOrder {
  uint32_t rows, cols, chunk, panel, world, rank, tile_m, tile_n, tiles_n, row_blocks;

  constexpr uint32_t per_source() const { return row_blocks * tiles_n; }
  constexpr uint32_t positions() const { return world * per_source(); }

  // Row block `b` of `source` in round `q`.
  constexpr GatherTile rows_of(uint32_t q, uint32_t source, uint32_t b) const {
    const Span part = panel_of(chunk_of(rows, chunk, source), panel, q);
    const uint32_t local = b * tile_m, row = part.begin + local;
    if (row >= part.end) return {source, b, local, {row, 0, 0, 0}};
    return {source, b, local, {row, 0, min_u32(tile_m, part.end - row), cols}};
  }

  constexpr GatherTile at(uint32_t q, uint32_t f) const {
    GatherTile t = rows_of(q, (rank + f / per_source()) % world, f % per_source() / tiles_n);
    t.block.col = f % tiles_n * tile_n;
    if (t.block.rows) t.block.cols = min_u32(tile_n, cols - t.block.col);
    return t;
  }
};

}  // namespace tw
