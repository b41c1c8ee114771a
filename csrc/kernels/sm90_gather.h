// AG+GEMM on Hopper. The communicator of every CTA pushes its share of this rank's rows, piece by piece, to all peers; the
// loader takes the blocks of its own rank's rows from x at once and those of a peer from staging, as soon as their pieces
// have been signalled. Staging was written by ordinary stores and is read by TMA: between the acquire and the loads stands a
// proxy fence.
//
// A round's staging is dead when all its TMA loads have completed, which the math warps know, who have waited for each:
// they tell the communicator, which then gives the credit. It asks for a round's end after it has pushed the next one,
// whose rows travel meanwhile. A CTA without peers' rows could multiply through all rounds before its communicator has
// pushed the first, and an mbarrier tells two phases apart, not three: so the communicator arrives, too, and both it and
// math arrive for a round once they have seen the end of the round before.
//
// An epilogue is for blocks of at most 128 columns: with 256, two roles that are short of registers would have to spill.
#pragma once
#include "kernels/gather_push.h"
#include "kernels/sm90_roles.h"

namespace tw {

template <class Tile>
struct GatherWalk {
  const TwParams& p;
  const GatherOrder order;
  TW_DEV explicit GatherWalk(const TwParams& params)
      : p(params), order(gather_order(params, Tile::kM, Tile::kN, params.tiles_n)) {}

  // body(tile) for every block of this CTA in round q.
  template <class Body>
  TW_DEV void each(uint32_t q, Body body) const {
    for (uint32_t f = mx::block(); f < order.positions(); f += mx::grid()) {
      if (order.at(q, leader_of(f, mx::cluster_size())).block.rows) body(order.at(q, f));
    }
  }
};

// The loader's part of one block. All lanes wait for the peer's pieces, a lane each; lane 0 loads.
template <class Tile>
TW_DEV void load_gathered(Session<OneWarp>& s, const GatherWalk<Tile>& walk, const GatherStaging<typename Tile::Type>& staging,
                          const GatherTile& t, Sm90Ring<Tile>& ring) {
  const TwParams& p = s.p;
  const bool own = t.source == p.group.rank;
  if (!own && t.block.rows) {
    s.await_peer(TW_WAIT_ROWS, t.source, t.row_block, walk.order.signal(t.source, t.row_block, 0),
                 walk.order.pieces_in(t.block.rows));
  }
  mx::elect([&] {
    if (own) {
      ring.load(p, {0, p.k}, t.block.col, t.block.rows != 0, load_x_rows(p, t.block.row - staging.own_begin));
      return;
    }
    mx::fence_async_global(Site::RowsFence);
    const uint32_t half = s.round & 1;
    ring.load(p, {0, p.k}, t.block.col, s.alive && t.block.rows, [&](saddr to, uint32_t k, saddr bar) {
      mx::tma_load_4d(to, p.map_gathered, k, t.local_row, t.source, half, bar);
    });
  });
}

template <class Tile>
TW_DEV void sm90_gather(const TwParams& p) {
  using T = typename Tile::Type;
  const GatherWalk<Tile> walk(p);
  sm90_roles<Tile, Sm90Pushes>(
      [&] {
        Session<OneWarp> s(p, Part::Assists);
        Sm90Ring<Tile> ring;
        const GatherStaging<T> staging(p, walk.order);
        for (uint32_t q = 0; q < p.panels; ++q) {
          s.enter_round(q);
          walk.each(q, [&](const GatherTile& t) { load_gathered<Tile>(s, walk, staging, t, ring); });
        }
        s.stamps.close();
      },
      [&] {
        mx::elect([&] {
          ChunkReader<Tile> chunks;
          Stamps<OneWarp> stamps(p);
          for (uint32_t q = 0; q < p.panels; ++q) {
            walk.each(q, [&](const GatherTile& t) {
              if (t.block.rows) store_block<Tile>(p, p.m, t.index, t.block, chunks, stamps);
            });
          }
          stamps.close();
        });
      },
      [&] {
        Sm90Ring<Tile> ring;
        ChunkWriter<Tile> chunks;
        Stamps<Sm90Math> stamps(p);
        for (uint32_t q = 0; q < p.panels; ++q) {
          walk.each(q, [&](const GatherTile& t) {
            multiply_output<Tile, false, Tile::kN <= 128>(p, p.m, t.index, t.block, ring, chunks, stamps);
          });
          mx::elect([&] {
            if (q != 0) mx::mbar_wait(Sm90Ring<Tile>::round_read(), (q - 1) & 1, Site::RoundRead);
            mx::mbar_arrive(Sm90Ring<Tile>::round_read(), Site::RoundRead);
          });
          mx::warp_sync();  // wgmma wants the warp together
        }
        stamps.close();
      },
      [&](auto join) {
        Session<Sm90Talk> s(p);
        const GatherStaging<T> staging(p, walk.order);
        // As in the portable kernel: a rank without columns has no say in when its staging is dead.
        const uint64_t used = walk.order.positions() ? staging.bytes() : 0;
        for (uint32_t q = 0; q < p.panels; ++q) {
          s.open_round(q);
          push_rows(s, walk.order, staging, q, mx::block(), mx::grid());
          if (q != 0) {
            mx::mbar_wait(Sm90Ring<Tile>::round_read(), (q - 1) & 1, Site::RoundRead);
            s.close_previous(used);
          }
          // The barrier of close_previous: this round cannot end before all have seen the last one's end.
          Sm90Talk::one([&] { mx::mbar_arrive(Sm90Ring<Tile>::round_read(), Site::RoundRead); });
        }
        join();
        s.finish(used);
      });
}
}  // namespace tw
