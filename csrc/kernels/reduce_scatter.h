// GEMM+RS and RS: every rank pushes its partial of a block to the block's owner; the owner, which computes its own blocks
// last, adds the partials in rank order from its staging and writes once. schedule/scatter.h has the order; an owner's
// wait depends on pushes only, and no rank waits between its pushes of a round.
#pragma once
#include "kernels/partials.h"
#include "schedule/scatter.h"

namespace tw {

template <class Source>
TW_DEV void reduce_scatter(const TwParams& p) {
  Session s(p);
  const WireFormat<typename Source::Type> wire(p.desc.wire);
  const ScatterOrder order = {p.m, p.n, p.chunk, p.panel, p.group.world, p.group.rank,
                              Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.slots};
  const uint64_t slot_bytes = Slot<Source>::bytes(wire), used = slot_bytes * order.positions();
  for (uint32_t q = 0; q < p.panels; ++q) {
    s.open_round(q);
    for (uint32_t f = mx::block(); f < order.positions(); f += mx::grid()) {
      const ScatterTile t = order.at(q, f);
      if (!t.block.rows) continue;
      typename Source::Values values;
      Source::compute(p, t.block, values);
      const auto index_of = [&](uint32_t source) { return source * p.slots + t.slot; };
      const auto slot_of = [&](uint32_t source) {
        return Slot<Source>{heap_of(p, t.owner) + staging_at(p, s.round) + index_of(source) * slot_bytes, wire};
      };
      const bool own = t.owner == p.group.rank;
      push_partial<Source>(s, t.block, values, slot_of(p.group.rank), !own);
      if (!own) {
        s.publish(t.owner, index_of(p.group.rank));
        continue;
      }
      s.await_peers(TW_WAIT_PARTIAL, t.slot, index_of);
      const uint32_t row0 = t.block.row - chunk_of(p.m, p.chunk, p.group.rank).begin;
      TW_NO_UNROLL
      for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
        Group<Source> sum;
        sum_partials<Source>(s, t.block, v0, slot_of, sum);
        store_group<Source>(s, t.block, v0, row0, sum);
      }
    }
    s.close_round(q, used);
  }
  s.finish(used);
}
}  // namespace tw
