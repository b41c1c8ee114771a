// GEMM+AR and AR, one-shot: every rank sends its partial to every rank as packets and adds what it receives, in rank
// order. One exchange instead of two, P - 1 times the bytes: for small M. A CTA sends its block before it waits for the
// peers' packets of it, and all ranks walk one order, so no wait depends on a later send.
#pragma once
#include "kernels/partials.h"
#include "protocol/packet.h"
#include "schedule/waves.h"

namespace tw {

template <class Source>
class OneShot {
  using T = typename Source::Type;
  using Team = typename Source::Team;
  Session<Team> s;
  const TwParams& p;
  const WaveOrder order;
  const WireFormat<T> wire;

 public:
  TW_DEV explicit OneShot(const TwParams& params)
      : s(params), p(params), order{p.m, p.n, 1, p.group.world, mx::grid(), Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.tiles, 1},
        wire(p.desc.wire) {}

  TW_DEV void run() {
    for (uint32_t t = mx::block(); t < p.tiles; t += mx::grid()) exchange(t, order.block(t));
    s.finish(0);
  }

 private:
  // Octet v of a block from `source`, as `on` sees it: by its place in the matrix, so that few rows take little room.
  // Packets are twice their data.
  TW_DEV gaddr packets(uint32_t on, uint32_t source, const Block& b, uint32_t v) const {
    const uint32_t per_row = ceil_div(p.n, TW_PACKET_COLUMNS) * (TW_PACKET_COLUMNS / 8);
    const uint64_t row = uint64_t(source) * p.m + Source::row(p, b, v);
    const uint64_t at = row * per_row + Source::ordinal(Source::columns(p, b, v).col);
    return heap_of(p, on) + packets_at(p, s.round) + 2 * at * wire.octet_bytes();
  }

  TW_DEV void send(const Block& b, uint32_t v, const Octet& o) {
    const uint32_t tag = packet_tag(s.round), payload = Source::columns(p, b, v).count() * wire.element_bytes();
    const vec4 first = wire.vector(o, 0), second = wire.vector(o, 1);
    for (uint32_t d = 1; d < p.group.world; ++d) {
      const gaddr to = packets((p.group.rank + d) % p.group.world, p.group.rank, b, v);
      send_packets(to, first, tag, min_u32(payload, 16));
      if (wire.wide) send_packets(to + 32, second, tag, payload > 16 ? payload - 16 : 0);
      s.bytes += payload;
    }
  }

  // 16 bytes of data: two packets, both looked at before the first is judged.
  TW_DEV bool receive_vector(uint32_t t, gaddr from, uint32_t source, vec4& data) {
    const uint32_t tag = packet_tag(s.round);
    vec4 first = mx::poll_packet(from, tag, Site::PacketPoll), second = mx::poll_packet(from + 16, tag, Site::PacketPoll);
    if (!await_packet(s, from, source, t, first) || !await_packet(s, from + 16, source, t, second)) return false;
    data = {{first.v[0], first.v[2], second.v[0], second.v[2]}};
    return true;
  }

  TW_DEV bool receive(uint32_t t, const Block& b, uint32_t v, uint32_t source, Octet& o) {
    const gaddr from = packets(p.group.rank, source, b, v);
    vec4 data;
    if (!receive_vector(t, from, source, data)) return false;
    wire.set(o, data, 0);
    if (!wire.wide) return true;
    if (!receive_vector(t, from + 32, source, data)) return false;
    wire.set(o, data, 1);
    return true;
  }

  TW_DEV void exchange(uint32_t t, const Block& block) {
    typename Source::Values values;
    Source::compute(p, block, values);
    Octet own[Source::kOctets];
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (!exists<Source>(p, block, v)) continue;
      own[v] = Source::partial(p, block, values, v);
      if (s.alive) send(block, v, own[v]);
      wire.round(own[v]);
    }
    s.agree();
    TW_UNROLL
    for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
      Group<Source> sum;
      bool ok = s.alive;
      for (uint32_t r = 0; ok && r < p.group.world; ++r) {
        TW_UNROLL
        for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
          if (!ok || !exists<Source>(p, block, v0 + i)) continue;
          Octet o = own[v0 + i];
          if (r != p.group.rank) ok = receive(t, block, v0 + i, r, o);
          if (r == 0) {
            sum.o[i] = o;
          } else {
            add_to(sum.o[i], o);
          }
        }
      }
      // One vote a group: all of it came, or all of it, and what follows, is NaN. It orders nothing: a packet is read by
      // the thread that waited for it.
      s.alive = Team::sync_and(ok, Site::None);
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
        if (exists<Source>(p, block, v0 + i)) add_bias<T>(p, Source::columns(p, block, v0 + i), sum.o[i]);
      }
      store_group<Source>(s, block, v0, block.row, sum);
    }
  }
};
}  // namespace tw
