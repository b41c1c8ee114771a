// Matrices in global memory: row-major, any leading dimension, any alignment that the element type has. Accesses are as
// wide as the address allows.
#pragma once
#include "tile/octet.h"

namespace tw {

template <class T>
struct Pair;  // two neighbouring elements
template <class T>
struct Pair16 {
  static TW_DEV void load(gaddr at, bool both, float& lo, float& hi) {
    if (both && at % 4 == 0) {
      const uint32_t u = mx::ld_global_b32(at);
      lo = mx::unpack_lo<T>(u);
      hi = mx::unpack_hi<T>(u);
    } else {
      lo = mx::unpack_lo<T>(mx::ld_global_b16(at));
      hi = both ? mx::unpack_lo<T>(mx::ld_global_b16(at + 2)) : 0.f;
    }
  }
  static TW_DEV void store(gaddr at, bool both, float lo, float hi) {
    const uint32_t u = mx::pack2<T>(lo, hi);
    if (both && at % 4 == 0) {
      mx::st_global_b32(at, u);
    } else {
      mx::st_global_b16(at, u & 0xffff);
      if (both) mx::st_global_b16(at + 2, u >> 16);
    }
  }
};
template <>
struct Pair<mx::bf16> : Pair16<mx::bf16> {};
template <>
struct Pair<mx::f16> : Pair16<mx::f16> {};
template <>
struct Pair<float> {
  static TW_DEV void load(gaddr at, bool both, float& lo, float& hi) {
    lo = mx::bits_f32(mx::ld_global_b32(at));
    hi = both ? mx::bits_f32(mx::ld_global_b32(at + 4)) : 0.f;
  }
  static TW_DEV void store(gaddr at, bool both, float lo, float hi) {
    if (both && at % 8 == 0) {
      mx::st_global_b64(at, uint64_t(mx::f32_bits(hi)) << 32 | mx::f32_bits(lo));
    } else {
      mx::st_global_b32(at, mx::f32_bits(lo));
      if (both) mx::st_global_b32(at + 4, mx::f32_bits(hi));
    }
  }
};

template <class T>
struct Matrix {
  gaddr base;
  uint64_t ld;
  TW_DEV gaddr at(uint32_t row, uint32_t col) const { return base + (uint64_t(row) * ld + col) * Element<T>::kSize; }
};

// The pairs of an octet: pair j begins at column `col + j * step`; columns at or beyond `end` do not exist. Columns grow with
// j, so those that exist come first.
struct Columns {
  uint32_t col, step, end;
  TW_DEV uint32_t of(int j) const { return col + j * step; }
  TW_DEV bool any() const { return col < end; }
  TW_DEV uint32_t count() const {
    uint32_t n = 0;
    TW_UNROLL
    for (int j = 0; j < 4; ++j) n += (of(j) < end) + (of(j) + 1 < end);
    return n;
  }
};

// An octet whose pairs are neighbours can be one access, if it is whole and its address allows.
template <class T>
TW_DEV bool in_one(gaddr at, const Columns& c) {
  return c.step == 2 && c.of(3) + 1 < c.end && at % 16 == 0;
}

template <class T>
TW_DEV Octet load_octet(const Matrix<T>& m, uint32_t row, const Columns& c) {
  if (in_one<T>(m.at(row, c.col), c)) return WireFormat<T>(TW_BF16).load(m.at(row, c.col));
  Octet o;
  TW_UNROLL
  for (int j = 0; j < 4; ++j) {
    o.f[2 * j] = o.f[2 * j + 1] = 0.f;
    if (c.of(j) < c.end) Pair<T>::load(m.at(row, c.of(j)), c.of(j) + 1 < c.end, o.f[2 * j], o.f[2 * j + 1]);
  }
  return o;
}

template <class T>
TW_DEV void store_octet(const Matrix<T>& m, uint32_t row, const Columns& c, const Octet& o) {
  if (in_one<T>(m.at(row, c.col), c)) {
    WireFormat<T>(TW_BF16).store(m.at(row, c.col), o);
    return;
  }
  TW_UNROLL
  for (int j = 0; j < 4; ++j) {
    if (c.of(j) < c.end) Pair<T>::store(m.at(row, c.of(j)), c.of(j) + 1 < c.end, o.f[2 * j], o.f[2 * j + 1]);
  }
}

// 16 raw bytes of a row from byte `offset` on, of which `valid` exist; the rest is zero. For operands that 16-byte
// accesses cannot address.
template <uint32_t kSize>
TW_DEV vec4 gather_16(gaddr at, uint32_t valid) {
  vec4 v = {{0, 0, 0, 0}};
  if (kSize == 2) {
    TW_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (2 * i < int(valid)) v.v[i / 2] |= mx::ld_global_b16(at + 2 * i) << (16 * (i % 2));
    }
  } else {
    TW_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (4 * i < int(valid)) v.v[i] = mx::ld_global_b32(at + 4 * i);
    }
  }
  return v;
}
template <uint32_t kSize>
TW_DEV void scatter_16(gaddr at, uint32_t valid, const vec4& v) {
  if (kSize == 2) {
    TW_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (2 * i < int(valid)) mx::st_global_b16(at + 2 * i, v.v[i / 2] >> (16 * (i % 2)) & 0xffff);
    }
  } else {
    TW_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (4 * i < int(valid)) mx::st_global_b32(at + 4 * i, v.v[i]);
    }
  }
}

// 16 bytes of a row, of which `valid` exist, at an address that may not allow one access.
template <uint32_t kSize>
TW_DEV vec4 load_16(gaddr at, uint32_t valid) {
  return valid == 16 && at % 16 == 0 ? mx::ld_global_v4(at) : gather_16<kSize>(at, valid);
}
template <uint32_t kSize>
TW_DEV void store_16(gaddr at, uint32_t valid, const vec4& v) {
  if (valid == 16 && at % 16 == 0) {
    mx::st_global_v4(at, v);
  } else {
    scatter_16<kSize>(at, valid, v);
  }
}
}  // namespace tw
