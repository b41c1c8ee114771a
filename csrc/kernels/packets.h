// Octets of a block as packets, for the one-shot all-reduces: sent to a rank's heap, waited for in one's own.
#pragma once
#include "kernels/partials.h"
#include "protocol/packet.h"

namespace tw {

template <class Source>
class Packets {
  using T = typename Source::Type;
  const TwParams& p;
  const WireFormat<T> wire;

 public:
  TW_DEV explicit Packets(const TwParams& params) : p(params), wire(params.desc.wire) {}

  // As every rank will see it.
  TW_DEV void round(Octet& o) const { wire.round(o); }

  // To every peer.
  TW_DEV void send(Session<typename Source::Team>& s, const Block& b, uint32_t v, const Octet& o) {
    const uint32_t tag = packet_tag(s.round), payload = Source::columns(p, b, v).count() * wire.element_bytes();
    const vec4 first = wire.vector(o, 0), second = wire.vector(o, 1);
    for (uint32_t d = 1; d < p.group.world; ++d) {
      const gaddr to = at(s, (p.group.rank + d) % p.group.world, p.group.rank, b, v);
      send_packets(to, first, tag, min_u32(payload, 16));
      if (wire.wide) send_packets(to + 32, second, tag, payload > 16 ? payload - 16 : 0);
      s.bytes += payload;
    }
  }

  // To this rank itself: for another of its CTAs. Nothing leaves the rank, so nothing is counted.
  TW_DEV void keep(const Session<typename Source::Team>& s, const Block& b, uint32_t v, const Octet& o) {
    const uint32_t tag = packet_tag(s.round);
    const gaddr to = at(s, p.group.rank, p.group.rank, b, v);
    keep_packets(to, wire.vector(o, 0), tag);
    if (wire.wide) keep_packets(to + 32, wire.vector(o, 1), tag);
  }

  // Octet v of block `t`, added up over the ranks in their order; false where a wait is given up. kOwn: this rank's part is
  // `own`, else it sent itself packets, too.
  template <bool kOwn>
  TW_DEV bool add_up(const Session<typename Source::Team>& s, uint32_t t, const Block& b, uint32_t v, const Octet& own, Octet& sum) {
    if constexpr (Element<T>::kSize == 2) {
      if (!wire.wide) return add_up_vectors<kOwn, 1>(s, t, b, v, own, sum);
    }
    return add_up_vectors<kOwn, 2>(s, t, b, v, own, sum);
  }

 private:
  // Two ranks' packets are looked at together, or both vectors of one: a look costs a latency, and more take registers that
  // sm_80 does not have.
  template <bool kOwn, uint32_t kVectors>
  TW_DEV bool add_up_vectors(const Session<typename Source::Team>& s, uint32_t t, const Block& b, uint32_t v, const Octet& own, Octet& sum) {
    constexpr uint32_t kRanks = 2 / kVectors;
    const gaddr from = at(s, p.group.rank, 0, b, v);
    const uint64_t stride = at(s, p.group.rank, 1, b, v) - from;
    const uint32_t skip = kOwn ? p.group.rank : p.group.world;
    TW_NO_UNROLL
    for (uint32_t first = 0; mx::again(first < p.group.world); first += kRanks) {
      PacketsOf<kRanks, 2 * kVectors> packets = {from + first * stride, stride, first, p.group.world, skip, {}};
      if (!await_packets(s, t, packets)) return false;
      TW_UNROLL
      for (uint32_t i = 0; i < kRanks; ++i) {
        if (first + i >= p.group.world) continue;
        Octet o = own;
        TW_UNROLL
        for (uint32_t j = 0; j < kVectors; ++j) {
          const vec4 &one = packets.v[i][2 * j], &two = packets.v[i][2 * j + 1];
          if (packets.sends(i)) wire.set(o, {{one.v[0], one.v[2], two.v[0], two.v[2]}}, j);
        }
        if (first + i == 0) {
          sum = o;
        } else {
          add_to(sum, o);
        }
      }
    }
    return true;
  }

  // Octet v of a block from `source`, as `on` sees it: by its place in the matrix, so that few rows take little room.
  // Packets are twice their data.
  TW_DEV gaddr at(const Session<typename Source::Team>& s, uint32_t on, uint32_t source, const Block& b, uint32_t v) const {
    const uint32_t per_row = ceil_div(p.n, TW_PACKET_COLUMNS) * (TW_PACKET_COLUMNS / 8);
    const uint64_t row = uint64_t(source) * p.m + Source::row(p, b, v);
    const uint64_t octet = row * per_row + Source::ordinal(Source::columns(p, b, v).col);
    return heap_of(p, on) + packets_at(p, s.round) + 2 * octet * wire.octet_bytes();
  }
};
}  // namespace tw
