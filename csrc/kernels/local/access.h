// How kernels of a rank alone reach their operands. Every kernel has two bodies a type: where all rows that are walked over are
// whole octets at addresses that 16-byte accesses can have (the host looks: `TwLocal::vectors`), and for any others, whose
// accesses are as wide as each address allows. Results are the same.
#pragma once
#include "kernels/by_type.h"
#include "tile/matrix.h"

namespace tw {
// Whether the octet's value `j` is of a column that exists.
TW_DEV bool exists(const Columns& c, int j) { return c.col + j < c.end; }

template <class T, bool kInVectors>
struct Access {
  using Type = T;
  static constexpr bool kVectors = kInVectors;

  static TW_DEV Matrix<T> mat(const TwLocal& l, uint32_t which) { return {l.mat[which].at, l.mat[which].ld}; }
  // One row for all.
  static TW_DEV Matrix<T> row(const TwLocal& l, uint32_t which) { return {l.mat[which].at, 0}; }

  // Eight neighbouring columns; those that do not exist are 0, and are not stored.
  static TW_DEV Octet load(const Matrix<T>& m, uint32_t row, const Columns& c) {
    if constexpr (kVectors) return c.any() ? WireFormat<T>(TW_BF16).load(m.at(row, c.col)) : Octet{};
    Octet o = {};
    float none;
    TW_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (exists(c, j)) Pair<T>::load(m.at(row, c.col + j), false, o.f[j], none);
    }
    return o;
  }
  static TW_DEV void store(const Matrix<T>& m, uint32_t row, const Columns& c, const Octet& o) {
    if constexpr (kVectors) {
      if (c.any()) WireFormat<T>(TW_BF16).store(m.at(row, c.col), o);
    } else {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        if (exists(c, j)) Pair<T>::store(m.at(row, c.col + j), false, o.f[j], 0.f);
      }
    }
  }
};

// body(Access{}) for the launch's type and addresses.
template <class Body>
TW_DEV void by_access(const TwParams& p, const Body& body) {
  by_type(p, [&](auto type) {
    using T = decltype(type);
    if (p.local.vectors) return body(Access<T, true>{});
    body(Access<T, false>{});
  });
}

// One f32 of a matrix of f32.
TW_DEV gaddr f32_at(const TwMat& m, uint64_t row, uint32_t col) { return m.at + (row * m.ld + col) * 4; }
TW_DEV float load_f32(const TwMat& m, uint64_t row, uint32_t col = 0) {
  return mx::bits_f32(mx::ld_global_b32(f32_at(m, row, col)));
}
TW_DEV void store_f32(const TwMat& m, uint64_t row, uint32_t col, float x) {
  mx::st_global_b32(f32_at(m, row, col), mx::f32_bits(x));
}
}  // namespace tw
