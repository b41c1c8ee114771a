// Split-K: for few rows, where blocks are fewer than SMs, several CTAs share a block. Its K is cut in ranges
// (schedule/split.h); the CTAs of the grid walk the items (block, range), ranges of a block next to each other:
//
//   compute the item's product; write it to split_space, in the order the threads hold it
//   CTA barrier (SplitBarrier); one thread adds 1 to the block's counter, acq_rel (SplitArrive)
//   who finds S - 1 there is the block's last: CTA barrier (SplitArrived); add the S products from memory, range 0 first,
//   its own from memory, too, so that the order is the ranges' and not the arrivals'; set the counter back to 0
//
// Nobody waits for another CTA: the last one does the work. The S - 1 others' writes happen before its reads: writes ->
// barrier -> arrival -> (release sequence of the counter) -> last arrival -> barrier -> reads.
//
// Counters rest at 0: every launch walks all of its items, whatever it has heard of an abort, since no item waits. So a
// block's counter is counted up S times and set back once, by the last, and the next launch, later in the stream, finds
// 0: after a failed operation and in a replay of a captured launch, too. Each has 8 bytes to itself, the unit in which the
// simulated machine follows what was released: setting one back is a plain store, and says nothing of its neighbour.
#pragma once
#include "kernels/partials.h"

namespace tw {

// Products of the mainloop that all threads of the CTA run. Others have the same two functions; `begun` is called when the first
// operands are there.
template <class Source>
struct Computed {
  const TwParams& p;
  template <class Begun>
  TW_DEV void whole(const Block& b, typename Source::Values& values, Begun begun) {
    if (Source::kMultiplies) begun();
    Source::compute(p, b, values);
  }
  template <class Begun>
  TW_DEV void range(const Block& b, uint32_t s, typename Source::Values& values, Begun begun) {
    begun();
    Source::compute_split(p, b, s, values);
  }
};

// The items: blocks that are taken together (`p.cluster`) stay neighbours, range after range.
struct Items {
  uint32_t tiles, splits, cluster;
  constexpr uint32_t count() const { return tiles * splits; }
  constexpr uint32_t block(uint32_t item) const { return item / cluster / splits * cluster + item % cluster; }
  constexpr uint32_t range(uint32_t item) const { return item / cluster % splits; }
  // The item of range 0 of the same block; the others follow at a distance of `cluster`.
  constexpr uint32_t first(uint32_t item) const { return item - range(item) * cluster; }
};

template <class Source>
class SplitK {
  using Team = typename Source::Team;
  const TwParams& p;

 public:
  const Items items;

  // A block's products, added: what `Source::partial` takes in the place of computed values.
  struct Sum {
    Octet o[Source::kOctets];
    TW_DEV Octet octet(uint32_t v) const { return o[v]; }
  };

  TW_DEV explicit SplitK(const TwParams& params) : p(params), items{params.tiles, params.splits, params.cluster} {}

  // Computes an item of `block`. True, in all threads of the team, for the block's last: `sum` is complete.
  template <class Product>
  TW_DEV bool complete(uint32_t item, const Block& block, Product& product, Stamps<Team>& stamps, Sum& sum) {
    typename Source::Values values;
    product.range(block, items.range(item), values, [&] { stamps.begin(TW_STAMP_MATH, item); });
    stamps.next(TW_STAMP_STORE);
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (exists<Source>(p, block, v)) store(item, v, values.octet(v));
    }
    Team::sync(Site::SplitBarrier);
    const gaddr counter = p.split_space + uint64_t(items.block(item)) * 8;
    bool last = false;
    Team::one([&] { last = mx::atom_add_acq_rel_gpu(counter, 1, Site::SplitArrive) == p.splits - 1; });
    if (!Team::sync_or(last, Site::SplitArrived)) return false;
    Team::one([&] { mx::st_global_b32(counter, 0); });  // all S have arrived: nobody counts here before the next launch
    add_up(items.first(item), block, sum);
    return true;
  }

 private:
  // Half `h` of octet v: vectors of neighbouring threads are neighbours.
  TW_DEV gaddr at(uint32_t item, uint32_t v, uint32_t h) const {
    const uint64_t vector = (uint64_t(item) * Source::kOctets + v) * 2 + h;
    return p.split_space + TW_SPLIT_BLOCKS * 8 + (vector * Source::kThreads + Team::thread()) * 16;
  }
  TW_DEV void store(uint32_t item, uint32_t v, const Octet& o) {
    mx::st_global_v4(at(item, v, 0), f32_half(o, 0));
    mx::st_global_v4(at(item, v, 1), f32_half(o, 1));
  }
  TW_DEV Octet load(uint32_t item, uint32_t v) const {
    Octet o;
    f32_half(mx::ld_global_v4(at(item, v, 0)), o, 0);
    f32_half(mx::ld_global_v4(at(item, v, 1)), o, 1);
    return o;
  }

  // Range by range, all octets of one together: so many loads are under way at once.
  TW_DEV void add_up(uint32_t first, const Block& block, Sum& sum) const {
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (exists<Source>(p, block, v)) sum.o[v] = load(first, v);
    }
    TW_NO_UNROLL
    for (uint32_t s = 1; mx::again(s < p.splits); ++s) {
      TW_UNROLL
      for (uint32_t v = 0; v < Source::kOctets; ++v) {
        if (exists<Source>(p, block, v)) add_to(sum.o[v], load(first + s * p.cluster, v));
      }
    }
  }
};
}  // namespace tw
