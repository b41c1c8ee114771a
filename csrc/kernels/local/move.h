// Copies, sums of two, and fills. A copy moves bits, whatever they mean.
#pragma once
#include "kernels/local/walk.h"

namespace tw {
template <class A>
TW_DEV void copy(const TwLocal& l) {
  constexpr uint32_t kSize = Element<typename A::Type>::kSize;
  const auto from = A::mat(l, TW_MOVE_A), to = A::mat(l, TW_MOVE_OUT);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    const uint32_t bytes = (c.end - c.col) * kSize;
    TW_UNROLL
    for (uint32_t at = 0; at < 8 * kSize; at += 16) {
      const gaddr source = from.at(row, c.col) + at, target = to.at(row, c.col) + at;
      if constexpr (A::kVectors) {
        mx::st_global_v4(target, mx::ld_global_v4(source));
      } else {
        const uint32_t valid = bytes > at ? bytes - at : 0;
        scatter_16<kSize>(target, valid, gather_16<kSize>(source, valid));
      }
    }
  });
}

template <class A>
TW_DEV void add(const TwLocal& l) {
  const auto a = A::mat(l, TW_MOVE_A), b = A::mat(l, TW_MOVE_B), out = A::mat(l, TW_MOVE_OUT);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    Octet sum = A::load(a, row, c);
    add_to(sum, A::load(b, row, c));
    A::store(out, row, c, sum);
  });
}

template <class A>
TW_DEV void fill(const TwLocal& l) {
  const auto out = A::mat(l, TW_MOVE_OUT);
  Octet o;
  TW_UNROLL
  for (int j = 0; j < 8; ++j) o.f[j] = mx::bits_f32(l.value);
  for_each_octet(l, [&](uint32_t row, const Columns& c) { A::store(out, row, c, o); });
}

template <class A>
TW_DEV void move_matrix(const TwLocal& l) {
  if (l.what == TW_COPY) return copy<A>(l);
  if (l.what == TW_ADD) return add<A>(l);
  fill<A>(l);
}
}  // namespace tw
