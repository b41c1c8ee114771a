// Partials on their way: pushed or kept by whoever computed them, summed by their owner in rank order, or by the switch.
#pragma once
#include "protocol/exchange.h"
#include "protocol/session.h"
#include "tile/fragment.h"
#include "tile/source.h"

namespace tw {

// A block's octets in a slot of staging, in the order the threads hold them: no layout changes on either side.
template <class Source>
struct Slot {
  using T = typename Source::Type;
  gaddr base;
  WireFormat<T> wire;
  static TW_DEV uint64_t bytes(const WireFormat<T>& w) { return uint64_t(Source::kElements) * w.element_bytes(); }
  TW_DEV gaddr octet(uint32_t v) const { return base + Source::place(v) * wire.octet_bytes(); }
};

template <class Source>
TW_DEV bool exists(const TwParams& p, const Block& b, uint32_t v) {
  return Source::row(p, b, v) < b.row + b.rows && Source::columns(p, b, v).any();
}

// The place among a round's partials where rank `source` leaves that of `owner`'s block number `slot`, of `slots`; and in
// whose heap.
TW_DEV uint64_t partial_at(const TwParams& p, uint32_t source, uint32_t owner, uint32_t slots, uint32_t slot) {
  return uint64_t(keeps(p) ? owner : source) * slots + slot;
}
TW_DEV gaddr partial_heap(const TwParams& p, uint32_t source, uint32_t owner) {
  return heap_or_switch(p, keeps(p) ? source : owner);
}
// What a rank's partial for `owner` costs its links: what it keeps is moved by others, or by the switch, which takes the
// owner's own too.
TW_DEV bool leaves(const TwParams& p, uint32_t owner) { return owner != p.group.rank || in_switch(p); }

// Writes this rank's partial of a block to its slot, in the owner's heap or its own.
template <class Source>
TW_DEV void push_partial(Session<typename Source::Team>& s, const Block& b, const typename Source::Values& values, const Slot<Source>& to,
                         uint32_t owner) {
  if (!s.alive) return;
  const uint32_t each = leaves(s.p, owner) ? to.wire.element_bytes() : 0;
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    if (!exists<Source>(s.p, b, v)) continue;
    const uint32_t count = Source::columns(s.p, b, v).count();
    to.wire.store(to.octet(v), Source::partial(s.p, b, values, v), count);
    s.bytes += count * each;
  }
}

// The end of a sum over ranks, before its one rounding: the bias, once; and a residual from where the sum will stand, where
// `row0` is the block's first row. The whole warp takes part.
template <class Source>
TW_DEV void end_sum(const TwParams& p, const Block& b, uint32_t v, uint32_t row0, Octet& sum) {
  using T = typename Source::Type;
  const bool there = exists<Source>(p, b, v);
  const Columns cols = Source::columns(p, b, v);
  if (there) add_bias<T>(p, cols, sum);
  if (p.desc.tail != TW_TAIL_RESIDUAL) return;
  const Matrix<T> residual = {p.residual, p.residual_ld};
  const uint32_t row = row0 + Source::row(p, b, v) - b.row;
  if constexpr (Source::kRows) {
    add_to(sum, load_row<T>(residual, there, row, cols));
  } else {
    if (there) add_to(sum, load_octet<T>(residual, row, cols));
  }
}

// Some of a block's octets: as many as are loaded from one rank's slot before the next rank's. The rest of a block's end
// (sum, bias, result, store) is a loop over groups, so that registers hold one group, not a block.
template <class Source>
struct Group {
  static constexpr uint32_t kSize = Source::kOctets < 8 ? 2 : 4;
  static_assert(Source::kOctets % kSize == 0, "Group");
  Octet o[kSize];
};

// A group's octets as they travelled: one vector each of 16-bit values, two of f32 (kWide). What does not exist is zero.
template <class Source, bool kWide>
struct Raw {
  static constexpr uint32_t kVectors = kWide ? 2 : 1;
  vec4 v[Group<Source>::kSize][kVectors];

  TW_DEV void load(const TwParams& p, const Block& b, uint32_t v0, const Slot<Source>& from) {
    TW_UNROLL
    for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
      const bool there = exists<Source>(p, b, v0 + i);
      TW_UNROLL
      for (uint32_t j = 0; j < kVectors; ++j) {
        if (there) from.wire.announce(Source::columns(p, b, v0 + i).count(), j);
        v[i][j] = there ? mx::ld_global_v4(from.octet(v0 + i) + 16 * j) : vec4{{0, 0, 0, 0}};
      }
    }
  }
  TW_DEV Octet octet(uint32_t i) const {
    const WireFormat<typename Source::Type> wire(kWide ? TW_F32 : TW_BF16);
    Octet o;
    TW_UNROLL
    for (uint32_t j = 0; j < kVectors; ++j) wire.set(o, v[i][j], j);
    return o;
  }
};

template <class Source, bool kWide, class SlotOf>
TW_DEV void sum_ranks(const TwParams& p, const Block& b, uint32_t v0, SlotOf slot_of, Group<Source>& sum) {
  Raw<Source, kWide> next;
  next.load(p, b, v0, slot_of(0));
  TW_UNROLL
  for (uint32_t i = 0; i < Group<Source>::kSize; ++i) sum.o[i] = next.octet(i);
  if constexpr (Source::kAhead && !kWide) {
    // The next rank's octets are on their way while this one's are added.
    if (p.group.world > 1) next.load(p, b, v0, slot_of(1));
    TW_NO_UNROLL
    for (uint32_t r = 1; mx::again(r < p.group.world); ++r) {
      const Raw<Source, kWide> here = next;
      if (r + 1 < p.group.world) next.load(p, b, v0, slot_of(r + 1));
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) add_to(sum.o[i], here.octet(i));
    }
  } else {
    TW_NO_UNROLL
    for (uint32_t r = 1; mx::again(r < p.group.world); ++r) {
      const Slot<Source> from = slot_of(r);
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
        if (exists<Source>(p, b, v0 + i)) add_to(sum.o[i], from.wire.load(from.octet(v0 + i), Source::columns(p, b, v0 + i).count()));
      }
    }
  }
}

// Adds the partials of a block's octets from `v0` on, slot_of(r) being rank r's, from rank 0's upwards, or has the switch
// add what slot_of(kSwitch) stands for; then `end_sum`. A rank's own partial went through staging too: each thread reads back
// what it wrote, or what another role wrote and signalled. kSwitched: whether this operation has sums of the switch.
template <class Source, bool kSwitched, class SlotOf>
TW_DEV void sum_partials(const Session<typename Source::Team>& s, const Block& b, uint32_t v0, uint32_t row0, SlotOf slot_of,
                         Group<Source>& sum) {
  if (!s.alive) return;
  if (kSwitched && in_switch(s.p)) {
    const Slot<Source> from = slot_of(kSwitch);
    TW_UNROLL
    for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
      if (exists<Source>(s.p, b, v0 + i)) {
        sum.o[i] = from.wire.load_sum(from.octet(v0 + i), Source::columns(s.p, b, v0 + i).count());
      }
    }
  } else if (slot_of(0).wire.wide) {
    sum_ranks<Source, true>(s.p, b, v0, slot_of, sum);
  } else {
    sum_ranks<Source, false>(s.p, b, v0, slot_of, sum);
  }
  TW_UNROLL
  for (uint32_t i = 0; i < Group<Source>::kSize; ++i) end_sum<Source>(s.p, b, v0 + i, row0, sum.o[i]);
}

// Writes finished octets to the output, row `row0` of which is the block's first. After an abort: NaN, since some of the
// partials never came.
template <class Source>
TW_DEV void store_group(const Session<typename Source::Team>& s, const Block& b, uint32_t v0, uint32_t row0, const Group<Source>& sum) {
  using T = typename Source::Type;
  TW_UNROLL
  for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
    const uint32_t in = Source::row(s.p, b, v0 + i) - b.row;
    const Columns cols = Source::columns(s.p, b, v0 + i);
    const Octet o = s.alive ? sum.o[i] : nan_octet();
    if constexpr (Source::kRows) {
      store_row<T>({s.p.out, s.p.out_ld}, in < b.rows, row0 + in, cols, o);
    } else {
      if (exists<Source>(s.p, b, v0 + i)) store_octet<T>({s.p.out, s.p.out_ld}, row0 + in, cols, o);
    }
  }
}
}  // namespace tw
