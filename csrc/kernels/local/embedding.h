// Rows of a table by number. Of a part of the vocabulary's rows: a number of another part gives zeros, which the sum over parts
// makes right. Every number reads a row, its own or the first: the machine's time does not depend on ids.
#pragma once
#include "kernels/local/embedding_backward.h"
#include "kernels/local/ids.h"
#include "kernels/local/walk.h"

namespace tw {
template <class A>
TW_DEV void embedding_lookup(const TwLocal& l) {
  const auto table = A::mat(l, TW_EMBEDDING_TABLE), y = A::mat(l, TW_EMBEDDING_Y);
  const uint32_t count = l.ids;
  report_first_bad(l, l.mat[TW_EMBEDDING_IDS], l.rows, l.mat[TW_EMBEDDING_BAD]);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    Octet o = {};
    if (count) {
      const Place place(id_at(l.mat[TW_EMBEDDING_IDS], row), l.first, count);
      o = A::load(table, place.at, c);
      TW_UNROLL
      for (int j = 0; j < 8; ++j) o.f[j] = place.here ? o.f[j] : 0.f;
    }
    A::store(y, row, c, o);
  });
}

template <class A>
TW_DEV void embedding(const TwLocal& l) {
  if (l.what == TW_EMBEDDING_BACKWARD) return embedding_backward<A>(l);
  embedding_lookup<A>(l);
}
}  // namespace tw
