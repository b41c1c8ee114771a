// The roles of a Hopper kernel's CTA. Each walks the operation's one order of blocks by itself; mbarriers in shared memory
// are all that ties them together, so that loading, multiplying, storing and communicating overlap across blocks.
//
//     warpgroup 0   warp 0: loader    x and the weight into the ring of stages (tile/sm90_ring.h)
//                   warp 1: storer    output chunks to the output or to an owner's staging (tile/sm90_chunks.h)
//                   warps 2, 3: communicator    the operation's session: reduces, pushes, gives credits, ends it
//     1, 2          math              products, from the ring to chunks
//     all                             the rest, behind what all roles have done, where an operation has one
//
// Two warps are enough to communicate: with eight 16-byte loads in flight a thread, 132 SMs have 1 MiB in flight, about what
// 1 TB/s takes at a microsecond, and links give less than half of that. A warpgroup more would leave each thread 128
// registers at the start, and an m64n256 wgmma does not compile with fewer than 154.
//
// Waits between roles are not bounded: they depend on roles of this CTA (and its cluster) alone, and each role walks its
// schedule to the end, after an abort too: a loader that gives up on a peer's rows marks the block as not live instead, and
// a storer drops what it takes. Only waits on other ranks are bounded, as everywhere.
#pragma once
#include "kernels/partials.h"
#include "tile/sm90_chunks.h"

namespace tw {
constexpr uint32_t kSm90Threads = 128 * (1 + kSm90MathGroups);

// Registers of a thread by role. A CTA has 504 for a thread of each warpgroup; math needs 154 at least, for one wgmma.
template <uint32_t kOfMove>
struct Sm90Registers {
  static constexpr uint32_t kMove = kOfMove, kMath = (65536 / kSm90Threads / 8 * 8 * 3 - kMove) / 2;
  static constexpr uint32_t kRest = 65536 / kSm90Threads / 8 * 8;  // of all threads alike
  static_assert(kMove % 8 == 0 && kMath % 8 == 0 && kMath >= 160 && kMove < kRest && kRest < kMath, "Sm90Registers");
};
using Sm90Plain = Sm90Registers<40>;     // only loads and stores
using Sm90Pushes = Sm90Registers<104>;   // pushes rows
using Sm90Adds = Sm90Registers<136>;     // adds partials
using Sm90Reduces = Sm90Registers<152>;  // adds partials, sends and takes in results

// Runs each role on its warps. All join at the end; `talk(join)` has more to do behind that: to end the operation.
template <class Tile, class Registers, class Load, class Store, class Math, class Talk>
TW_DEV void sm90_roles(Load load, Store store, Math math, Talk talk) {
  const auto join = [] {
    mx::warp_sync();  // mostly one lane has worked; barriers want the warp together
    mx::cta_sync(Site::LastBarrier);
    Sm90Ring<Tile>::leave();
  };
  Sm90Ring<Tile>::setup();
  const uint32_t group = mx::warp() / 4;
  if (group == 0) {
    mx::reg_dealloc<Registers::kMove>();
    if (mx::warp() >= 2) {
      talk(join);
    } else {
      if (mx::warp() == 0) load();
      if (mx::warp() == 1) store();
      join();
    }
  } else {
    mx::reg_alloc<Registers::kMath>();
    math();
    join();
  }
}

// The same, and what all threads do then.
template <class Tile, class Registers, class Load, class Store, class Math, class Talk, class Rest>
TW_DEV void sm90_roles(Load load, Store store, Math math, Talk talk, Rest rest) {
  sm90_roles<Tile, Registers>(load, store, math, talk);
  if (mx::warp() / 4 == 0) {
    mx::reg_alloc<Registers::kRest>();
  } else {
    mx::reg_dealloc<Registers::kRest>();
  }
  rest();
}

// A loader's x: boxes of `map_x` from row `row` on.
TW_DEV auto load_x_rows(const TwParams& p, uint32_t row) {
  return [&p, row](saddr to, uint32_t k, saddr bar) { mx::tma_load_2d(to, p.map_x, k, row, bar); };
}

// A storer's partial: a block's chunks to `slot`, in staging of rank `owner` or, where it is kept, of this one; then the signal that publishes it.
// The order of the async proxy: every writer has fenced before its arrival at the chunk's mbarrier, this thread issues the
// copies and waits until they are written, and releases. A release before that would publish nothing.
template <class Tile, class Partial>
TW_DEV void store_partial(Session<OneWarp>& s, const Partial& t, gaddr slot, const WireFormat<typename Tile::Type>& wire,
                          uint32_t signal, ChunkReader<Tile>& chunks) {
  const uint32_t owner = t.owner;
  const ChunkGrid<Tile> grid(t.block, wire.wide);
  bool begun = false;
  const bool remote = owner != s.p.group.rank && !keeps(s.p), counted = leaves(s.p, owner);
  chunks.each(
      grid, [](uint32_t) { return true; },
      [&](uint32_t wg, uint32_t c, saddr from) {
        if (!begun) s.stamps.begin(TW_STAMP_PUSH, t.index, owner);
        begun = true;
        if (!s.alive) return;
        const uint32_t payload = grid.rows_in(wg) * grid.cols_in(wg, c) * wire.element_bytes();
        if (remote) mx::payload(payload);
        if (counted) s.bytes += payload;
        const uint32_t place = fragment_place<Tile::kN / kGroupColumns>(grid.row(wg) / kFragmentRows, 0, grid.col(wg, c) / kGroupColumns, 0);
        mx::bulk_store(slot + uint64_t(place) * wire.octet_bytes(), from, kSm90ChunkBytes);
      });
  mx::bulk_wait<0>(Site::BulkWait);
  s.signal(owner, signal);
  s.stamps.end();
}

// A storer's block of the output.
template <class Tile>
TW_DEV void store_block(const TwParams& p, uint32_t rows, uint32_t index, const Block& b, ChunkReader<Tile>& chunks,
                        Stamps<OneWarp>& stamps) {
  bool begun = false;
  store_output<Tile>(p, rows, b, chunks, [&] {
    if (!begun) stamps.begin(TW_STAMP_STORE, index);
    begun = true;
  });
  if (begun) stamps.end();
}

// Math of a partial.
template <class Tile>
TW_DEV void multiply_partial(const TwParams& p, uint32_t index, const Block& b, Sm90Ring<Tile>& ring, ChunkWriter<Tile>& chunks,
                             Stamps<Sm90Math>& stamps) {
  typename Tile::Values values;
  const bool live = ring.multiply(p.k, values, [&] { stamps.begin(TW_STAMP_MATH, index); });
  if (!live) return stamps.end();
  stamps.next(TW_STAMP_STORE);
  if (p.desc.wire == TW_F32) {
    write_partial<Tile, true>(p, b, values, chunks);
  } else {
    write_partial<Tile, false>(p, b, values, chunks);
  }
  stamps.end();
}

// Math of a block of the output. kWide: which may be f32, without an epilogue then. kActivates: which may have one.
template <class Tile, bool kWide, bool kActivates>
TW_DEV void multiply_output(const TwParams& p, uint32_t rows, uint32_t index, const Block& b, Sm90Ring<Tile>& ring,
                            ChunkWriter<Tile>& chunks, Stamps<Sm90Math>& stamps) {
  typename Tile::Values values;
  const bool live = ring.multiply(p.k, values, [&] { stamps.begin(TW_STAMP_MATH, index); });
  stamps.next(TW_STAMP_STORE);
  if (kWide && p.desc.wire == TW_F32) {
    write_output<Tile, kWide>(p, rows, b, values, live, chunks);
  } else if (kActivates && p.desc.epilogue == TW_EPILOGUE_GELU) {
    write_activated<Tile, true>(p, rows, b, values, live, chunks);
  } else if (kActivates && p.desc.epilogue) {
    write_activated<Tile, false>(p, rows, b, values, live, chunks);
  } else {
    write_output<Tile, false>(p, rows, b, values, live, chunks);
  }
  stamps.end();
}
}  // namespace tw
