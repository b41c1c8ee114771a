// How octets of a 16-bit GEMM's block lie in a slot of staging, whichever mainloop and however many warps made them: what
// one rank pushes from one tile another reduces in another.
//
// An octet is row (lane / 4) of an 8-row half `h` of a 16-row block, and of a group of 32 columns the pairs that lane % 4
// holds of four 8-column blocks: the layout of mma's and wgmma's accumulators. Slots are made of chunks: 64 rows by two groups
// (one, if octets are f32), 8 KiB; in a chunk the 128 octets of 64 rows' lanes lie next to each other.
#pragma once
#include "tile/matrix.h"

namespace tw {
constexpr uint32_t kGroupColumns = 32, kFragmentRows = 16, kChunkRows = 64;

// kGroups: groups of a block's row. `r`: the 16-row block.
template <uint32_t kGroups>
constexpr uint32_t fragment_place(uint32_t r, uint32_t h, uint32_t g, uint32_t lane) {
  static_assert(kGroups % 2 == 0, "fragment_place");
  return (((r / 4 * kGroups + g) * 2 + h) * 4 + r % 4) * 32 + lane;
}

// Whether the four octets of a row of a group, those of neighbouring lanes, can be moved as 16-byte vectors. Alike in
// all lanes of a warp.
template <class T>
TW_DEV bool row_in_vectors(const Matrix<T>& m, const Columns& c) {
  return m.base % 16 == 0 && m.ld % 8 == 0 && c.col - mx::lane() % 4 * 2 + kGroupColumns <= c.end;
}

// Of four lanes' octets of a row, packed: eight neighbouring columns of it, the lane's in their order. A transposition of
// 4 x 4 pairs; the whole warp takes part.
TW_DEV vec4 neighbours(vec4 v) {
  TW_UNROLL
  for (uint32_t step = 1; step < 4; step *= 2) {
    const bool upper = mx::lane() & step;
    TW_UNROLL
    for (uint32_t n = 0; n < 2; ++n) {
      const uint32_t j = step == 1 ? 2 * n : n;  // and j + step change places between the lanes
      const uint32_t low = v.v[j], high = v.v[j + step], other = mx::shfl_xor(upper ? low : high, step);
      v.v[j] = upper ? other : low;
      v.v[j + step] = upper ? high : other;
    }
  }
  return v;
}

// The octet of a 16-bit matrix's `row`, if that is there, else zeros; the whole warp takes part, with octets of one group.
template <class T>
TW_DEV Octet load_row(const Matrix<T>& m, bool there, uint32_t row, const Columns& c) {
  Octet o = {};
  if (!row_in_vectors(m, c)) {
    if (there && c.any()) o = load_octet<T>(m, row, c);
    return o;
  }
  const vec4 v = there ? mx::ld_global_v4(m.at(row, c.col + mx::lane() % 4 * 6)) : vec4{{0, 0, 0, 0}};
  Element<T>::unpack(neighbours(v), o);  // which undoes itself
  return o;
}

// Writes an octet of a 16-bit matrix's `row`, if that is there; the whole warp takes part, with octets of one group.
template <class T>
TW_DEV void store_row(const Matrix<T>& m, bool there, uint32_t row, const Columns& c, const Octet& o) {
  if (!row_in_vectors(m, c)) {
    if (there && c.any()) store_octet<T>(m, row, c, o);
    return;
  }
  const vec4 v = neighbours(Element<T>::pack(o));
  if (there) mx::st_global_v4(m.at(row, c.col + mx::lane() % 4 * 6), v);
}
}  // namespace tw
