// The product of one block, in the ranges of K that its splits name. Where one CTA computes all ranges of a block, it
// adds them here, in registers, in their order; where several do, kernels/split_k.h adds the same numbers in the same
// order, from memory. So a block's bits do not depend on who computed it.
#pragma once
#include "schedule/split.h"
#include "tile/stage.h"

namespace tw {

// Only M <= 128 is split, which small tiles serve: large ones have no registers for a second set of accumulators.
template <class Tile>
constexpr bool kMaySplit = Tile::kM <= 64;

template <class T>
TW_DEV Operand<T> part_of(const Operand<T>& o, const Span& k) {
  return {{o.by_k ? o.m.at(k.begin, 0) : o.m.at(0, k.begin), o.m.ld}, o.end, k.size(), o.by_k};
}

// Range `s` of x[row0.., :] w[col0.., :]^T.
template <class Tile, class T>
TW_DEV void multiply_split(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, uint32_t splits, uint32_t s,
                           typename Tile::Values& values) {
  const Span k = split_of(x.k, splits, s);
  Tile::multiply(part_of(x, k), row0, part_of(w, k), col0, values);
}

// All ranges, added.
template <class Tile, class T>
TW_DEV void multiply_splits(const Operand<T>& x, uint32_t row0, const Operand<T>& w, uint32_t col0, uint32_t splits,
                            typename Tile::Values& sum) {
  if constexpr (!kMaySplit<Tile>) {
    Tile::multiply(x, row0, w, col0, sum);
  } else {
    multiply_split<Tile>(x, row0, w, col0, splits, 0, sum);
    TW_NO_UNROLL
    for (uint32_t s = 1; s < splits; ++s) {
      typename Tile::Values next;
      multiply_split<Tile>(x, row0, w, col0, splits, s, next);
      sum.add(next);
    }
  }
}
}  // namespace tw
