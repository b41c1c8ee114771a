// GEMM+RS and RS: every rank pushes its partial of a block to the block's owner; the owner, which computes its own blocks
// last, adds the partials in rank order from its staging and its own registers, and writes once. schedule/scatter.h has
// the order; an owner's wait depends on pushes only, and those stand before it in every rank's order.
#pragma once
#include "kernels/partials.h"
#include "schedule/scatter.h"

namespace tw {

template <class Source>
TW_DEV void reduce_own(Session& s, const ScatterOrder& order, const ScatterTile& t, const typename Source::Values& values,
                       const WireFormat<typename Source::Type>& wire) {
  const TwParams& p = s.p;
  s.await_peers(TW_WAIT_PARTIAL, t.slot, [&](uint32_t peer) { return peer * order.slots() + t.slot; });
  Sum<Source> sum;
  for (uint32_t r = 0; s.alive && r < p.group.world; ++r) {
    const Slot<Source> from = {own_heap(p) + staging_at(p, s.round) +
                                   (uint64_t(r) * order.slots() + t.slot) * Slot<Source>::bytes(wire), wire};
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (!exists<Source>(p, t.block, v)) continue;
      Octet o;
      if (r == p.group.rank) {
        o = Source::partial(p, t.block, values, v);
        wire.round(o);
      } else {
        o = wire.load(from.octet(v));
      }
      sum.add(v, o, r == 0);
    }
  }
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    if (exists<Source>(p, t.block, v)) add_bias<typename Source::Type>(p, Source::columns(p, t.block, v), sum.o[v]);
  }
  store_block<Source>(s, t.block, t.block.row - chunk_of(p.m, p.chunk, p.group.rank).begin, sum);
}

template <class Source>
TW_DEV void reduce_scatter(const TwParams& p) {
  Session s(p);
  const WireFormat<typename Source::Type> wire(p.desc.wire);
  const ScatterOrder order = {p.m, p.n, p.chunk, p.panel, p.group.world, p.group.rank, Source::kM, Source::kN};
  const uint64_t slot_bytes = Slot<Source>::bytes(wire), used = slot_bytes * order.positions();
  for (uint32_t q = 0; q < p.panels; ++q) {
    s.open_round(q);
    for (uint32_t f = mx::block(); f < order.positions(); f += mx::grid()) {
      const ScatterTile t = order.at(q, f);
      if (!t.block.rows) continue;
      typename Source::Values values;
      Source::compute(p, t.block, values);
      if (t.owner == p.group.rank) {
        reduce_own<Source>(s, order, t, values, wire);
      } else {
        const uint32_t index = p.group.rank * order.slots() + t.slot;
        const gaddr to = heap_of(p, t.owner) + staging_at(p, s.round) + index * slot_bytes;
        push_partial<Source>(s, t.block, values, {to, wire}, true);
        s.publish(t.owner, index);
      }
    }
    s.close_round(q, used);
  }
  s.finish(used);
}
}  // namespace tw
