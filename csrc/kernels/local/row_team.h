// Row by row: who sums a row. Eight warps of a CTA have a span of it each; where one span is all of it, a warp has a row for
// itself, and the CTA eight rows. The order of additions (tile/row_sum.h) does not know the difference.
#pragma once
#include "kernels/local/access.h"
#include "tile/row_sum.h"

namespace tw {
// The octets of this warp's span of a row, of several matrices at once: f(columns, octets). So many are under way.
template <class A, size_t kMats, class F>
TW_DEV void over_row(const Matrix<typename A::Type> (&mats)[kMats], uint32_t row, uint32_t span, uint32_t cols, const F& f) {
  constexpr uint32_t kAhead = !A::kVectors || kMats > 2 ? 1 : kMats == 2 ? 2 : 4;
  TW_NO_UNROLL
  for (uint32_t col = span * kRowSpan + mx::lane() * 8; col < cols; col += kAhead * kRowChains) {
    Octet o[kAhead][kMats];
    TW_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) {
      TW_UNROLL
      for (size_t m = 0; m < kMats; ++m) o[i][m] = A::load(mats[m], row, Columns{col + i * kRowChains, 2, cols});
    }
    TW_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) {
      const Columns c = {col + i * kRowChains, 2, cols};
      if (c.any()) f(c, o[i]);
    }
  }
}

// kAlone: a warp, of rows of at most kRowSpan columns.
template <bool kAlone>
class RowTeam {
  static constexpr uint32_t kMost = 2, kBytes = kMost * kRowSpans * 4;
  static_assert(2 * kBytes <= TW_LOSS_SHARED && 2 * kBytes <= TW_NORM_SHARED, "abi.h");
  // Two rows' in turn: who writes the next but one has met everybody behind their reads of this one.
  saddr now = mx::shared(), other = mx::shared() + kBytes;

 public:
  TW_DEV uint32_t first() const { return kAlone ? mx::block() * kRowSpans + mx::warp() : mx::block(); }
  TW_DEV uint32_t step() const { return kAlone ? mx::grid() * kRowSpans : mx::grid(); }
  TW_DEV uint32_t span() const { return kAlone ? 0 : mx::warp(); }
  // What one thread of the team does.
  template <class F>
  TW_DEV void one(const F& f) const {
    if (span() == 0) mx::elect(f);
  }

  // Every span's value, from each warp's.
  template <size_t kCount>
  TW_DEV void meet(const float (&mine)[kCount], float (&all)[kCount][kRowSpans]) {
    static_assert(!kAlone && kCount <= kMost, "RowTeam");
    mx::elect([&] {
      TW_UNROLL
      for (size_t i = 0; i < kCount; ++i) mx::st_shared_b32(now + 4 * (i * kRowSpans + span()), mx::f32_bits(mine[i]));
    });
    Cta::sync(Site::LocalSums);
    TW_UNROLL
    for (size_t i = 0; i < kCount; ++i) {
      TW_UNROLL
      for (uint32_t s = 0; s < kRowSpans; ++s) all[i][s] = mx::bits_f32(mx::ld_shared_b32(now + 4 * (i * kRowSpans + s)));
    }
    const saddr was = now;
    now = other;
    other = was;
  }

  // Of each warp's sums, those of the row.
  template <size_t kCount>
  TW_DEV void sum(float (&sums)[kCount]) {
    if constexpr (!kAlone) {
      float all[kCount][kRowSpans];
      meet(sums, all);
      TW_UNROLL
      for (size_t i = 0; i < kCount; ++i) sums[i] = fold_eight(all[i]);
    }
  }
};
}  // namespace tw
