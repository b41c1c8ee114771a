// RMSNorm and LayerNorm backward. With h = (x - mean) s, s = 1 / sqrt(var + eps) and g = dy gamma:
//
//   dx = s (g - h mean(g h) - mean(g)) + add      means over a row; an RMSNorm has no mean(g)
//   dgamma = sum of dy h, dbeta = sum of dy       over rows
//
// Sums over rows: row r goes into chain r mod 64, upwards, and the chains are added as a balanced tree, whatever the grid.
#pragma once
#include "kernels/local/row_team.h"

namespace tw {
template <class A, bool kAlone>
TW_DEV void norm_backward(const TwLocal& l) {
  using T = typename A::Type;
  const Matrix<T> x = A::mat(l, TW_NORM_X), dy = A::mat(l, TW_NORM_DY), gamma = A::row(l, TW_NORM_GAMMA);
  const Matrix<T> dx = A::mat(l, TW_NORM_DX);
  const bool adds = l.mat[TW_NORM_ADD].at != 0;
  const Matrix<T> more = adds ? A::mat(l, TW_NORM_ADD) : dy;
  const float count = float(l.cols);
  RowTeam<kAlone> team;
  for (uint32_t row = team.first(); row < l.rows; row += team.step()) {
    const float mean = load_f32(l.mat[TW_NORM_STATS], row, 0), by = load_f32(l.mat[TW_NORM_STATS], row, 1);
    float of_g[8] = {}, of_gh[8] = {};
    over_row<A>({x, gamma, dy}, row, team.span(), l.cols, [&](const Columns&, const Octet(&o)[3]) {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float h = mx::mul(mx::add(o[0].f[j], -mean), by), g = mx::mul(o[2].f[j], o[1].f[j]);
        of_g[j] = mx::add(of_g[j], g);
        of_gh[j] = mx::fma(g, h, of_gh[j]);
      }
    });
    float sums[2] = {fold_span(of_g), fold_span(of_gh)};
    team.sum(sums);
    const float mean_g = l.centred ? mx::div(sums[0], count) : 0.f, mean_gh = mx::div(sums[1], count);
    over_row<A>({x, gamma, dy, more}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[4]) {
      Octet out;
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float h = mx::mul(mx::add(o[0].f[j], -mean), by), g = mx::mul(o[2].f[j], o[1].f[j]);
        const float d = mx::mul(mx::fma(-h, mean_gh, mx::add(g, -mean_g)), by);
        out.f[j] = adds ? mx::add(d, o[3].f[j]) : d;
      }
      A::store(dx, row, c, out);
    });
  }
}

// A block of columns, four octets across and 64 rows at a time: 64 bytes of a row of 16-bit values.
constexpr uint32_t kGradientColumns = 32, kGradientRows = TW_LOCAL_THREADS * 8 / kGradientColumns;

template <class A>
TW_DEV void norm_gradients(const TwLocal& l) {
  using T = typename A::Type;
  constexpr uint32_t kRowBytes = kGradientColumns * 4, kSumBytes = kGradientRows * kRowBytes;
  static_assert(4 * kSumBytes <= TW_NORM_SHARED && kGradientRows == 64, "two sums, of two blocks in turn");
  const Matrix<T> x = A::mat(l, TW_NORM_X), dy = A::mat(l, TW_NORM_DY);
  const uint32_t octet = mx::thread() % (kGradientColumns / 8), chain = mx::thread() / (kGradientColumns / 8);
  saddr now = mx::shared(), other = now + 2 * kSumBytes;
  for (uint32_t first = mx::block() * kGradientColumns; first < l.cols; first += mx::grid() * kGradientColumns) {
    const Columns c = {first + octet * 8, 2, l.cols};
    Octet of_dyh = {}, of_dy = {};
    TW_NO_UNROLL
    for (uint32_t row = chain; row < l.rows; row += kGradientRows) {
      const float mean = load_f32(l.mat[TW_NORM_STATS], row, 0), by = load_f32(l.mat[TW_NORM_STATS], row, 1);
      const Octet xs = A::load(x, row, c), dys = A::load(dy, row, c);
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        of_dyh.f[j] = mx::fma(dys.f[j], mx::mul(mx::add(xs.f[j], -mean), by), of_dyh.f[j]);
        of_dy.f[j] = mx::add(of_dy.f[j], dys.f[j]);
      }
    }
    const saddr mine = now + chain * kRowBytes + octet * 32;
    TW_UNROLL
    for (int half = 0; half < 2; ++half) {
      mx::st_shared_v4(mine + 16 * half, f32_half(of_dyh, half));
      mx::st_shared_v4(mine + kSumBytes + 16 * half, f32_half(of_dy, half));
    }
    Cta::sync(Site::LocalSums);
    // A thread a column: the first warp of dgamma, the second of dbeta.
    const uint32_t col = first + mx::lane();
    const Matrix<T> out = A::row(l, mx::warp() == 0 ? TW_NORM_DGAMMA : TW_NORM_DBETA);
    if (mx::warp() < 2 && out.base && col < l.cols) {
      float sum[8];
      TW_UNROLL
      for (uint32_t i = 0; i < 8; ++i) {
        float part[8];
        const saddr at = now + mx::warp() * kSumBytes + mx::lane() * 4 + 8 * i * kRowBytes;
        TW_UNROLL
        for (uint32_t j = 0; j < 8; ++j) part[j] = mx::bits_f32(mx::ld_shared_b32(at + j * kRowBytes));
        sum[i] = fold_eight(part);
      }
      float all = fold_eight(sum), before = 0.f, none;
      if (l.accumulate) {
        Pair<T>::load(out.at(0, col), false, before, none);
        all = mx::add(all, before);
      }
      Pair<T>::store(out.at(0, col), false, all, 0.f);
    }
    const saddr was = now;
    now = other;
    other = was;
  }
}
}  // namespace tw
