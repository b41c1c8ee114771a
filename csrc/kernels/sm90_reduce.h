// GEMM+RS and GEMM+AR on Hopper. Math never waits for a peer: partials, the rank's own too, leave as chunks by bulk copies
// into the owner's staging, and the communicator of each CTA reduces what its rank owns of the CTA's blocks, as the portable
// kernels do (kernels/reduce_scatter.h, all_reduce.h), while the next blocks are computed. Behind its last product nothing is
// left to overlap with: of a reduce-scatter all threads of the CTA reduce its last block.
//
// Why a wait of a role can never close a circle: math and loader wait for none but roles of their CTA; the storer for
// chunks, and for credits before it enters a staging half again; a communicator for partials, which storers send without
// waiting for any communicator but through credits, and for results of earlier steps; credits of a round need only that
// round's reductions.
//
// Of an all-reduce there is a second variant (`TwParams::reducers`): the last CTAs of the grid compute nothing; with all
// of their threads they reduce and collect what the others' blocks come to, a share of every wave each, and the others'
// communicators only begin and end the operation. Waits, slots, signals and the order of waves are the same; waves count
// computing CTAs alone, so a rank may run the portable twin on as many. A reducing CTA waits only for storers, which it
// never holds up but through credits, and for reductions that stand earlier in the order than what it does itself; all CTAs
// are resident. The credit of a round is given by those who read its staging: the reducing CTAs.
#pragma once
#include "kernels/all_reduce.h"
#include "kernels/reduce_scatter.h"
#include "kernels/sm90_roles.h"

namespace tw {

// What those who reduce hold of a block. They have registers for the next rank's octets, too.
template <class Fragments>
struct FragmentSource : GemmSource<Fragments> {
  static constexpr bool kAhead = true, kRows = true;
};

// `Walk::each(p, open, body)` calls open(q) at the start of every round and body(tile, slot, signal) for every
// block of this CTA; `Walk::talk` is what the communicator does and, where `kRests`, `Walk::rest` what all threads do behind it.
template <class Tile>
struct ScatterWalk {
  using Source = FragmentSource<Sm90Fragments<Tile>>;
  template <class Open, class Body>
  static TW_DEV void each(const TwParams& p, Open open, Body body) {
    const ScatterOrder order = scatter_order<Source>(p);
    const ScatterSlots<Source> slots(p);
    for (uint32_t q = 0; q < p.panels; ++q) {
      const uint64_t round = open(q);
      for (uint32_t f = mx::block(); f < order.positions(); f += mx::grid()) {
        if (!order.at(q, leader_of(f, mx::cluster_size())).block.rows) continue;
        const ScatterTile t = order.at(q, f);
        body(t, slots.slot(round, p.group.rank, t).base, slots.index(p.group.rank, t));
      }
    }
  }
  using Registers = Sm90Adds;
  static TW_DEV bool only_reduces(const TwParams&) { return false; }
  template <class Join>
  static TW_DEV void talk(const TwParams& p, Join join) {
    ReduceScatter<Source> work(p);
    work.reduce_but_last();
    join();
  }
  static constexpr bool kRests = true;
  static TW_DEV void rest(const TwParams& p) {
    ReduceScatter<FragmentSource<Sm90Spread<Tile>>> work(p, Part::Follows);
    work.reduce_last();
    work.finish();
  }
};

template <class Tile>
struct WaveWalk {
  using Source = FragmentSource<Sm90Fragments<Tile>>;
  template <class Open, class Body>
  static TW_DEV void each(const TwParams& p, Open open, Body body) {
    const WaveOrder order = wave_order<Source>(p);
    const WaveSlots<Source> slots(p);
    for (uint32_t q = 0; q < p.panels; ++q) {
      const uint64_t round = open(q);
      for (uint32_t i = 0; i < waves_of(p, q); ++i) {
        const uint32_t wave = q * p.panel + i;
        if (!order.at(wave, leader_of(mx::block(), mx::cluster_size())).block.rows) continue;
        const WaveTile t = order.at(wave, mx::block());
        body(t, slots.partial(round, p.group.rank, t).base, slots.partial_index(p.group.rank, t));
      }
    }
  }
  using Registers = Sm90Reduces;
  // Whether this CTA only reduces; it has done so then. Its cluster does alike: nobody meets it there.
  static TW_DEV bool only_reduces(const TwParams& p) {
    const uint32_t computing = mx::grid() - p.reducers;
    if (mx::block() < computing) return false;
    AllReduce<FragmentSource<Sm90Spread<Tile>>> work(p);
    work.reduce_share({mx::block() - computing, p.reducers});
    work.finish();
    return true;
  }
  template <class Join>
  static TW_DEV void talk(const TwParams& p, Join join) {
    AllReduce<Source> work(p);
    if (p.reducers) {
      work.stand_by();
    } else {
      work.reduce();
    }
    join();
    work.finish();
  }
  static constexpr bool kRests = false;
};

template <class Tile, class Walk>
TW_DEV void sm90_reduce(const TwParams& p) {
  if (Walk::only_reduces(p)) return;
  const auto no_round = [](uint32_t) -> uint64_t { return 0; };
  const auto load = [&] {
    mx::elect([&] {
      Sm90Ring<Tile> ring;
      Walk::each(p, no_round, [&](const auto& t, gaddr, uint32_t) {
        ring.load(p, {0, p.k}, t.block.col, t.block.rows != 0, load_x_rows(p, t.block.row));
      });
    });
  };
  const auto store = [&] {
    Session<OneWarp> s(p, Part::Assists);
    ChunkReader<Tile> chunks;
    const WireFormat<typename Tile::Type> wire(p.desc.wire);
    const auto open = [&](uint32_t q) {
      s.open_round(q);
      // The peers' reads that a credit tells of were ordinary ones; bulk copies over them are not.
      if (q != 0) mx::fence_async_global(Site::None);
      return s.round;
    };
    Walk::each(p, open, [&](const auto& t, gaddr slot, uint32_t signal) {
      if (t.block.rows) mx::elect([&] { store_partial<Tile>(s, t, slot, wire, signal, chunks); });
    });
    s.count_sent();
    s.stamps.close();
  };
  const auto math = [&] {
    Sm90Ring<Tile> ring;
    ChunkWriter<Tile> chunks;
    Stamps<Sm90Math> stamps(p);
    Walk::each(p, no_round, [&](const auto& t, gaddr, uint32_t) {
      multiply_partial<Tile>(p, t.index, t.block, ring, chunks, stamps);
    });
    stamps.close();
  };
  const auto talk = [&](auto join) { Walk::talk(p, join); };
  if constexpr (Walk::kRests) {
    sm90_roles<Tile, typename Walk::Registers>(load, store, math, talk, [&] { Walk::rest(p); });
  } else {
    sm90_roles<Tile, typename Walk::Registers>(load, store, math, talk);
  }
}
}  // namespace tw
