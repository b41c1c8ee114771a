// One-shot packets: 16 bytes as two 8-byte halves {data, tag}. Each half travels alone and arrives whole.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE vec4 poll_packet(gaddr a, u32 tag, Site s) {
  vec4 x;
  tw_sim_load_packet(self(), a, x.v, tag, u32(s));
  return x;
}
TW_MACHINE vec4 ld_packet(gaddr a) { return poll_packet(a, 0, Site::Count); }
TW_MACHINE void st_packet(gaddr a, vec4 x) {
  note(self(), Call::Packet, a, 0);
  tw_sim_store_packet(self(), a, x.v);
}
}  // namespace mx
