// The two products that attention is made of, tile by tile: 32 rows of one operand against 32 of another, of one head in one
// sequence. A thread has one row (thread / 8) and, of the 32 of the other operand, every eighth (thread % 8, + 8, ..); of 64
// columns it has the octet thread % 8.
//
//   dot     scores[row][other] = a[row] . b[other], over all columns, upwards, by fma from 0
//   spread  sums[row] += weights[row][other] b[other], over the 32 others, upwards, by fma
//
// Operands go through shared memory as f32, 64 columns at a time. Weights are written and read by one warp, which has the
// whole of its four rows.
#pragma once
#include "kernels/local/access.h"
#include "tile/functions.h"

namespace tw {
constexpr uint32_t kTileRows = 32, kChunkColumns = 64, kSumChunks = 2;
constexpr uint32_t kRowLanes = TW_LOCAL_THREADS / kTileRows, kOthers = kTileRows / kRowLanes;
static_assert(kRowLanes * 8 == kChunkColumns, "an octet a thread");

// Rows of one head in one sequence.
template <class A>
struct Head {
  Matrix<typename A::Type> m;
  uint32_t first_row, rows, first_col, end_col;

  TW_DEV Columns columns(uint32_t chunk) const {
    return {first_col + chunk * kChunkColumns + mx::thread() % kRowLanes * 8, 2, end_col};
  }
  // This thread's octet of its row of the tile from `tile` on; 0 behind the last row.
  TW_DEV Octet load(uint32_t tile, uint32_t chunk) const {
    const uint32_t row = tile + mx::thread() / kRowLanes;
    return row < rows ? A::load(m, first_row + row, columns(chunk)) : Octet{};
  }
  TW_DEV void store(uint32_t tile, uint32_t chunk, const Octet& o) const {
    const uint32_t row = tile + mx::thread() / kRowLanes;
    if (row < rows) A::store(m, first_row + row, columns(chunk), o);
  }
};

// A row's sums, of so many columns as registers have room for: wider heads are done in parts, which compute the scores anew.
struct Sums {
  Octet of[kSumChunks];
  TW_DEV void scale(float by) {
    TW_UNROLL
    for (uint32_t c = 0; c < kSumChunks; ++c) {
      TW_UNROLL
      for (int j = 0; j < 8; ++j) of[c].f[j] = mx::mul(of[c].f[j], by);
    }
  }
};

template <class A>
class Tiles {
  // Rows are four words longer than they need be: eight rows' words stand in different banks.
  static constexpr uint32_t kRowBytes = (kChunkColumns + 4) * 4, kChunkBytes = kTileRows * kRowBytes;
  static constexpr uint32_t kWeightRow = (kTileRows + 4) * 4, kWeightBytes = kTileRows * kWeightRow;
  static_assert(2 * kChunkBytes + 2 * kWeightBytes == TW_ATTENTION_SHARED, "abi.h");
  const uint32_t chunks, row = mx::thread() / kRowLanes, part = mx::thread() % kRowLanes;
  const saddr a_chunk = mx::shared(), b_chunk = a_chunk + kChunkBytes, weights = b_chunk + kChunkBytes;

  TW_DEV void put(saddr chunk, const Octet& o) const {
    const saddr at = chunk + row * kRowBytes + part * 32;
    mx::st_shared_v4(at, f32_half(o, 0));
    mx::st_shared_v4(at + 16, f32_half(o, 1));
  }
  TW_DEV saddr weight_row(uint32_t which) const { return weights + which * kWeightBytes + row * kWeightRow; }

 public:
  TW_DEV explicit Tiles(uint32_t head_size) : chunks((head_size + kChunkColumns - 1) / kChunkColumns) {}

  // Of this thread's row: scores[i] with row part + 8 i of b's tile.
  TW_DEV void dot(const Head<A>& a, uint32_t a_tile, const Head<A>& b, uint32_t b_tile, float (&scores)[kOthers]) const {
    TW_UNROLL
    for (uint32_t i = 0; i < kOthers; ++i) scores[i] = 0.f;
    Octet x = a.load(a_tile, 0), y = b.load(b_tile, 0);
    TW_NO_UNROLL
    for (uint32_t c = 0; c < chunks; ++c) {
      Cta::sync(Site::LocalChunk);
      put(a_chunk, x);
      put(b_chunk, y);
      Cta::sync(Site::LocalChunk);
      if (c + 1 < chunks) {
        x = a.load(a_tile, c + 1);
        y = b.load(b_tile, c + 1);
      }
      TW_NO_UNROLL
      for (uint32_t k = 0; k < kChunkColumns * 4; k += 16) {
        const vec4 mine = mx::ld_shared_v4(a_chunk + row * kRowBytes + k);
        TW_UNROLL
        for (uint32_t i = 0; i < kOthers; ++i) {
          const vec4 other = mx::ld_shared_v4(b_chunk + (part + i * kRowLanes) * kRowBytes + k);
          TW_UNROLL
          for (int e = 0; e < 4; ++e) scores[i] = mx::fma(mx::bits_f32(mine.v[e]), mx::bits_f32(other.v[e]), scores[i]);
        }
      }
    }
  }

  // This thread's weights, of two sets.
  TW_DEV void weigh(uint32_t which, const float (&w)[kOthers]) const {
    TW_UNROLL
    for (uint32_t i = 0; i < kOthers; ++i) mx::st_shared_b32(weight_row(which) + (part + i * kRowLanes) * 4, mx::f32_bits(w[i]));
  }

  // After `weigh` and `warp_sync`; of the columns from chunk `first` on.
  TW_DEV void spread(uint32_t which, const Head<A>& b, uint32_t b_tile, uint32_t first, Sums& sums) const {
    Octet y = b.load(b_tile, first);
    TW_UNROLL
    for (uint32_t c = 0; c < kSumChunks; ++c) {
      if (first + c < chunks) {
        Cta::sync(Site::LocalChunk);
        put(b_chunk, y);
        Cta::sync(Site::LocalChunk);
        if (c + 1 < kSumChunks && first + c + 1 < chunks) y = b.load(b_tile, first + c + 1);
        TW_NO_UNROLL
        for (uint32_t other = 0; other < kTileRows; other += 4) {
          const vec4 w = mx::ld_shared_v4(weight_row(which) + other * 4);
          TW_UNROLL
          for (uint32_t i = 0; i < 4; ++i) {
            const saddr at = b_chunk + (other + i) * kRowBytes + part * 32;
            Octet v;
            f32_half(mx::ld_shared_v4(at), v, 0);
            f32_half(mx::ld_shared_v4(at + 16), v, 1);
            TW_UNROLL
            for (int j = 0; j < 8; ++j) sums.of[c].f[j] = mx::fma(mx::bits_f32(w.v[i]), v.f[j], sums.of[c].f[j]);
          }
        }
      }
    }
  }

  TW_DEV void store(const Head<A>& to, uint32_t tile, uint32_t first, const Sums& sums) const {
    TW_UNROLL
    for (uint32_t c = 0; c < kSumChunks; ++c) {
      if (first + c < chunks) to.store(tile, first + c, sums.of[c]);
    }
  }
};

// The rows of a head in a sequence; `which` is an operand with so many heads.
template <class A>
TW_DEV Head<A> head_of(const TwLocal& l, uint32_t which, uint32_t sequence, uint32_t head) {
  return {A::mat(l, which), sequence * l.seq, l.seq, head * l.head_size, (head + 1) * l.head_size};
}
}  // namespace tw
