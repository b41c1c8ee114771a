// The order of an all-gather (AG+GEMM, AG).
//
// A round covers, of every source's rows, one panel, cut into row blocks of the tile's height: a tile never straddles two
// sources. A rank pushes its row blocks to all peers in `pieces` of `piece` rows, a signal each, so that all its CTAs push
// what is needed first. It consumes its own rows first, which need no waiting, then those of rank+1, rank+2, ..: the P ranks
// read from P different sources at any time. Position f of a round is source rank + f / per_source, and of its row blocks
// (in whole pairs, where CTAs work in pairs) times the column blocks one in raster order.
#pragma once
#include "schedule/raster.h"

namespace tw {

struct GatherTile {
  uint32_t index;  // of all blocks of all rounds; of rows alone: of all row blocks, on every rank alike
  uint32_t source, row_block;
  uint32_t local_row;  // of the block's first row within the source's panel
  Block block;         // rows counted in the gathered matrix
};

struct GatherOrder {
  uint32_t rows, cols, chunk, panel, world, rank, tile_m, tile_n, tiles_n, row_blocks, piece, cluster;

  constexpr uint32_t raster_rows() const { return ceil_div(row_blocks, cluster) * cluster; }
  constexpr uint32_t per_source() const { return raster_rows() * tiles_n; }
  constexpr uint32_t pieces() const { return ceil_div(tile_m, piece); }
  // Pieces of a row block that has so many rows.
  constexpr uint32_t pieces_in(uint32_t rows) const { return ceil_div(rows, piece); }
  // Signals of a round: those of piece i of a source's row block b.
  constexpr uint32_t signal(uint32_t source, uint32_t b, uint32_t i) const { return (source * row_blocks + b) * pieces() + i; }
  constexpr uint32_t positions() const { return world * per_source(); }

  // Row block `b` of `source` in round `q`; of it, what piece `i` has.
  constexpr GatherTile rows_of(uint32_t q, uint32_t source, uint32_t b) const { return rows_from(q, source, b, 0, tile_m); }
  constexpr GatherTile piece_of(uint32_t q, uint32_t source, uint32_t b, uint32_t i) const {
    return rows_from(q, source, b, i * piece, min_u32(piece, tile_m - i * piece));
  }

  constexpr GatherTile at(uint32_t q, uint32_t f) const {
    const Cell cell = Raster{raster_rows(), tiles_n}.at(f % per_source());
    GatherTile t = rows_of(q, (rank + f / per_source()) % world, cell.row);
    t.index = (q * world + t.source) * per_source() + f % per_source();
    t.block.col = cell.col * tile_n;
    if (t.block.rows) t.block.cols = min_u32(tile_n, cols - t.block.col);
    return t;
  }

 private:
  constexpr GatherTile rows_from(uint32_t q, uint32_t source, uint32_t b, uint32_t offset, uint32_t most) const {
    const Span part = panel_of(chunk_of(rows, chunk, source), panel, q);
    const uint32_t index = (q * world + source) * row_blocks + b, local = b * tile_m + offset, row = part.begin + local;
    if (b >= row_blocks || row >= part.end) return {index, source, b, local, {row, 0, 0, 0}};
    return {index, source, b, local, {row, 0, min_u32(most, part.end - row), cols}};
  }
};

}  // namespace tw
