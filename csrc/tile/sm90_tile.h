// Hopper's tile: 128 rows or 64, by wgmma of two warpgroups. Where each thread's values stand, and the CTA's shared memory.
//
// Of a tile of 128 rows a warpgroup has 64 and all columns, of one of 64 rows half the columns. Its accumulators lie as
// mma's do (tile/fragment.h): octet v = 2 g + h is half h of group g.
#pragma once
#include "machine/team.h"
#include "tile/fragment.h"
#include "tile/swizzle.h"

namespace tw {
constexpr uint32_t kSm90RowBytes = 128;        // of a stage or a chunk: what a 128-byte swizzle covers
constexpr uint32_t kSm90ChunkBytes = 8192;     // 64 rows of 128 bytes, or as many bytes of octets
constexpr uint32_t kSm90Chunks = 2;            // buffers a warpgroup has for its output
constexpr uint32_t kSm90MathGroups = 2, kSm90MathWarps = 4 * kSm90MathGroups;

// Threads by role: two warpgroups multiply; of the first one, a warp loads, a warp stores, and two communicate.
using Sm90Math = Warps<128, 128 * kSm90MathGroups, 1, TW_ROLE_MATH>;
using Sm90Talk = Warps<64, 64, 2, TW_ROLE_TALK>;

template <class T, uint32_t kBlockM, uint32_t kBlockN, uint32_t kRingStages>
struct Sm90Tile {
  using Type = T;
  using Team = Sm90Math;
  static constexpr uint32_t kM = kBlockM, kN = kBlockN, kStages = kRingStages, kStep = kSm90RowBytes / 2;
  static constexpr uint32_t kGroupsM = kM / 64, kGroupsN = kSm90MathGroups / kGroupsM;  // of warpgroups
  static constexpr uint32_t kWgN = kN / kGroupsN;
  static constexpr uint32_t kThreads = 128 * kSm90MathGroups, kOctets = kWgN / 16;
  static_assert(kM % 64 == 0 && kGroupsM * kGroupsN == kSm90MathGroups && kWgN % 64 == 0 && kWgN <= 256, "Sm90Tile");

  // Shared memory: the ring of stages (x's rows, then the weight's), output chunks, mbarriers, a word a stage, a tail's sums.
  static constexpr uint32_t kXBytes = kM * kSm90RowBytes, kWeightBytes = kN * kSm90RowBytes, kStageBytes = kXBytes + kWeightBytes;
  static constexpr uint32_t kChunksAt = kStages * kStageBytes;
  static constexpr uint32_t kBarriersAt = kChunksAt + kSm90MathGroups * kSm90Chunks * kSm90ChunkBytes;
  static constexpr uint32_t kBarriers = 2 * kStages + 2 * kSm90MathGroups * kSm90Chunks + 1;
  static constexpr uint32_t kFlagsAt = kBarriersAt + 8 * kBarriers;
  static constexpr uint32_t kTailAt = kFlagsAt + 4 * kStages;
  static constexpr uint32_t kShared = (kTailAt + kTailBytes + 127) / 128 * 128;
  static_assert(kStageBytes % 1024 == 0 && kShared <= 227 * 1024, "Sm90Tile");

  struct Values {
    float d[kWgN / 2];
    TW_DEV Octet octet(uint32_t v) const {
      Octet o;
      TW_UNROLL
      for (int j = 0; j < 4; ++j) {
        o.f[2 * j] = d[(v / 2 * 4 + j) * 4 + v % 2 * 2];
        o.f[2 * j + 1] = d[(v / 2 * 4 + j) * 4 + v % 2 * 2 + 1];
      }
      return o;
    }
  };

  static TW_DEV uint32_t warpgroup() { return mx::warp() / 4 - 1; }  // of those that multiply
  static TW_DEV uint32_t row64() { return warpgroup() % kGroupsM; }
  static TW_DEV uint32_t col0() { return warpgroup() / kGroupsM * kWgN; }
  static TW_DEV uint32_t row_of(uint32_t v) { return row64() * 64 + mx::warp() % 4 * 16 + v % 2 * 8 + mx::lane() / 4; }
  static TW_DEV Columns columns_of(uint32_t v, uint32_t end) { return {col0() + v / 2 * 32 + mx::lane() % 4 * 2, 8, end}; }
  static TW_DEV uint32_t place(uint32_t v) {
    return fragment_place<kN / kGroupColumns>(row64() * 4 + mx::warp() % 4, v % 2, col0() / kGroupColumns + v / 2, mx::lane());
  }
  static TW_DEV uint32_t ordinal(uint32_t col) { return col / 32 * 4 + col % 32 / 2; }
};

// The same octets in the hands of the two warps that communicate: 64 rows after 64 rows, of which each warp has two of the
// 16-row blocks.
template <class Tile>
struct Sm90Fragments {
  using Type = typename Tile::Type;
  using Team = Sm90Talk;
  struct Values {};
  static constexpr uint32_t kM = Tile::kM, kN = Tile::kN, kThreads = 64, kOctets = kM * kN / (8 * kThreads);
  static constexpr uint32_t kTailAt = Tile::kTailAt;
  static constexpr uint32_t kPerRow64 = kN / 8;  // of a thread: groups x halves x 2 blocks

  static TW_DEV uint32_t block16(uint32_t v) { return v / kPerRow64 * 4 + v % 2 * 2 + mx::warp() % 2; }
  static TW_DEV uint32_t half(uint32_t v) { return v / 2 % 2; }
  static TW_DEV uint32_t group(uint32_t v) { return v % kPerRow64 / 4; }
  static TW_DEV uint32_t row_of(uint32_t v) { return block16(v) * kFragmentRows + half(v) * 8 + mx::lane() / 4; }
  static TW_DEV Columns columns_of(uint32_t v, uint32_t end) {
    return {group(v) * kGroupColumns + mx::lane() % 4 * 2, 8, end};
  }
  static TW_DEV uint32_t place(uint32_t v) {
    return fragment_place<kN / kGroupColumns>(block16(v), half(v), group(v), mx::lane());
  }
};

// The same in the hands of all warps of a CTA that only reduces, in the order of places. Of its last octets a thread
// may have none: they stand in a row beyond the tile.
template <class Tile>
struct Sm90Spread {
  using Type = typename Tile::Type;
  using Team = Cta;
  struct Values {};
  static constexpr uint32_t kM = Tile::kM, kN = Tile::kN, kThreads = 128 * (1 + kSm90MathGroups), kWarps = kThreads / 32;
  static constexpr uint32_t kTailAt = Tile::kTailAt;
  static constexpr uint32_t kAll = kM * kN / (8 * 32), kEach = (kAll + kWarps - 1) / kWarps;  // a warp's octets at a time
  static constexpr uint32_t kOctets = kEach < 8 ? (kEach + 1) / 2 * 2 : (kEach + 3) / 4 * 4;
  static constexpr uint32_t kGroups = kN / kGroupColumns;

  static TW_DEV uint32_t number(uint32_t v) { return v * kWarps + mx::warp(); }
  static TW_DEV uint32_t row_of(uint32_t v) {
    const uint32_t n = number(v);  // of 64 rows, of a group, of a half, of 16 rows: as fragment_place counts
    return n / (8 * kGroups) * kChunkRows + n % 4 * kFragmentRows + n / 4 % 2 * 8 + mx::lane() / 4;
  }
  static TW_DEV Columns columns_of(uint32_t v, uint32_t end) {
    return {number(v) / 8 % kGroups * kGroupColumns + mx::lane() % 4 * 2, 8, end};
  }
  static TW_DEV uint32_t place(uint32_t v) { return number(v) * 32 + mx::lane(); }
};
}  // namespace tw
