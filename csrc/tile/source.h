// Where a block's partial comes from: a GEMM, or memory. The collectives are written once, over a Source:
//   kM kN kThreads kOctets Type        its tile
//   Values                             what a thread holds of a block between `compute` and `partial`
//   compute(p, block, values)          the work; all threads of the CTA
//   row(block, v), columns(p, block, v)  where octet v stands in the output, in rows and columns of the whole matrix
//   partial(p, block, values, v)       octet v in f32, the rank's addend added; not yet rounded to the wire
#pragma once
#include "abi.h"
#include "tile/ffma_tile.h"
#include "tile/memory_tile.h"
#include "tile/mma_tile.h"

namespace tw {

template <class Tile>
struct TileShape {
  using Type = typename Tile::Type;
  static constexpr uint32_t kM = Tile::kM, kN = Tile::kN, kThreads = Tile::kThreads, kOctets = Tile::kOctets;
  static TW_DEV uint32_t row(const Block& b, uint32_t v) { return b.row + Tile::row_of(v); }
  // A thread's place in octet v of a slot of staging: vectors of neighbouring threads are neighbours.
  static TW_DEV uint64_t place(uint32_t v) { return uint64_t(v) * kThreads + mx::thread(); }
};

template <class Tile>
TW_DEV Columns columns_in(const Block& b, uint32_t v, uint32_t end) {
  Columns c = Tile::columns_of(v, end);
  c.col += b.col;
  return c;
}

template <class Tile>
struct GemmSource : TileShape<Tile> {
  using typename TileShape<Tile>::Type;
  using Values = typename Tile::Values;
  static TW_DEV Columns columns(const TwParams&, const Block& b, uint32_t v) {
    return columns_in<Tile>(b, v, b.col + b.cols);
  }
  static TW_DEV void compute(const TwParams& p, const Block& b, Values& values) {
    multiply(p, {{p.x, p.x_ld}, b.row + b.rows, p.k}, b.row, b, values);
  }
  // Rows of x may come from elsewhere (a gathered panel): `x_row` is the block's first row there.
  static TW_DEV void multiply(const TwParams& p, const Operand<Type>& x, uint32_t x_row, const Block& b, Values& values) {
    Tile::multiply(x, x_row, {{p.weight, p.weight_ld}, b.col + b.cols, p.k}, b.col, values);
  }
  static TW_DEV Octet partial(const TwParams& p, const Block& b, const Values& values, uint32_t v) {
    Octet o = values.octet(v);
    if (p.addend) {
      add_to(o, load_octet<Type>({p.addend, p.addend_ld}, TileShape<Tile>::row(b, v), columns(p, b, v)));
    }
    return o;
  }
};

template <class T>
struct MemorySource : TileShape<MemoryTile<T>> {
  using Values = typename MemoryTile<T>::Values;
  static TW_DEV Columns columns(const TwParams& p, const Block& b, uint32_t v) {
    uint32_t end = b.col + b.cols;
    if (p.k) {
      const uint64_t before = uint64_t(TileShape<MemoryTile<T>>::row(b, v)) * MemoryTile<T>::kN;
      end = before < p.k ? min_u32(end, p.k - uint32_t(before)) : 0;
    }
    return columns_in<MemoryTile<T>>(b, v, end);
  }
  static TW_DEV void compute(const TwParams&, const Block&, Values&) {}
  static TW_DEV Octet partial(const TwParams& p, const Block& b, const Values&, uint32_t v) {
    const uint32_t row = TileShape<MemoryTile<T>>::row(b, v);
    if (p.desc.wire == TW_F32) return load_octet<float>({p.x, p.x_ld}, row, columns(p, b, v));
    return load_octet<T>({p.x, p.x_ld}, row, columns(p, b, v));
  }
};

// The end of an output value: bias once, after the sum, then one rounding to the output type.
template <class T>
TW_DEV void add_bias(const TwParams& p, const Columns& c, Octet& o) {
  if (p.bias) add_to(o, load_octet<T>({p.bias, 0}, 0, c));
}
}  // namespace tw
