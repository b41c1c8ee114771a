// RMSNorm and LayerNorm of rows, forward: y = (x - mean) / sqrt(var + eps) * gamma + beta, where an RMSNorm has neither mean
// nor beta. Squares are of what was centred: a second pass over the row, which L1 holds. An RMSNorm has the bits of the tail's
// (kernels/tail.h).
#pragma once
#include "kernels/local/norm_backward.h"
#include "kernels/local/row_team.h"

namespace tw {
template <class A, bool kAlone>
TW_DEV void norm_forward(const TwLocal& l) {
  using T = typename A::Type;
  const Matrix<T> x = A::mat(l, TW_NORM_X), y = A::mat(l, TW_NORM_Y), gamma = A::row(l, TW_NORM_GAMMA);
  const bool shifted = l.mat[TW_NORM_BETA].at != 0;
  const Matrix<T> beta = shifted ? A::row(l, TW_NORM_BETA) : gamma;
  const float count = float(l.cols);
  RowTeam<kAlone> team;
  for (uint32_t row = team.first(); row < l.rows; row += team.step()) {
    float mean = 0.f;
    if (l.centred) {
      float chain[8] = {};
      over_row<A>({x}, row, team.span(), l.cols, [&](const Columns&, const Octet(&o)[1]) {
        TW_UNROLL
        for (int j = 0; j < 8; ++j) chain[j] = mx::add(chain[j], o[0].f[j]);
      });
      float sums[1] = {fold_span(chain)};
      team.sum(sums);
      mean = mx::div(sums[0], count);
    }
    float chain[8] = {};
    over_row<A>({x}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[1]) {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float h = exists(c, j) ? mx::add(o[0].f[j], -mean) : 0.f;
        chain[j] = mx::fma(h, h, chain[j]);
      }
    });
    float sums[1] = {fold_span(chain)};
    team.sum(sums);
    const float by = mx::div(1.f, mx::sqrt(mx::add(mx::div(sums[0], count), mx::bits_f32(l.value))));
    over_row<A>({x, gamma, beta}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[3]) {
      Octet out;
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float scaled = mx::mul(mx::add(o[0].f[j], -mean), by);
        out.f[j] = shifted ? mx::fma(scaled, o[1].f[j], o[2].f[j]) : mx::mul(scaled, o[1].f[j]);
      }
      A::store(y, row, c, out);
    });
    if (l.mat[TW_NORM_STATS].at) {
      team.one([&] {
        store_f32(l.mat[TW_NORM_STATS], row, 0, mean);
        store_f32(l.mat[TW_NORM_STATS], row, 1, by);
      });
    }
  }
}

template <class A>
TW_DEV void norm(const TwLocal& l) {
  const bool alone = l.cols <= kRowSpan;
  if (l.what == TW_NORM_GRADIENTS) return norm_gradients<A>(l);
  if (l.what == TW_NORM_BACKWARD) return alone ? norm_backward<A, true>(l) : norm_backward<A, false>(l);
  return alone ? norm_forward<A, true>(l) : norm_forward<A, false>(l);
}
}  // namespace tw
