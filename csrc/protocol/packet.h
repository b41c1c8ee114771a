// Packets: 16 bytes {data, tag, data, tag}. Each 8-byte half arrives whole, so its data is its own flag: no signal, no
// fence, no barrier, twice the bytes. For messages so small that a round of signals costs more.
#pragma once
#include "protocol/session.h"

namespace tw {

// `data` in two packets at `to` on a peer; `payload` of its 16 bytes count as payload.
TW_DEV void send_packets(gaddr to, const vec4& data, uint32_t tag, uint32_t payload) {
  if (payload < 8) mx::payload(payload);
  mx::st_packet(to, {{data.v[0], tag, data.v[1], tag}});
  if (payload < 16) mx::payload(payload > 8 ? payload - 8 : 0);
  mx::st_packet(to + 16, {{data.v[2], tag, data.v[3], tag}});
}

// The same at `to` on this rank: nothing travels.
TW_DEV void keep_packets(gaddr to, const vec4& data, uint32_t tag) {
  mx::st_packet(to, {{data.v[0], tag, data.v[1], tag}});
  mx::st_packet(to + 16, {{data.v[2], tag, data.v[3], tag}});
}

TW_DEV bool is_here(const vec4& packet, uint32_t tag) { return packet.v[1] == tag && packet.v[3] == tag; }

// Packets of several ranks, from rank `first` on, at one place of each: kEach neighbours. `skip`: a rank that sends none.
template <uint32_t kRanks, uint32_t kEach>
struct PacketsOf {
  gaddr from;       // of rank `first`, in this rank's heap
  uint64_t stride;  // to the next rank's
  uint32_t first, world, skip;
  vec4 v[kRanks][kEach];

  TW_DEV bool sends(uint32_t i) const { return first + i < world && first + i != skip; }

  // Looks at all of them, so that the looks cost one latency; the rank of the first that is not there, or `world`.
  TW_DEV uint32_t look(uint32_t tag) {
    TW_UNROLL
    for (uint32_t i = 0; i < kRanks; ++i) {
      TW_UNROLL
      for (uint32_t e = 0; e < kEach; ++e) {
        if (sends(i)) v[i][e] = mx::poll_packet(from + i * stride + 16 * e, tag, Site::PacketPoll);
      }
    }
    uint32_t missing = world;
    TW_UNROLL
    for (uint32_t i = kRanks; i-- > 0;) {
      TW_UNROLL
      for (uint32_t e = 0; e < kEach; ++e) {
        if (sends(i) && !is_here(v[i][e], tag)) missing = first + i;
      }
    }
    return missing;
  }
  // A tag of that rank's that is not `tag`.
  TW_DEV uint32_t seen(uint32_t rank, uint32_t tag) const {
    uint32_t other = tag;
    TW_UNROLL
    for (uint32_t i = 0; i < kRanks; ++i) {
      TW_UNROLL
      for (uint32_t e = 0; e < kEach; ++e) {
        if (first + i != rank) continue;
        if (v[i][e].v[1] != tag) other = v[i][e].v[1];
        if (v[i][e].v[3] != tag) other = v[i][e].v[3];
      }
    }
    return other;
  }
};

// One thread's wait for such packets; false once it gives up. Bounded like every wait. When a rank's came is stamped at every
// look, not kept: registers are few where packets are waited for.
template <class Team, uint32_t kRanks, uint32_t kEach>
TW_DEV bool await_packets(const Session<Team>& s, uint32_t tile, PacketsOf<kRanks, kEach>& packets) {
  const uint32_t tag = packet_tag(s.round);
  uint64_t began = 0;
  uint32_t peer = packets.world;  // whose are waited for; first nobody's
  for (;;) {                      // bounded: by the deadline
    const bool waits = peer != packets.world;
    Surroundings around = {};
    if (waits) around = look_around(s.p, s.epoch, peer);
    const uint32_t missing = packets.look(tag);
    // One thread of a warp speaks for it: they wait for packets of one kernel, and all of them would hit one word.
    if (waits && missing != peer) mx::elect([&] { note_wait(s.p, peer, began, mx::time_ns()); });
    if (missing == packets.world) return true;
    if (!waits) began = mx::time_ns();
    if (missing != peer) {
      peer = missing;
      continue;
    }
    const Wanted wanted = {TW_WAIT_PACKET, peer, tile, packets.from + (peer - packets.first) * packets.stride, tag, false};
    if (!keep_waiting(s.p, s.epoch, wanted, around, packets.seen(peer, tag), began)) return false;
    mx::pause(began + s.p.group.deadline_ns);
    if (s.p.stamps) s.stamps.came(peer, mx::time_ns());
  }
}
}  // namespace tw
