// The epilogue of a product, in the kernel that computes it:
//
//     pre = round(product + addend + bias)     stored where `TwParams::saved` is given
//     out = round(gelu(pre))                   or, of columns 2j and 2j + 1: round(silu(pre[2j]) * pre[2j + 1])
//
// The activation is of the rounded pre, so that a pass backward, or a kernel of its own, sees the same bits.
//
// An octet's pairs are a gate and what it lets through each, so of SwiGLU an octet gives four values, which stand a step
// apart in the output. Octets are taken two at a time: eight values a lane, and by a transposition among the four lanes of a row
// as many neighbours, one 16-byte vector.
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

// Where two octets of a block stand. Columns and rows of lanes whose octet is not there are those that it would have.
template <class Source>
struct Two {
  const Block& b;
  uint32_t row[2];
  Columns cols[2];
  TW_DEV Two(const TwParams& p, const Block& block, uint32_t v)
      : b(block), row{Source::row(p, b, v), Source::row(p, b, v + 1)},
        cols{Source::columns(p, b, v), Source::columns(p, b, v + 1)} {}
  TW_DEV bool in_rows(uint32_t i) const { return row[i] < b.row + b.rows; }
  TW_DEV bool there(uint32_t i) const { return in_rows(i) && cols[i].any(); }
};

// Stores two octets; whole warps take part.
template <class Source>
TW_DEV void store_two(const Matrix<typename Source::Type>& m, const Two<Source>& at, const Octet (&o)[2]) {
  using T = typename Source::Type;
  TW_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    if constexpr (Element<T>::kSize == 2) {
      store_row<T>(m, at.in_rows(i), at.row[i], at.cols[i], o[i]);
    } else {
      if (at.there(i)) store_octet<T>(m, at.row[i], at.cols[i], o[i]);
    }
  }
}

// Stores the first value of each pair of two octets as every second column's; whole warps take part.
template <class Source>
TW_DEV void store_halves(const Matrix<typename Source::Type>& m, const Two<Source>& at, const Octet (&o)[2]) {
  using T = typename Source::Type;
  constexpr uint32_t kSize = Element<T>::kSize, kEach = 16 / kSize;
  const uint32_t t = mx::lane() % 4;
  // `count` neighbours of octet `of`, from its quad's value `first` on.
  const auto store = [&](const Columns& cols, uint32_t row, bool in_rows, uint32_t first, const vec4& v) {
    const uint32_t col = (cols.col - 2 * t) / 2 + first, end = cols.end / 2;
    if (in_rows && col < end) store_16<kSize>(m.at(row, col), min_u32(kEach, end - col) * kSize, v);
  };
  if constexpr (kSize == 2) {
    // Word w goes to lane w: values 2 (w % 2) and the next of octet w / 2. Of four lanes: four neighbours, and the next four.
    const vec4 w = neighbours({{mx::pack2<T>(o[0].f[0], o[0].f[2]), mx::pack2<T>(o[0].f[4], o[0].f[6]),
                                mx::pack2<T>(o[1].f[0], o[1].f[2]), mx::pack2<T>(o[1].f[4], o[1].f[6])}});
    const auto low = [](uint32_t a, uint32_t b) { return (a & 0xffff) | b << 16; };
    const auto high = [](uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); };
    const vec4 v = {{low(w.v[0], w.v[1]), low(w.v[2], w.v[3]), high(w.v[0], w.v[1]), high(w.v[2], w.v[3])}};
    const uint32_t i = t / 2;
    static_assert(kGroupColumns == 32, "values j and j + 1 of a lane are four columns apart");
    store(i ? at.cols[1] : at.cols[0], i ? at.row[1] : at.row[0], i ? at.in_rows(1) : at.in_rows(0), t % 2 * 8, v);
  } else {
    TW_UNROLL
    for (uint32_t i = 0; i < 2; ++i) {
      const vec4 v = neighbours({{mx::f32_bits(o[i].f[0]), mx::f32_bits(o[i].f[2]), mx::f32_bits(o[i].f[4]), mx::f32_bits(o[i].f[6])}});
      store(at.cols[i], at.row[i], at.in_rows(i), t * at.cols[i].step / 2, v);
    }
  }
}

// Ends octets v and v + 1 of a product's block, which have their bias: saves what is to be saved, and leaves the activation in `o`, or
// stores it where it is SwiGLU's. Whole warps take part.
template <class Source>
TW_DEV void activate(const TwParams& p, const Two<Source>& at, Octet (&o)[2]) {
  using T = typename Source::Type;
  const WireFormat<T> format(TW_BF16);
  TW_UNROLL
  for (uint32_t i = 0; i < 2; ++i) format.round(o[i]);
  if (p.saved) store_two<Source>({p.saved, p.saved_ld}, at, o);
  const bool gelu = p.desc.epilogue == TW_EPILOGUE_GELU;
  TW_UNROLL
  for (uint32_t i = 0; i < 2; ++i) {
    if (gelu) {
      each_pair(o[i], [](float& lo, float& hi) {
        lo = fn::gelu(lo);
        hi = fn::gelu(hi);
      });
    } else {
      each_pair(o[i], [](float& gate, float& up) { gate = mx::mul(fn::silu(gate), up); });
    }
  }
  if (!gelu) store_halves<Source>({p.out, p.out_ld}, at, o);
}

// A block with an epilogue, from its octets of product and addend: octet_of(v), of one that is there.
template <class Source, class OctetOf>
TW_DEV void store_activated(const TwParams& p, const Block& block, OctetOf octet_of) {
  using T = typename Source::Type;
  static_assert(Source::kOctets % 2 == 0, "octets are taken two at a time");
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; v += 2) {
    const Two<Source> at(p, block, v);
    Octet o[2];
    TW_UNROLL
    for (uint32_t i = 0; i < 2; ++i) {
      o[i] = at.there(i) ? octet_of(v + i) : Octet{};
      if (at.there(i)) add_bias<T>(p, at.cols[i], o[i]);
    }
    activate<Source>(p, at, o);
    if (p.desc.epilogue == TW_EPILOGUE_GELU) store_two<Source>({p.out, p.out_ld}, at, o);
  }
}
}  // namespace tw
