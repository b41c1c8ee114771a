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

  // The octet of block `t` from `source`; false where the wait is given up.
  TW_DEV bool receive(const Session<typename Source::Team>& s, uint32_t t, const Block& b, uint32_t v, uint32_t source, Octet& o) {
    const gaddr from = at(s, p.group.rank, source, b, v);
    vec4 data;
    if (!receive_vector(s, t, from, source, data)) return false;
    wire.set(o, data, 0);
    if (!wire.wide) return true;
    if (!receive_vector(s, t, from + 32, source, data)) return false;
    wire.set(o, data, 1);
    return true;
  }

 private:
  // Octet v of a block from `source`, as `on` sees it: by its place in the matrix, so that few rows take little room.
  // Packets are twice their data.
  TW_DEV gaddr at(const Session<typename Source::Team>& s, uint32_t on, uint32_t source, const Block& b, uint32_t v) const {
    const uint32_t per_row = ceil_div(p.n, TW_PACKET_COLUMNS) * (TW_PACKET_COLUMNS / 8);
    const uint64_t row = uint64_t(source) * p.m + Source::row(p, b, v);
    const uint64_t octet = row * per_row + Source::ordinal(Source::columns(p, b, v).col);
    return heap_of(p, on) + packets_at(p, s.round) + 2 * octet * wire.octet_bytes();
  }

  // 16 bytes of data: two packets, both looked at before the first is judged.
  TW_DEV bool receive_vector(const Session<typename Source::Team>& s, uint32_t t, gaddr from, uint32_t source, vec4& data) {
    const uint32_t tag = packet_tag(s.round);
    vec4 first = mx::poll_packet(from, tag, Site::PacketPoll), second = mx::poll_packet(from + 16, tag, Site::PacketPoll);
    if (!await_packet(s, from, source, t, first) || !await_packet(s, from + 16, source, t, second)) return false;
    data = {{first.v[0], first.v[2], second.v[0], second.v[2]}};
    return true;
  }
};
}  // namespace tw
