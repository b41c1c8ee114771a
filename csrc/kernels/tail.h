// The tail of an all-reduce, what decode has between two layers: residual and RMSNorm, in the same kernel.
//
//     h = round(y + residual)                      y: the all-reduce's output, rounded as it would be without a tail
//     out = round(h * 1 / sqrt(mean(h^2) + eps) * gamma)    and h goes where the residual was
//
// A row needs all of its columns, which several CTAs have written. So those CTAs meet (Session::meet), and then share the
// rows out, a team of threads each in turn: few rows, as in decode, keep as many SMs busy, each with all of its threads. y is
// read back from `out`, from L2; what came of an abort is NaN there, and so in its whole row.
//
// In which order a row's squares are added is tile/row_sum.h's: a span at a time by a warp; sums of the eight spans go through
// shared memory.
#pragma once
#include "protocol/session.h"
#include "tile/matrix.h"
#include "tile/row_sum.h"

namespace tw {
static_assert(kTailBytes == 2 * kRowSpans * 4, "of two rows");

// kVectors: every octet is whole, and one 16-byte access (of f32 two).
template <class T, bool kVectors>
class RmsNorm {
  static constexpr uint32_t kAhead = kVectors ? 4 : 1;  // octets that a thread has under way
  const TwParams& p;
  const Matrix<T> out, residual, gamma;
  const WireFormat<T> format;

 public:
  TW_DEV explicit RmsNorm(const TwParams& params)
      : p(params), out{p.out, p.out_ld}, residual{p.residual, p.residual_ld}, gamma{p.gamma, 0}, format(TW_BF16) {}

  // The warp's 256 chains from column `first` on: writes h there, and sums its squares.
  TW_DEV float add_residual(uint32_t row, uint32_t first) const {
    float chain[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
    TW_NO_UNROLL
    for (uint32_t col = first + mx::lane() * 8; col < p.tail_cols; col += kAhead * kRowChains) {
      Octet h[kAhead], r[kAhead];
      TW_UNROLL
      for (uint32_t i = 0; i < kAhead; ++i) {
        h[i] = load(out, row, at(col, i));
        r[i] = load(residual, row, at(col, i));
      }
      TW_UNROLL
      for (uint32_t i = 0; i < kAhead; ++i) {
        add_to(h[i], r[i]);
        format.round(h[i]);
        store(residual, row, at(col, i), h[i]);
        // Columns that do not exist are 0, which changes no sum of squares.
        TW_UNROLL
        for (int j = 0; j < 8; ++j) chain[j] = mx::fma(h[i].f[j], h[i].f[j], chain[j]);
      }
    }
    return fold_span(chain);
  }

  // From the sums of all spans.
  TW_DEV float scale(const float (&sums)[8]) const {
    const float mean = mx::div(fold_eight(sums), float(p.tail_cols));
    return mx::div(1.f, mx::sqrt(mx::add(mean, mx::bits_f32(p.desc.tail_eps))));
  }

  // Every thread reads back the columns of h that it wrote.
  TW_DEV void normalise(uint32_t row, uint32_t first, float by) const {
    TW_NO_UNROLL
    for (uint32_t col = first + mx::lane() * 8; col < p.tail_cols; col += kAhead * kRowChains) {
      Octet h[kAhead], g[kAhead];
      TW_UNROLL
      for (uint32_t i = 0; i < kAhead; ++i) {
        h[i] = load(residual, row, at(col, i));
        g[i] = load(gamma, 0, at(col, i));
      }
      TW_UNROLL
      for (uint32_t i = 0; i < kAhead; ++i) {
        TW_UNROLL
        for (int j = 0; j < 8; ++j) h[i].f[j] = mx::mul(mx::mul(h[i].f[j], by), g[i].f[j]);
        store(out, row, at(col, i), h[i]);
      }
    }
  }

 private:
  TW_DEV Columns at(uint32_t col, uint32_t i) const { return {col + i * kRowChains, 2, p.tail_cols}; }
  TW_DEV Octet load(const Matrix<T>& m, uint32_t row, const Columns& c) const {
    if constexpr (kVectors) return c.any() ? format.load(m.at(row, c.col)) : Octet{};
    return load_octet(m, row, c);
  }
  TW_DEV void store(const Matrix<T>& m, uint32_t row, const Columns& c, const Octet& o) const {
    if constexpr (kVectors) {
      if (c.any()) format.store(m.at(row, c.col), o);
    } else {
      store_octet(m, row, c, o);
    }
  }
};

template <class T>
TW_DEV bool tail_in_vectors(const TwParams& p) {
  const uint64_t pitches = (p.out_ld | p.residual_ld) * Element<T>::kSize;
  return (p.out | p.residual | p.gamma | pitches) % 16 == 0 && p.tail_cols % 8 == 0;
}

// The rows of team `number` of `count`.
template <class Source, bool kVectors>
TW_DEV void normalise_rows(const TwParams& p, uint32_t number, uint32_t count) {
  using Team = typename Source::Team;
  const RmsNorm<typename Source::Type, kVectors> norm(p);
  const uint32_t warp = Team::thread() / 32, warps = Team::threads() / 32;
  // Two rows' sums in turn: who writes the next but one has met everybody behind their reads of this one.
  saddr sums = mx::shared() + Source::kTailAt, other = sums + kTailBytes / 2;
  for (uint32_t row = number; row < p.tail_rows; row += count) {
    for (uint32_t span = warp; span < kRowSpans; span += warps) {
      const float sum = norm.add_residual(row, span * kRowSpan);
      mx::elect([&] { mx::st_shared_b32(sums + 4 * span, mx::f32_bits(sum)); });
    }
    Team::sync(Site::TailSums);
    float all[kRowSpans];
    TW_UNROLL
    for (uint32_t i = 0; i < kRowSpans; ++i) all[i] = mx::bits_f32(mx::ld_shared_b32(sums + 4 * i));
    const float by = norm.scale(all);
    for (uint32_t span = warp; span < kRowSpans; span += warps) norm.normalise(row, span * kRowSpan, by);
    const saddr now = sums;
    sums = other;
    other = now;
  }
}

// By those who have written all of `out` between them: this is number `number` of `count`.
template <class Source>
TW_DEV void run_tail(Session<typename Source::Team>& s, uint32_t number, uint32_t count) {
  if (s.p.desc.tail != TW_TAIL_RMS_NORM) return;
  if (!s.meet(count)) return;
  s.stamps.begin(TW_STAMP_TAIL, 0);
  if (tail_in_vectors<typename Source::Type>(s.p)) {
    normalise_rows<Source, true>(s.p, number, count);
  } else {
    normalise_rows<Source, false>(s.p, number, count);
  }
  s.stamps.end();
}
}  // namespace tw
