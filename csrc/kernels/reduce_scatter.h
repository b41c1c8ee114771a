// GEMM+RS and RS: every rank pushes its partial of a block to the block's owner; the owner, which computes its own blocks
// last, adds the partials in rank order from its staging and writes once. schedule/scatter.h has the order; an owner's
// wait depends on pushes only, and no rank waits between its pushes of a round.
//
// `run` does all of it with one team. Where other roles compute and push, own partials too, there is the owner's part alone:
// `reduce_but_last` by one of the roles, while others compute; and the CTA's last block, which is the rank's own if any is,
// by `reduce_last` of whoever is free then.
#pragma once
#include "kernels/partials.h"
#include "schedule/scatter.h"

namespace tw {

template <class Source>
TW_DEV ScatterOrder scatter_order(const TwParams& p) {
  return {p.m, p.n, p.chunk, p.panel, p.group.world, p.group.rank, Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.slots};
}

// Where the partials of a round lie.
template <class Source>
struct ScatterSlots {
  using T = typename Source::Type;
  const TwParams& p;
  const WireFormat<T> wire;
  const uint64_t slot_bytes;
  TW_DEV explicit ScatterSlots(const TwParams& params)
      : p(params), wire(params.desc.wire), slot_bytes(Slot<Source>::bytes(wire)) {}
  TW_DEV uint32_t index(uint32_t source, const ScatterTile& t) const { return source * p.slots + t.slot; }
  TW_DEV Slot<Source> slot(uint64_t round, uint32_t source, const ScatterTile& t) const {
    return {partial_heap(p, source, t.owner) + staging_at(p, round) + partial_at(p, source, t.owner, p.slots, t.slot) * slot_bytes, wire};
  }
};

template <class Source>
class ReduceScatter {
  Session<typename Source::Team> s;
  const TwParams& p;
  const ScatterOrder order;
  const ScatterSlots<Source> slots;
  const uint64_t used;

 public:
  TW_DEV explicit ReduceScatter(const TwParams& params, Part part = Part::Leads)
      : s(params, part), p(params), order(scatter_order<Source>(params)), slots(params), used(slots.slot_bytes * order.positions()) {}

  TW_DEV void run() {
    each_round([&](const ScatterTile& t, bool) {
      typename Source::Values values;
      if (Source::kMultiplies) s.stamps.begin(TW_STAMP_MATH, t.index);
      Source::compute(p, t.block, values);
      s.stamps.begin(TW_STAMP_PUSH, Source::kMultiplies ? TW_STAMP_SAME : t.index, t.owner);
      const bool own = t.owner == p.group.rank;
      push_partial<Source>(s, t.block, values, slots.slot(s.round, p.group.rank, t), t.owner);
      if (own) {
        reduce_block(t, false);
      } else {
        s.publish(t.owner, slots.index(p.group.rank, t));
      }
      s.stamps.end();
    });
    s.finish(used);
  }

  TW_DEV void reduce_but_last() {
    each_round([&](const ScatterTile& t, bool is_last) {
      if (t.owner == p.group.rank && !is_last) reduce_block(t, true);
    });
    s.agree();
    s.count_sent();
    s.stamps.close();
  }
  TW_DEV void reduce_last() {
    for (uint32_t q = 0; q < p.panels; ++q) s.enter_round(q);
    const ScatterTile t = last();
    if (t.owner == p.group.rank && t.block.rows) reduce_block(t, true);
  }
  TW_DEV void finish() { s.finish(used); }

 private:
  // What this CTA takes last in the last round, if only rows that do not exist; of nobody where it takes nothing.
  TW_DEV ScatterTile last() const {
    const uint32_t positions = order.positions();
    if (mx::block() >= positions) return {~0u, ~0u, 0, {0, 0, 0, 0}};
    return order.at(p.panels - 1, mx::block() + (positions - 1 - mx::block()) / mx::grid() * mx::grid());
  }

  template <class Body>
  TW_DEV void each_round(Body body) {
    for (uint32_t q = 0; q < p.panels; ++q) {
      s.open_round(q);
      for (uint32_t f = mx::block(); f < order.positions(); f += mx::grid()) {
        const ScatterTile t = order.at(q, f);
        if (t.block.rows) body(t, q + 1 == p.panels && order.positions() - f <= mx::grid());
      }
      s.close_round(q, used);
    }
  }

  // Own partials that this thread has written need no signal, those of other roles do.
  TW_DEV void reduce_block(const ScatterTile& t, bool own_too) {
    s.await_ranks(TW_WAIT_PARTIAL, t.slot, own_too, [&](uint32_t source) { return slots.index(source, t); });
    s.stamps.begin(TW_STAMP_REDUCE, t.index);
    const uint32_t row0 = t.block.row - chunk_of(p.m, p.chunk, p.group.rank).begin;
    TW_NO_UNROLL
    for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
      Group<Source> sum;
      sum_partials<Source, false>(s, t.block, v0, row0, [&](uint32_t r) { return slots.slot(s.round, r, t); }, sum);
      store_group<Source>(s, t.block, v0, row0, sum);
    }
    s.stamps.end();
  }
};
}  // namespace tw
