// GEMM+AR and AR, two-shot: every block's partials go to its owner, which adds them in rank order and sends the result to
// all. All ranks walk one order (schedule/waves.h); a CTA's actions, by step i:
//
//     push(i)               its partial of wave i's block, to the owner (its own to its own staging)
//     reduce(i - window)    if it owns that block: wait for the peers' partials, add (its residual, too), write, send the result
//     collect(i - 2 window) if another owns that block: wait for the result, write
//
// so that a wait finds what it waits for sent `window` steps ago. reduce(w) depends on the peers' push(w), collect(w) on
// the owner's reduce(w): earlier actions in the one order. No wait precedes the push it depends on, on any rank: nothing can
// deadlock.
//
// `run` is all of it. Where other roles compute and push, own partials too, there is the rest: `reduce`, of the CTA's
// own blocks; or, where CTAs of their own do nothing else, `reduce_share`, of every wave those of a share
// (schedule/waves.h), and `stand_by` for the CTAs that compute. A share's actions stand in the same order and depend on
// the same, whichever CTA of a rank does them: so each rank may have them done by other CTAs.
//
// Where partials and results lie: protocol/exchange.h. Those who have written the output run the tail, if there is one.
#pragma once
#include "kernels/partials.h"
#include "kernels/tail.h"
#include "schedule/waves.h"

namespace tw {

template <class Source>
TW_DEV WaveOrder wave_order(const TwParams& p) {
  const uint32_t computing = mx::grid() - p.reducers;
  return {p.m, p.n, p.panel, p.group.world, computing, Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.tiles, p.wave_slots};
}
// The waves of round `q`: from q * panel on.
TW_DEV uint32_t waves_of(const TwParams& p, uint32_t q) { return min_u32(p.waves - min_u32(p.waves, q * p.panel), p.panel); }

// Where the partials and the results of a round lie.
template <class Source>
struct WaveSlots {
  using T = typename Source::Type;
  const TwParams& p;
  const WireFormat<T> wire, result_wire;
  const uint64_t slot_bytes, result_bytes;
  TW_DEV explicit WaveSlots(const TwParams& params)
      : p(params), wire(p.desc.wire), result_wire(p.desc.dtype), slot_bytes(Slot<Source>::bytes(wire)),
        result_bytes(Slot<Source>::bytes(result_wire)) {}
  TW_DEV uint64_t bytes() const { return p.group.world * p.slots * slot_bytes + p.result_slots * result_bytes; }
  TW_DEV uint32_t partial_index(uint32_t source, const WaveTile& t) const { return source * p.slots + t.slot; }
  TW_DEV uint32_t result_index(const WaveTile& t) const { return p.group.world * p.slots + t.result_slot; }
  TW_DEV Slot<Source> partial(uint64_t round, uint32_t source, const WaveTile& t) const {
    return {partial_heap(p, source, t.owner) + staging_at(p, round) + partial_at(p, source, t.owner, p.slots, t.slot) * slot_bytes, wire};
  }
  TW_DEV Slot<Source> result(uint64_t round, uint32_t on, const WaveTile& t) const {
    return {heap_or_switch(p, on) + staging_at(p, round) + uint64_t(p.group.world) * p.slots * slot_bytes +
                t.result_slot * result_bytes, result_wire};
  }
};

template <class Source>
class AllReduce {
  Session<typename Source::Team> s;
  const TwParams& p;
  const WaveOrder order;
  const WaveSlots<Source> slots;

 public:
  TW_DEV explicit AllReduce(const TwParams& params) : s(params), p(params), order(wave_order<Source>(params)), slots(params) {}

  TW_DEV void run() {
    for (uint32_t q = 0; q < p.panels; ++q) {
      s.open_round(q);
      const uint32_t first = q * p.panel, waves = waves_of(p, q);
      for (uint32_t i = 0; waves && i < waves + 2 * p.window; ++i) {
        if (i < waves) push(order.at(first + i, mx::block()));
        if (i >= p.window && i - p.window < waves) reduce_block(order.at(first + i - p.window, mx::block()), false);
        if (i >= 2 * p.window) collect(order.at(first + i - 2 * p.window, mx::block()));
      }
      s.close_round(q, slots.bytes());
    }
    run_tail<Source>(s, mx::block(), mx::grid());
    finish();
  }

  TW_DEV void reduce() {
    for (uint32_t q = 0; q < p.panels; ++q) {
      s.open_round(q);
      const uint32_t first = q * p.panel, waves = waves_of(p, q);
      for (uint32_t i = 0; waves && i < waves + p.window; ++i) {
        if (i < waves) reduce_block(order.at(first + i, mx::block()), true);
        if (i >= p.window) collect(order.at(first + i - p.window, mx::block()));
      }
      s.close_round(q, slots.bytes());
    }
    run_tail<Source>(s, mx::block(), mx::grid());
  }

  TW_DEV void reduce_share(const Reducer& share) {
    const uint32_t own = p.group.rank, world = p.group.world;
    for (uint32_t q = 0; q < p.panels; ++q) {
      s.open_round(q);
      const uint32_t first = q * p.panel, waves = waves_of(p, q);
      for (uint32_t i = 0; waves && i < waves + p.window; ++i) {
        const uint32_t here = first + i, before = here - p.window;
        for (uint32_t g = share.first(order, here); i < waves && g < p.wave_slots; g += share.count) {
          reduce_block(order.of_owner(here, g, own), true);
        }
        if (i < p.window) continue;
        for (uint32_t g = share.first(order, before); g < p.wave_slots; g += share.count) {
          for (uint32_t d = 1; d < world; ++d) collect(order.of_owner(before, g, (own + d) % world));
        }
      }
      s.close_round(q, slots.bytes());
    }
    run_tail<Source>(s, share.number, share.count);
  }
  TW_DEV void stand_by() {
    for (uint32_t q = 0; q < p.panels; ++q) s.enter_round(q);
  }
  TW_DEV void finish() { s.finish(slots.bytes()); }

 private:
  TW_DEV void push(const WaveTile& t) {
    if (!t.block.rows) return;
    typename Source::Values values;
    if (Source::kMultiplies) s.stamps.begin(TW_STAMP_MATH, t.index);
    Source::compute(p, t.block, values);
    s.stamps.begin(TW_STAMP_PUSH, Source::kMultiplies ? TW_STAMP_SAME : t.index, t.owner);
    push_partial<Source>(s, t.block, values, slots.partial(s.round, p.group.rank, t), t.owner);
    if (leaves(p, t.owner)) s.publish(t.owner, slots.partial_index(p.group.rank, t));
    s.stamps.end();
  }

  // Own partials that this thread has written need no signal; those of other roles do, and those that it reads by
  // another name.
  TW_DEV void reduce_block(const WaveTile& t, bool own_too) {
    if (!t.block.rows || t.owner != p.group.rank) return;
    own_too = own_too || in_switch(p);
    s.await_ranks(TW_WAIT_PARTIAL, t.index, own_too, [&](uint32_t rank) { return slots.partial_index(rank, t); });
    s.stamps.begin(TW_STAMP_REDUCE, t.index);
    TW_NO_UNROLL
    for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
      Group<Source> sum;
      sum_partials<Source, true>(s, t.block, v0, t.block.row, [&](uint32_t r) { return slots.partial(s.round, r, t); }, sum);
      send_result(t, v0, sum);
      store_group<Source>(s, t.block, v0, t.block.row, sum);
    }
    s.publish_all(slots.result_index(t));
    s.stamps.end();
  }

  TW_DEV void send_result(const WaveTile& t, uint32_t v0, const Group<Source>& sum) {
    if (!s.alive) return;
    // One store serves all but those who are pushed to. A pulled result crosses a link for every rank that loads it.
    const uint32_t receivers = p.group.world - 1, stores = keeps(p) ? 1 : receivers;
    for (uint32_t d = 1; d <= stores; ++d) {  // the next rank first: P owners, P receivers
      const uint32_t on = in_switch(p) ? kSwitch : pulls(p) ? p.group.rank : (p.group.rank + d) % p.group.world;
      const Slot<Source> to = slots.result(s.round, on, t);
      const uint32_t each = (pulls(p) ? receivers : 1) * to.wire.element_bytes();
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
        if (!exists<Source>(p, t.block, v0 + i)) continue;
        const uint32_t count = Source::columns(p, t.block, v0 + i).count();
        if (in_switch(p)) {
          to.wire.store_to_all(to.octet(v0 + i), sum.o[i], count);
        } else {
          to.wire.store(to.octet(v0 + i), sum.o[i], count);
        }
        s.bytes += count * each;
      }
    }
  }

  TW_DEV void collect(const WaveTile& t) {
    if (!t.block.rows || t.owner == p.group.rank) return;
    s.await_peer(TW_WAIT_RESULT, t.owner, t.index, slots.result_index(t));
    s.stamps.begin(TW_STAMP_COLLECT, t.index, t.owner);
    const Slot<Source> from = slots.result(s.round, pulls(p) ? t.owner : p.group.rank, t);
    TW_NO_UNROLL
    for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
      Group<Source> result;
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
        const bool there = s.alive && exists<Source>(p, t.block, v0 + i);
        const uint32_t columns = Source::columns(p, t.block, v0 + i).count();
        result.o[i] = there ? from.wire.load(from.octet(v0 + i), columns) : nan_octet();
      }
      store_group<Source>(s, t.block, v0, t.block.row, result);
    }
    s.stamps.end();
  }
};
}  // namespace tw
