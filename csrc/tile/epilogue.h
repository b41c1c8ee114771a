// The epilogue of a product, in the kernel that computes it:
//
//     pre = round(product + addend + bias)     stored where `TwParams::saved` is given
//     out = round(gelu(pre))                   or, of columns 2j and 2j + 1: round(silu(pre[2j]) * pre[2j + 1])
//
// The activation is of the rounded pre, so that a pass backward, or a kernel of its own, sees the same bits.
//
// An octet's pairs are a gate and what it lets through each, so of SwiGLU an octet gives four values, which stand half a step
// apart in the output. Two octets are eight values of 16 bits, and by a transposition among the four lanes of a row as many
// neighbours, one 16-byte vector.
#pragma once
#include "tile/fragment.h"
#include "tile/functions.h"
#include "tile/source.h"

namespace tw {

// f(lo, hi) of each pair, one after the other. An activation's code is long and would stand 64 times where everything is
// unrolled. Registers have no index: the octet goes round instead.
template <class F>
TW_DEV void each_pair(Octet& o, F f) {
  TW_NO_UNROLL
  for (int j = 0; j < 4; ++j) {
    float lo = o.f[0], hi = o.f[1];
    f(lo, hi);
    TW_UNROLL
    for (int i = 0; i < 6; ++i) o.f[i] = o.f[i + 2];
    o.f[6] = lo;
    o.f[7] = hi;
  }
}

// Where octet v of a block stands, also where it is not there.
template <class Source>
struct OctetPlace {
  uint32_t v, row;
  Columns cols;
  bool in_rows;
  TW_DEV OctetPlace(const TwParams& p, const Block& b, uint32_t octet)
      : v(octet), row(Source::row(p, b, v)), cols(Source::columns(p, b, v)), in_rows(row < b.row + b.rows) {}
  TW_DEV bool there() const { return in_rows && cols.any(); }
};

// Stores an octet; whole warps take part.
template <class Source>
TW_DEV void store_at(const Matrix<typename Source::Type>& m, const OctetPlace<Source>& at, const Octet& o) {
  using T = typename Source::Type;
  if constexpr (Element<T>::kSize == 2) {
    store_row<T>(m, at.in_rows, at.row, at.cols, o);
  } else {
    if (at.there()) store_octet<T>(m, at.row, at.cols, o);
  }
}

// What SwiGLU makes of octets, on its way out: the first value of each pair. Whole warps take part.
template <class Source>
class Halves {
  using T = typename Source::Type;
  static constexpr uint32_t kSize = Element<T>::kSize, kEach = 16 / kSize;
  static_assert(kSize == 4 || kGroupColumns == 32, "values j and j + 1 of a lane are four columns apart");
  vec4 w = {};                  // of 16-bit values those of two octets
  uint32_t row0 = 0, col0 = 0;  // of the first of them

  // Neighbours from value `first` of a quad's octet on, which begins at column `col` for this lane.
  static TW_DEV void store(const TwParams& p, uint32_t row, bool in_rows, uint32_t col, uint32_t first, uint32_t end,
                           const vec4& v) {
    const Matrix<T> out = {p.out, p.out_ld};
    const uint32_t to = col / 2 - mx::lane() % 4 + first;
    if (in_rows && to < end / 2) store_16<kSize>(out.at(row, to), min_u32(kEach, end / 2 - to) * kSize, v);
  }

 public:
  // Octets come in order, from an even one on.
  TW_DEV void add(const TwParams& p, const Block& b, const OctetPlace<Source>& at, const Octet& o) {
    const uint32_t t = mx::lane() % 4;
    if constexpr (kSize == 4) {
      const vec4 v = neighbours({{mx::f32_bits(o.f[0]), mx::f32_bits(o.f[2]), mx::f32_bits(o.f[4]), mx::f32_bits(o.f[6])}});
      store(p, at.row, at.in_rows, at.cols.col, t * at.cols.step / 2, at.cols.end, v);
    } else {
      w.v[at.v % 2 * 2] = mx::pack2<T>(o.f[0], o.f[2]);
      w.v[at.v % 2 * 2 + 1] = mx::pack2<T>(o.f[4], o.f[6]);
      if (at.v % 2 == 0) {
        row0 = at.row;
        col0 = at.cols.col;
        return;
      }
      // Word i goes to lane i: values 2 (i % 2) and the next of octet i / 2. Of four lanes: four neighbours, and the next four.
      const vec4 x = neighbours(w);
      const auto low = [](uint32_t a, uint32_t b) { return (a & 0xffff) | b << 16; };
      const auto high = [](uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); };
      const vec4 v = {{low(x.v[0], x.v[1]), low(x.v[2], x.v[3]), high(x.v[0], x.v[1]), high(x.v[2], x.v[3])}};
      // Selected by value: registers have no address.
      const uint32_t second = 0u - t / 2, row = row0 + ((at.row - row0) & second);
      store(p, row, row < b.row + b.rows, col0 + ((at.cols.col - col0) & second), t % 2 * 8, at.cols.end, v);
    }
  }
};

// Ends an octet of a product, which has its bias: saves it, if it is to be saved, and leaves the activation in its place,
// GELU's or SwiGLU's; of the latter in the first value of each pair. Whole warps take part.
template <class Source, bool kGelu>
TW_DEV void activate(const TwParams& p, const OctetPlace<Source>& at, Octet& o) {
  using T = typename Source::Type;
  WireFormat<T>(TW_BF16).round(o);
  if (p.saved) store_at<Source>({p.saved, p.saved_ld}, at, o);
  if constexpr (kGelu) {
    each_pair(o, [](float& lo, float& hi) {
      lo = fn::gelu(lo);
      hi = fn::gelu(hi);
    });
  } else {
    each_pair(o, [](float& gate, float& up) { gate = mx::mul(fn::silu(gate), up); });
  }
}

template <class Source, bool kGelu, class OctetOf>
TW_DEV void store_as(const TwParams& p, const Block& b, OctetOf octet_of) {
  static_assert(Source::kOctets % 2 == 0, "halves are stored two octets at a time");
  [[maybe_unused]] Halves<Source> halves;
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    const OctetPlace<Source> at(p, b, v);
    Octet o = {};
    if (at.there()) {
      o = octet_of(v);
      add_bias<typename Source::Type>(p, at.cols, o);
    }
    activate<Source, kGelu>(p, at, o);
    if constexpr (kGelu) {
      store_at<Source>({p.out, p.out_ld}, at, o);
    } else {
      halves.add(p, b, at, o);
    }
  }
}
// A block with an epilogue, from its octets of product and addend: octet_of(v), of one that is there.
template <class Source, class OctetOf>
TW_DEV void store_activated(const TwParams& p, const Block& b, OctetOf octet_of) {
  if (p.desc.epilogue == TW_EPILOGUE_GELU) {
    store_as<Source, true>(p, b, octet_of);
  } else {
    store_as<Source, false>(p, b, octet_of);
  }
}
}  // namespace tw
