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

// One thread's wait for one packet in its own rank's heap; false once it gives up. Bounded like every wait.
TW_DEV bool await_packet(const Session& s, gaddr from, uint32_t peer, uint32_t tile, uint32_t* d0, uint32_t* d1) {
  const uint32_t tag = packet_tag(s.round);
  vec4 v = mx::poll_packet(from, tag, Site::PacketPoll);
  if (v.v[1] != tag || v.v[3] != tag) {
    const Wanted wanted = {TW_WAIT_PACKET, peer, tile, from, tag, false};
    const uint64_t began = mx::time_ns();
    do {
      if (look_around(s.p, s.epoch, wanted, v.v[1] != tag ? v.v[1] : v.v[3], began) != TW_CAUSE_NONE) return false;
      mx::pause(began + s.p.group.deadline_ns);
      v = mx::poll_packet(from, tag, Site::PacketPoll);
    } while (v.v[1] != tag || v.v[3] != tag);
  }
  *d0 = v.v[0];
  *d1 = v.v[2];
  return true;
}

TW_DEV bool await_packets(const Session& s, gaddr from, uint32_t peer, uint32_t tile, vec4* data) {
  return await_packet(s, from, peer, tile, &data->v[0], &data->v[1]) &&
         await_packet(s, from + 16, peer, tile, &data->v[2], &data->v[3]);
}
}  // namespace tw
