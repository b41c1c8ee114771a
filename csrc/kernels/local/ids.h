// Numbers of words of a vocabulary, i64. They decide which row is read and where a value goes, so they are read as words are,
// by relaxed loads: those are real on every machine (docs/clock.md).
#pragma once
#include "kernels/local/access.h"

namespace tw {
TW_DEV int64_t id_at(const TwMat& ids, uint32_t i) { return int64_t(mx::ld_relaxed_sys(ids.at + 8 * uint64_t(i))); }

// Where a number is in this part, of `count` rows or columns: `at` may be read in any case, unless there are none.
struct Place {
  bool here;
  uint32_t at;
  TW_DEV Place(int64_t id, int64_t first, uint32_t count)
      : here(id >= first && id - first < int64_t(count)), at(here ? uint32_t(id - first) : 0) {}
};

// What the first CTA does besides: finds the first of `count` ids that is outside the vocabulary, and is not the one to ignore.
// `bad` is {position + 1, id}, and keeps what it holds until the host clears it.
TW_DEV void report_first_bad(const TwLocal& l, const TwMat& ids, uint32_t count, const TwMat& bad) {
  if (bad.at == 0 || mx::block() != 0) return;
  uint32_t first = ~0u;
  for (uint32_t i = mx::thread(); i < count; i += mx::threads()) {
    const int64_t id = id_at(ids, i);
    const bool outside = (id < 0 || id >= l.vocabulary) && !(l.ignores && id == l.ignore);
    first = outside && i < first ? i : first;
  }
  for (uint32_t mask = 1; mask < 32; mask *= 2) {
    const uint32_t other = mx::shfl_xor(first, mask);
    first = other < first ? other : first;
  }
  const saddr firsts = mx::shared();
  mx::elect([&] { mx::st_shared_b32(firsts + 4 * mx::warp(), first); });
  Cta::sync(Site::LocalSums);
  Cta::one([&] {
    for (uint32_t w = 0; w < TW_LOCAL_THREADS / 32; ++w) {
      const uint32_t of_warp = mx::ld_shared_b32(firsts + 4 * w);
      first = of_warp < first ? of_warp : first;
    }
    const uint64_t position = mx::ld_relaxed_sys(bad.at);
    if (position == 0 && first != ~0u) {
      mx::st_global_b64(bad.at + 8, uint64_t(id_at(ids, first)));
      mx::st_global_b64(bad.at, uint64_t(first) + 1);
    }
  });
}
}  // namespace tw
