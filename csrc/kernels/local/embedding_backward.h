// The gradient of a table's rows: for each, the sum of dy over the tokens that looked it up, in the order of the tokens, in f32,
// rounded once. No atomics, so the order is always the same, and no memory but the CTA's.
//
// A CTA takes 32 rows of the table at a time, four a warp. It looks through all ids, 1024 at a time, and lists those of its
// rows, in order; then its warps go through the list, each adding up the tokens of its own rows, 256 columns at a time. A list
// that holds all tokens serves for all columns; where more tokens than the list has room for are of these 32 rows, parts of
// the list follow each other, and are made anew for the next columns.
#pragma once
#include "kernels/local/ids.h"
#include "tile/row_sum.h"

namespace tw {
constexpr uint32_t kTableRows = 32, kWarpRows = kTableRows / (TW_LOCAL_THREADS / 32);

// The tokens from `from` up to `to` that are of a block of rows: {token, row} by 8 bytes.
class TokenList {
  static constexpr uint32_t kChunk = 1024, kRoom = 4096, kNone = ~0u;
  static constexpr uint32_t kMarks = 0, kCounts = kMarks + 4 * (kChunk + kChunk / 32), kTotal = kCounts + 4 * 32;
  static constexpr uint32_t kEntries = kTotal + 16;
  static_assert(kEntries + 8 * kRoom <= TW_EMBEDDING_SHARED && kEntries % 8 == 0, "abi.h");
  const TwMat ids;
  const uint32_t all;
  uint32_t count = 0;

  // Lanes of the warp that lists read 32 marks in a row each: a gap after each 32 spreads them over the banks.
  static TW_DEV saddr mark(uint32_t i) { return mx::shared() + kMarks + 4 * (i + i / 32); }
  static TW_DEV saddr counted(uint32_t lane) { return mx::shared() + kCounts + 4 * lane; }

  // One warp, in the order of the tokens: counts first, and from them everyone's place.
  TW_DEV void append(uint32_t token) const {
    mx::each_lane(mx::lane(), 32, [&](uint32_t lane) {
      uint32_t mine = 0;
      for (uint32_t i = 0; i < 32; ++i) mine += mx::ld_shared_b32(mark(32 * lane + i)) != kNone;
      mx::st_shared_b32(counted(lane), mine);
    });
    mx::warp_sync();
    mx::each_lane(mx::lane(), 32, [&](uint32_t lane) {
      uint32_t at = count;
      for (uint32_t before = 0; before < lane; ++before) at += mx::ld_shared_b32(counted(before));
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t row = mx::ld_shared_b32(mark(32 * lane + i));
        if (row == kNone) continue;
        mx::st_shared_b32(mx::shared() + kEntries + 8 * at, token + 32 * lane + i);
        mx::st_shared_b32(mx::shared() + kEntries + 8 * at + 4, row);
        ++at;
      }
      if (lane == 31) mx::st_shared_b32(mx::shared() + kTotal, at);
    });
  }

 public:
  uint32_t from = ~0u, to = 0;

  TW_DEV TokenList(const TwMat& of, uint32_t tokens) : ids(of), all(tokens) {}
  TW_DEV uint32_t size() const { return count; }
  TW_DEV uint32_t token(uint32_t i) const { return mx::ld_shared_b32(mx::shared() + kEntries + 8 * i); }
  TW_DEV uint32_t row(uint32_t i) const { return mx::ld_shared_b32(mx::shared() + kEntries + 8 * i + 4); }

  // Lists tokens from `begin` on of the rows from `first` on, as far as there is room.
  TW_DEV void make(uint32_t begin, int64_t first) {
    from = to = begin;
    count = 0;
    while (to < all && count + kChunk <= kRoom) {
      for (uint32_t i = 0; i < kChunk / TW_LOCAL_THREADS; ++i) {
        mx::each_lane(mx::thread() + i * TW_LOCAL_THREADS, kChunk, [&](uint32_t at) {
          const bool there = at < all - to;
          const Place place(there ? id_at(ids, to + at) : 0, first, kTableRows);
          mx::st_shared_b32(mark(at), there && place.here ? place.at : kNone);
        });
      }
      Cta::sync(Site::LocalIds);
      if (mx::warp() == 0) append(to);
      Cta::sync(Site::LocalList);
      count = mx::ld_shared_b32(mx::shared() + kTotal);
      to = all - to > kChunk ? to + kChunk : all;
    }
  }
};

template <class A>
TW_DEV void embedding_backward(const TwLocal& l) {
  const auto dy = A::mat(l, TW_EMBEDDING_Y), dtable = A::mat(l, TW_EMBEDDING_TABLE);
  for (uint32_t block = mx::block() * kTableRows; block < l.rows; block += mx::grid() * kTableRows) {
    TokenList list(l.mat[TW_EMBEDDING_IDS], l.ids);
    const uint32_t mine = mx::warp() * kWarpRows;
    for (uint32_t first = 0; first < l.cols; first += kRowSpan) {
      const Columns c = {first + mx::lane() * 8, 2, l.cols};
      Octet sum[kWarpRows] = {};
      uint32_t touched = 0, next = 0;
      do {
        if (list.from != next) list.make(next, l.first + block);
        for (uint32_t i = 0; i < list.size(); ++i) {
          const uint32_t row = list.row(i) - mine;
          if (row >= kWarpRows) continue;
          const Octet o = A::load(dy, list.token(i), c);
          touched |= 1u << row;
          TW_UNROLL
          for (uint32_t r = 0; r < kWarpRows; ++r) {
            if (r == row) add_to(sum[r], o);
          }
        }
        next = list.to;
      } while (next < l.ids);
      TW_UNROLL
      for (uint32_t r = 0; r < kWarpRows; ++r) {
        // What no token touched keeps its bits.
        const uint32_t row = block + mine + r;
        if (row >= l.rows || (l.accumulate && !(touched >> r & 1))) continue;
        if (l.accumulate) add_to(sum[r], A::load(dtable, row, c));
        A::store(dtable, row, c, sum[r]);
      }
    }
  }
}
}  // namespace tw
