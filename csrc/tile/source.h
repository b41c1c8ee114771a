// Where a block's partial comes from: a GEMM, or memory. The collectives are written once, over a Source:
//   kThreads kElements kOctets Type    its tile: kElements = kThreads * kOctets * 8
//   kTailAt                            of its shared memory, where a tail may work (kernels/tail.h)
//   Team                               who holds it: so many threads
//   place(v)                           of the thread's octet v in a slot of staging, in octets
//   tile_m(p) tile_n(p)                the tile's rows and columns
//   Values                             what a thread holds of a block between `compute` and `partial`
//   compute(p, block, values)          the work; all threads of the CTA
//   row(p, block, v), columns(p, block, v)  where octet v stands, in rows and columns of the whole matrix
//   ordinal(col)                       of the octet that begins at a column, along its row: below ceil(n / 64) * 8
//   kMultiplies                        whether `compute` is a product, and not nothing
//   kSplits; compute_split(p, block, s, values)  whether K may be split over CTAs; range s of it (kernels/split_k.h)
//   partial(p, block, values, v)       octet v in f32, the rank's addend added; not yet rounded to the wire
#pragma once
#include "abi.h"
#include "tile/ffma_tile.h"
#include "tile/memory_tile.h"
#include "tile/mma_tile.h"
#include "tile/split_product.h"

namespace tw {

template <class Tile>
struct TileShape {
  using Type = typename Tile::Type;
  using Team = typename Tile::Team;
  static constexpr uint32_t kThreads = Tile::kThreads, kOctets = Tile::kOctets, kElements = Tile::kM * Tile::kN;
  static constexpr uint32_t kTailAt = Tile::kTailAt;
  static_assert(kElements <= kThreads * kOctets * 8, "a tile is its threads' octets; rows of some may lie beyond it");
  // Few threads, with registers to spare, add partials: each has the next rank's under way meanwhile.
  static constexpr bool kAhead = kThreads < 128 || kOctets <= 2;
  // Whether four lanes hold a row of a group, and whole warps store together (tile/fragment.h).
  static constexpr bool kRows = false;
  static TW_DEV uint64_t place(uint32_t v) { return Tile::place(v); }
};

// kTurns: whether x may be a matrix by k, too, which only a GEMM of its own is given.
template <class Tile, bool kTurns = false>
struct GemmSource : TileShape<Tile> {
  using typename TileShape<Tile>::Type;
  using Values = typename Tile::Values;
  static constexpr bool kMultiplies = true, kSplits = kMaySplit<Tile>;
  static TW_DEV uint32_t tile_m(const TwParams&) { return Tile::kM; }
  static TW_DEV uint32_t tile_n(const TwParams&) { return Tile::kN; }
  static TW_DEV uint32_t row(const TwParams&, const Block& b, uint32_t v) { return b.row + Tile::row_of(v); }
  static TW_DEV Columns columns(const TwParams&, const Block& b, uint32_t v) {
    Columns c = Tile::columns_of(v, b.col + b.cols);
    c.col += b.col;
    return c;
  }
  static TW_DEV uint32_t ordinal(uint32_t col) { return Tile::ordinal(col); }
  static TW_DEV void compute(const TwParams& p, const Block& b, Values& values) {
    multiply(p, own_x(p, b), b.row, b, values);
  }
  // Rows of x may come from elsewhere (a gathered panel): `x_row` is the block's first row there.
  static TW_DEV void multiply(const TwParams& p, const Operand<Type>& x, uint32_t x_row, const Block& b, Values& values) {
    multiply_splits<Tile>(x, x_row, weight(p, b), b.col, p.splits, values);
  }
  // Range `s` of K alone: what one item of split-K computes.
  static TW_DEV void compute_split(const TwParams& p, const Block& b, uint32_t s, Values& values) {
    multiply_split<Tile>(own_x(p, b), b.row, weight(p, b), b.col, p.splits, s, values);
  }
  // `values`: those of `compute`, or anything else with octets of products.
  template <class Products>
  static TW_DEV Octet partial(const TwParams& p, const Block& b, const Products& values, uint32_t v) {
    Octet o = values.octet(v);
    if (p.addend) {
      add_to(o, load_octet<Type>({p.addend, p.addend_ld}, row(p, b, v), columns(p, b, v)));
    }
    return o;
  }

 private:
  static TW_DEV Operand<Type> own_x(const TwParams& p, const Block& b) {
    return {{p.x, p.x_ld}, b.row + b.rows, p.k, kTurns && p.layout == TW_TN};
  }
  static TW_DEV Operand<Type> weight(const TwParams& p, const Block& b) {
    return {{p.weight, p.weight_ld}, b.col + b.cols, p.k, p.layout != TW_NT};
  }
};

// kFlat: a matrix of one row is a flat vector.
template <class T, bool kFlat>
struct MemorySource : TileShape<MemoryTile<T>> {
  using Tile = MemoryTile<T>;
  struct Values {};
  static constexpr bool kMultiplies = false, kSplits = false;
  static TW_DEV bool flat(const TwParams& p) { return kFlat && p.m == 1; }
  static TW_DEV uint32_t tile_m(const TwParams& p) { return flat(p) ? 1 : Tile::kM; }
  static TW_DEV uint32_t tile_n(const TwParams& p) { return flat(p) ? Tile::kM * Tile::kN : Tile::kN; }
  static TW_DEV uint32_t row(const TwParams& p, const Block& b, uint32_t v) { return b.row + Tile::row_of(flat(p), v); }
  static TW_DEV Columns columns(const TwParams& p, const Block& b, uint32_t v) {
    return {b.col + Tile::col_of(flat(p), v), 2, b.col + b.cols};
  }
  static TW_DEV uint32_t ordinal(uint32_t col) { return col / 8; }
  static TW_DEV void compute(const TwParams&, const Block&, Values&) {}
  static TW_DEV Octet partial(const TwParams& p, const Block& b, const Values&, uint32_t v) {
    if (p.desc.wire == TW_F32) return load_octet<float>({p.x, p.x_ld}, row(p, b, v), columns(p, b, v));
    return load_octet<T>({p.x, p.x_ld}, row(p, b, v), columns(p, b, v));
  }
};

// Once, after the sum. Then one rounding to the output type, unless more is added (`end_sum`, kernels/partials.h).
template <class T>
TW_DEV void add_bias(const TwParams& p, const Columns& c, Octet& o) {
  if (p.bias) add_to(o, load_octet<T>({p.bias, 0}, 0, c));
}
}  // namespace tw
