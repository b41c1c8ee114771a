// Partials on their way: pushed by whoever computed them, summed by their owner in rank order.
#pragma once
#include "protocol/session.h"
#include "tile/source.h"

namespace tw {

// A block's octets in a slot of staging, in the order the threads hold them: no layout changes on either side.
template <class Source>
struct Slot {
  using T = typename Source::Type;
  gaddr base;
  WireFormat<T> wire;
  static TW_DEV uint64_t bytes(const WireFormat<T>& w) { return uint64_t(Source::kM) * Source::kN * w.element_bytes(); }
  TW_DEV gaddr octet(uint32_t v) const { return base + Source::place(v) * wire.octet_bytes(); }
};

template <class Source>
TW_DEV bool exists(const TwParams& p, const Block& b, uint32_t v) {
  return Source::row(b, v) < b.row + b.rows && Source::columns(p, b, v).any();
}

// Writes this rank's partial of a block to a slot of a peer, or of its own staging.
template <class Source>
TW_DEV void push_partial(Session& s, const Block& b, const typename Source::Values& values, const Slot<Source>& to, bool remote) {
  if (!s.alive) return;
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    if (!exists<Source>(s.p, b, v)) continue;
    const Octet o = Source::partial(s.p, b, values, v);
    if (remote) {
      s.bytes += to.wire.push(to.octet(v), o, Source::columns(s.p, b, v).count());
    } else {
      to.wire.store(to.octet(v), o);
    }
  }
}

// All octets of a block a thread holds.
template <class Source>
struct Sum {
  Octet o[Source::kOctets];
  TW_DEV void add(uint32_t v, const Octet& x, bool first) {
    if (first) {
      o[v] = x;
    } else {
      add_to(o[v], x);
    }
  }
};

// Writes a finished block to the output, row `row0` of which is the block's first. After an abort: NaN, since some of its
// partials never came.
template <class Source>
TW_DEV void store_block(const Session& s, const Block& b, uint32_t row0, const Sum<Source>& sum) {
  using T = typename Source::Type;
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    if (!exists<Source>(s.p, b, v)) continue;
    store_octet<T>({s.p.out, s.p.out_ld}, row0 + (Source::row(b, v) - b.row), Source::columns(s.p, b, v),
                   s.alive ? sum.o[v] : nan_octet());
  }
}
}  // namespace tw
