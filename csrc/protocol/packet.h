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

// One thread's wait for one packet in its own rank's heap, of which `v` is the last look; false once it gives up. Bounded
// like every wait. When it came is stamped at every look, not kept: registers are few where packets are waited for.
template <class Team>
TW_DEV bool await_packet(const Session<Team>& s, gaddr from, uint32_t peer, uint32_t tile, vec4& v) {
  const uint32_t tag = packet_tag(s.round);
  if (is_here(v, tag)) return true;
  const Wanted wanted = {TW_WAIT_PACKET, peer, tile, from, tag, false};
  const uint64_t began = mx::time_ns();
  Surroundings around = look_around(s.p, s.epoch, peer);
  v = mx::poll_packet(from, tag, Site::PacketPoll);
  while (!is_here(v, tag)) {  // bounded: by the deadline
    if (!keep_waiting(s.p, s.epoch, wanted, around, v.v[1] != tag ? v.v[1] : v.v[3], began)) return false;
    mx::pause(began + s.p.group.deadline_ns);
    if (s.p.stamps) s.stamps.came(peer, mx::time_ns());
    around = look_around(s.p, s.epoch, peer);
    v = mx::poll_packet(from, tag, Site::PacketPoll);
  }
  // One thread of a warp speaks for it: they wait for packets of one kernel, and all of them would hit one word.
  mx::elect([&] { note_wait(s.p, peer, began, mx::time_ns()); });
  return true;
}
}  // namespace tw
