// Ragged splits, as torch.chunk makes them: rank r has rows [r * chunk, min((r + 1) * chunk, rows)), chunk = ceil(rows / P).
// The last ranks may have fewer rows, or none.
#pragma once
#include <stdint.h>

namespace tw {

constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return a / b + (a % b != 0); }
constexpr uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

struct Span {
  uint32_t begin, end;
  constexpr uint32_t size() const { return end - begin; }
};

constexpr Span chunk_of(uint32_t rows, uint32_t chunk, uint32_t rank) {
  const uint64_t begin = uint64_t(rank) * chunk, end = begin + chunk;
  return {begin < rows ? uint32_t(begin) : rows, end < rows ? uint32_t(end) : rows};
}

// The part of `all` that goes through round `q`, `panel` rows at a time.
constexpr Span panel_of(Span all, uint32_t panel, uint32_t q) {
  const Span part = chunk_of(all.size(), panel, q);
  return {all.begin + part.begin, all.begin + part.end};
}

// One block of the output. `rows` 0: nothing there (a ragged end); positions exist all the same, so that every rank counts alike.
struct Block {
  uint32_t row, col;    // where it begins
  uint32_t rows, cols;  // how much of it is inside
};

}  // namespace tw
