// Cross-entropy over a vocabulary whose columns may be split among ranks (Megatron-LM's vocab_parallel_cross_entropy):
//
//   stats    of a part: max of the logits, sum of exp(logit - max), the target's logit, or 0 where it is of another part
//   loss     from all parts' stats: M = max of max, S = sum of sum exp(max - M), lse = M + log S, loss = lse - target's logit
//   dlogits  (exp(logit - lse) - [target]) dloss
//
// A row is a CTA's; sums are in the order of tile/row_sum.h, over parts in rank order.
#pragma once
#include "kernels/local/ids.h"
#include "kernels/local/row_team.h"
#include "tile/functions.h"

namespace tw {
TW_DEV float largest_of_eight(const float (&x)[8]) {
  return fn::larger(fn::larger(fn::larger(x[0], x[1]), fn::larger(x[2], x[3])),
                    fn::larger(fn::larger(x[4], x[5]), fn::larger(x[6], x[7])));
}

template <class A>
TW_DEV void logit_stats(const TwLocal& l) {
  using T = typename A::Type;
  const Matrix<T> logits = A::mat(l, TW_LOSS_LOGITS);
  RowTeam<false> team;
  for (uint32_t row = team.first(); row < l.rows; row += team.step()) {
    float chain[8];
    TW_UNROLL
    for (int j = 0; j < 8; ++j) chain[j] = -fn::infinity();
    over_row<A>({logits}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[1]) {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) chain[j] = exists(c, j) ? fn::larger(chain[j], o[0].f[j]) : chain[j];
    });
    float most[1] = {largest_of_eight(chain)}, all[1][8];
    for (uint32_t mask = 1; mask < 32; mask *= 2) {
      most[0] = fn::larger(most[0], mx::bits_f32(mx::shfl_xor(mx::f32_bits(most[0]), mask)));
    }
    team.meet(most, all);
    const float max = largest_of_eight(all[0]);
    // Where all logits are -infinity their sum is 0, not NaN: another part may have others.
    const float from = max == -fn::infinity() ? 0.f : max;
    float terms[8] = {};
    over_row<A>({logits}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[1]) {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) terms[j] = mx::add(terms[j], exists(c, j) ? fn::exp(mx::add(o[0].f[j], -from)) : 0.f);
    });
    float sums[1] = {fold_span(terms)};
    team.sum(sums);
    team.one([&] {
      float logit = 0.f, none;
      if (l.cols) {
        const Place target(id_at(l.mat[TW_LOSS_TARGETS], row), l.first, l.cols);
        Pair<T>::load(logits.at(row, target.at), false, logit, none);
        logit = target.here ? logit : 0.f;
      }
      store_f32(l.mat[TW_LOSS_STATS], row, 0, max);
      store_f32(l.mat[TW_LOSS_STATS], row, 1, sums[0]);
      store_f32(l.mat[TW_LOSS_STATS], row, 2, logit);
    });
  }
}

// A thread a row.
TW_DEV void loss(const TwLocal& l) {
  const TwMat& stats = l.mat[TW_LOSS_STATS];
  report_first_bad(l, l.mat[TW_LOSS_TARGETS], l.rows, l.mat[TW_LOSS_BAD]);
  for (uint32_t row = mx::block() * TW_LOCAL_THREADS + mx::thread(); row < l.rows; row += mx::grid() * TW_LOCAL_THREADS) {
    const auto of = [&](uint32_t part, uint32_t what) { return load_f32(stats, uint64_t(part) * l.rows + row, what); };
    float max = -fn::infinity(), sum = 0.f, logit = 0.f;
    for (uint32_t part = 0; part < l.parts; ++part) max = fn::larger(max, of(part, 0));
    for (uint32_t part = 0; part < l.parts; ++part) {
      sum = mx::fma(of(part, 1), fn::exp(mx::add(of(part, 0), -max)), sum);
      logit = mx::add(logit, of(part, 2));
    }
    const float log_sum = fn::log(sum), value = mx::add(log_sum, mx::add(max, -logit));
    const int64_t id = id_at(l.mat[TW_LOSS_TARGETS], row);
    const bool ignored = l.ignores && id == l.ignore, outside = id < 0 || id >= l.vocabulary;
    store_f32(l.mat[TW_LOSS_LOSS], row, 0, ignored ? 0.f : outside ? fn::nan() : value);
    store_f32(l.mat[TW_LOSS_LSE], row, 0, mx::add(max, log_sum));
  }
}

template <class A>
TW_DEV void loss_backward(const TwLocal& l) {
  const auto logits = A::mat(l, TW_LOSS_LOGITS), dlogits = A::mat(l, TW_LOSS_DLOGITS);
  RowTeam<false> team;
  for (uint32_t row = team.first(); row < l.rows; row += team.step()) {
    const float lse = load_f32(l.mat[TW_LOSS_LSE], row), dloss = load_f32(l.mat[TW_LOSS_LOSS], row);
    const int64_t id = id_at(l.mat[TW_LOSS_TARGETS], row);
    const bool ignored = l.ignores && id == l.ignore;
    const Place target(id, l.first, l.cols);
    over_row<A>({logits}, row, team.span(), l.cols, [&](const Columns& c, const Octet(&o)[1]) {
      Octet out;
      TW_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float part = fn::exp(mx::add(o[0].f[j], -lse));
        const float less = target.here && c.col + j == target.at ? mx::add(part, -1.f) : part;
        out.f[j] = ignored ? 0.f : mx::mul(less, dloss);
      }
      A::store(dlogits, row, c, out);
    });
  }
}

template <class A>
TW_DEV void cross_entropy(const TwLocal& l) {
  if (l.what == TW_LOGIT_STATS) return logit_stats<A>(l);
  if (l.what == TW_LOSS_BACKWARD) return loss_backward<A>(l);
  loss(l);
}
}  // namespace tw
