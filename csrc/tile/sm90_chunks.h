// Output on its way from Hopper's accumulators: in chunks of 8 KiB through shared memory, from the threads that multiply to
// one that stores, so that bulk copies run while the next block's product is computed. A warpgroup has two buffers, a
// pair of mbarriers each.
//
//     math, all 128 threads of a warpgroup         storer, one thread
//       wait chunk_empty                             wait chunk_full
//       write; proxy fence; arrive chunk_full        bulk copy; commit
//                                                    before the buffer's next chunk: wait until it has been read;
//                                                    arrive chunk_empty
//
// So copies from all buffers are under way at once, and a chunk does not wait for the latency of the one before.
//
// A chunk is 64 rows: of a partial on its way to staging, two groups of columns (one in f32) in fragment order, as it lies
// there; of an output matrix, 128 bytes of each row, swizzled as TMA wants them.
#pragma once
#include "tile/epilogue.h"
#include "tile/sm90_ring.h"
#include "tile/source.h"

namespace tw {

template <class Tile>
TW_DEV saddr chunk_at(uint32_t warpgroup, uint32_t buffer) {
  return mx::shared() + Tile::kChunksAt + (warpgroup * kSm90Chunks + buffer) * kSm90ChunkBytes;
}

// Chunks of a block, in the order in which both sides take them: `columns` wide, those of all warpgroups side by side.
template <class Tile>
struct ChunkGrid {
  const Block& block;
  uint32_t columns;
  TW_DEV ChunkGrid(const Block& b, bool wide) : block(b), columns(kSm90RowBytes / (wide ? 4 : 2)) {}
  TW_DEV uint32_t count() const { return Tile::kWgN / columns; }
  TW_DEV uint32_t row(uint32_t wg) const { return wg % Tile::kGroupsM * 64; }
  TW_DEV uint32_t col(uint32_t wg, uint32_t c) const { return wg / Tile::kGroupsM * Tile::kWgN + c * columns; }
  TW_DEV uint32_t rows_in(uint32_t wg) const { return min_u32(64, block.rows - min_u32(block.rows, row(wg))); }
  TW_DEV uint32_t cols_in(uint32_t wg, uint32_t c) const {
    return min_u32(columns, block.cols - min_u32(block.cols, col(wg, c)));
  }
  TW_DEV bool exists(uint32_t wg, uint32_t c) const { return rows_in(wg) != 0 && cols_in(wg, c) != 0; }
};

// A thread that multiplies.
template <class Tile>
class ChunkWriter {
  uint32_t n = 0;  // chunks that this warpgroup has written
  TW_DEV uint32_t index() const { return Tile::warpgroup() * kSm90Chunks + n % kSm90Chunks; }

 public:
  // The chunk to write next.
  TW_DEV saddr open() {
    mx::mbar_wait(Sm90Ring<Tile>::chunk_empty(index()), (n / kSm90Chunks & 1) ^ 1, Site::ChunkEmpty);
    return chunk_at<Tile>(Tile::warpgroup(), n % kSm90Chunks);
  }
  // This thread has written its part.
  TW_DEV void close() {
    mx::fence_async_shared(Site::ChunkFence);
    mx::mbar_arrive(Sm90Ring<Tile>::chunk_full(index()), Site::ChunkFull);
    ++n;
  }
};

// The thread that stores.
template <class Tile>
class ChunkReader {
  uint32_t n[kSm90MathGroups] = {};

 public:
  // Takes the chunks of a block as they come, of those warpgroups that send any: `copy(warpgroup, chunk, source)` issues
  // a bulk copy, or nothing. At the end all have been read.
  template <class Sends, class Copy>
  TW_DEV void each(const ChunkGrid<Tile>& grid, Sends sends, Copy copy) {
    static_assert(Tile::kGroupsN == 1, "warpgroups that send have the same chunks");
    bool all = true;
    TW_UNROLL
    for (uint32_t wg = 0; wg < kSm90MathGroups; ++wg) all = all && grid.exists(wg, 0) && sends(wg);
    for (uint32_t c = 0; c < grid.count(); ++c) {
      TW_UNROLL
      for (uint32_t wg = 0; wg < kSm90MathGroups; ++wg) {
        if (!grid.exists(wg, c) || !sends(wg)) continue;
        const uint32_t buffer = n[wg] % kSm90Chunks, index = wg * kSm90Chunks + buffer;
        if (c >= kSm90Chunks) {  // this buffer's copy is the oldest
          if (all) {
            mx::bulk_wait_read<kSm90MathGroups * kSm90Chunks - 1>(Site::ChunkRead);
          } else {
            mx::bulk_wait_read<kSm90Chunks - 1>(Site::ChunkRead);
          }
          mx::mbar_arrive(Sm90Ring<Tile>::chunk_empty(index), Site::ChunkEmpty);
        }
        mx::mbar_wait(Sm90Ring<Tile>::chunk_full(index), n[wg] / kSm90Chunks & 1, Site::ChunkFull);
        copy(wg, c, chunk_at<Tile>(wg, buffer));
        mx::bulk_commit();
        ++n[wg];
      }
    }
    mx::bulk_wait_read<0>(Site::ChunkRead);
    TW_UNROLL
    for (uint32_t wg = 0; wg < kSm90MathGroups; ++wg) {
      for (uint32_t c = 0; c < kSm90Chunks; ++c) {
        if (!grid.exists(wg, c) || !sends(wg)) continue;
        // The last chunks of the block: of every buffer that it used.
        const uint32_t buffer = (n[wg] - 1 - c) % kSm90Chunks;
        mx::mbar_arrive(Sm90Ring<Tile>::chunk_empty(wg * kSm90Chunks + buffer), Site::ChunkEmpty);
      }
    }
  }
};

template <class T, bool kWide>
struct Wire {
  using Type = T;
};
template <class T>
struct Wire<T, true> {
  using Type = float;
};

// The value of octet v before bias and rounding; of rows beyond the block, which nobody will see, without an addend.
template <class Tile>
TW_DEV Octet partial_of(const TwParams& p, const Block& b, const typename Tile::Values& values, uint32_t v) {
  using Source = GemmSource<Tile>;
  return Source::row(p, b, v) < b.row + b.rows ? Source::partial(p, b, values, v) : values.octet(v);
}

// Writes this rank's partial of a block, in the wire's format. kWide: f32.
template <class Tile, bool kWide>
TW_DEV void write_partial(const TwParams& p, const Block& b, const typename Tile::Values& values, ChunkWriter<Tile>& chunks) {
  constexpr uint32_t kPerChunk = kWide ? 2 : 4;
  const WireFormat<typename Tile::Type> wire(kWide ? TW_F32 : TW_BF16);
  const ChunkGrid<Tile> grid(b, kWide);
  TW_UNROLL
  for (uint32_t c = 0; c < Tile::kOctets / kPerChunk; ++c) {
    if (!grid.exists(Tile::warpgroup(), c)) continue;
    const saddr chunk = chunks.open();
    TW_UNROLL
    for (uint32_t i = 0; i < kPerChunk; ++i) {
      const Octet o = partial_of<Tile>(p, b, values, c * kPerChunk + i);
      const saddr at = chunk + (i * 128 + mx::warp() % 4 * 32 + mx::lane()) * wire.octet_bytes();
      // Of f32, half of the lanes write their second vector first: 8 lanes then meet all banks once.
      const uint32_t first = kWide ? mx::lane() / 4 % 2 : 0;
      mx::st_shared_v4(at + 16 * first, first ? wire.vector(o, 1) : wire.vector(o, 0));
      if (kWide) mx::st_shared_v4(at + 16 - 16 * first, first ? wire.vector(o, 0) : wire.vector(o, 1));
    }
    chunks.close();
  }
}

// Whether a warpgroup's 64 rows of a block may be written by boxes of `map_out`, which cut off at the end of the matrix's
// `rows` and nowhere else.
template <class Tile>
TW_DEV bool by_box(const TwParams& p, uint32_t rows, const ChunkGrid<Tile>& grid, uint32_t wg) {
  return p.out_boxes && (grid.rows_in(wg) == 64 || grid.block.row + grid.block.rows == rows);
}

// A warp's 16 rows x 64 columns of 16-bit values: four octets, two groups by two halves.
TW_DEV void write_box_16(saddr chunk, const vec4 (&packed)[4]) {
  const uint32_t i = mx::lane() / 8, row = mx::warp() % 4 * 16 + i % 2 * 8 + mx::lane() % 8;
  TW_UNROLL
  for (uint32_t j = 0; j < 8; j += 2) {  // two 8-column blocks, upper and lower rows of each
    const vec4 &upper = packed[j / 4 * 2], &lower = packed[j / 4 * 2 + 1];
    const uint32_t r[4] = {upper.v[j % 4], lower.v[j % 4], upper.v[j % 4 + 1], lower.v[j % 4 + 1]};
    mx::stmatrix_x4(chunk + swizzled(row, j + i / 2), r);
  }
}
// A warp's 8 rows x 32 columns of f32, the upper or the lower half of its rows.
TW_DEV void write_box_32(saddr chunk, uint32_t half, const Octet& o) {
  const uint32_t row = mx::warp() % 4 * 16 + half * 8 + mx::lane() / 4, t = mx::lane() % 4;
  TW_UNROLL
  for (uint32_t j = 0; j < 4; ++j) {
    const uint64_t pair = uint64_t(mx::f32_bits(o.f[2 * j + 1])) << 32 | mx::f32_bits(o.f[2 * j]);
    mx::st_shared_b64(chunk + swizzled(row, 2 * j + t / 2) + t % 2 * 8, pair);
  }
}

// Writes a block of an output matrix of `rows` rows: product + addend + bias, or NaN where `live` is false. kWide: in f32.
template <class Tile, bool kWide>
TW_DEV void write_output(const TwParams& p, uint32_t rows, const Block& b, const typename Tile::Values& values, bool live,
                         ChunkWriter<Tile>& chunks) {
  using T = typename Tile::Type;
  using Source = GemmSource<Tile>;
  constexpr uint32_t kPerChunk = kWide ? 2 : 4;
  const ChunkGrid<Tile> grid(b, kWide);
  const bool boxes = by_box(p, rows, grid, Tile::warpgroup());
  TW_UNROLL
  for (uint32_t c = 0; c < Tile::kOctets / kPerChunk; ++c) {
    if (!grid.exists(Tile::warpgroup(), c)) continue;
    // All that is loaded is under way before the wait for the chunk.
    Octet o[kPerChunk];
    TW_UNROLL
    for (uint32_t i = 0; i < kPerChunk; i += 2) {
      const uint32_t v = c * kPerChunk + i;
      Octet bias = {};  // of both halves of a group: they have the same columns
      if (live && p.bias) bias = load_octet<T>({p.bias, 0}, 0, Source::columns(p, b, v));
      TW_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        o[i + half] = live ? partial_of<Tile>(p, b, values, v + half) : nan_octet();
        if (live && p.bias) add_to(o[i + half], bias);
      }
    }
    if (!boxes) {
      using Out = typename Wire<T, kWide>::Type;
      TW_UNROLL
      for (uint32_t i = 0; i < kPerChunk; ++i) {
        const uint32_t v = c * kPerChunk + i, row = Source::row(p, b, v);
        const Columns cols = Source::columns(p, b, v);
        if (row < b.row + b.rows && cols.any()) store_octet<Out>({p.out, p.out_ld}, row, cols, o[i]);
      }
      continue;
    }
    vec4 packed[4];
    if constexpr (!kWide) {
      TW_UNROLL
      for (uint32_t i = 0; i < kPerChunk; ++i) packed[i] = Element<T>::pack(o[i]);
    }
    const saddr chunk = chunks.open();
    if constexpr (kWide) {
      TW_UNROLL
      for (uint32_t i = 0; i < kPerChunk; ++i) write_box_32(chunk, i, o[i]);
    } else {
      write_box_16(chunk, packed);
    }
    chunks.close();
  }
}

// The same with an epilogue, octet by octet: functions take registers. kGelu: GELU, else SwiGLU, which never has boxes.
template <class Tile, bool kGelu>
TW_DEV void write_activated(const TwParams& p, uint32_t rows, const Block& b, const typename Tile::Values& values, bool live,
                            ChunkWriter<Tile>& chunks) {
  using T = typename Tile::Type;
  using Source = GemmSource<Tile>;
  const ChunkGrid<Tile> grid(b, false);
  const bool boxes = kGelu && by_box(p, rows, grid, Tile::warpgroup());
  [[maybe_unused]] Halves<Source> halves;
  TW_UNROLL
  for (uint32_t c = 0; c < Tile::kOctets / 4; ++c) {
    if (!grid.exists(Tile::warpgroup(), c)) continue;
    vec4 packed[4] = {};
    TW_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      const OctetPlace<Source> at(p, b, c * 4 + i);
      Octet o = nan_octet();
      if (live) {
        o = partial_of<Tile>(p, b, values, at.v);
        add_bias<T>(p, at.cols, o);
      }
      activate<Source, kGelu>(p, at, o);
      if constexpr (!kGelu) {
        halves.add(p, b, at, o);
      } else if (boxes) {
        packed[i] = Element<T>::pack(o);
      } else {
        store_at<Source>({p.out, p.out_ld}, at, o);
      }
    }
    if (!boxes) continue;
    const saddr chunk = chunks.open();
    write_box_16(chunk, packed);
    chunks.close();
  }
}

// The storer's half of `write_output`; `stored` is called at every chunk.
template <class Tile, class Stored>
TW_DEV void store_output(const TwParams& p, uint32_t rows, const Block& b, ChunkReader<Tile>& chunks, Stored stored) {
  const ChunkGrid<Tile> grid(b, p.desc.wire == TW_F32);
  chunks.each(
      grid, [&](uint32_t wg) { return by_box(p, rows, grid, wg); },
      [&](uint32_t wg, uint32_t c, saddr from) {
        stored();
        mx::tma_store_2d(p.map_out, from, b.col + grid.col(wg, c), b.row + grid.row(wg));
      });
}
}  // namespace tw
