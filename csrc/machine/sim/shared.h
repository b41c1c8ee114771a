// Shared memory. A read is checked by the granule's shadow: written, and by whom this thread knows to be before it.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE saddr shared() { return 0; }

// True where this thread may read what `tag` wrote, as far as its CTA's row says. Its own writes since the last barrier
// and bytes beside the last writer's are for the slow path.
TW_MACHINE bool shared_known(const TwSelf* t, u64 tag) {
  return tag > kTwHost && t->row[tag >> kTwWhoShift & 0x7ff] >= (u32(tag >> kTwClockShift) & 0x1ffffff);
}

template <class V>
TW_MACHINE V load_shared(saddr a) {
  note(self(), Call::SharedLoad, sizeof(V));
  TwSelf* t = self();
  if (u64(a) + sizeof(V) > t->shared_bytes || a % sizeof(V) || !shared_known(t, t->shared_shadow[a / 16])) {
    tw_sim_shared_check(t, a, sizeof(V), 0);
  }
  V x;
  memcpy(&x, t->shared + a, sizeof x);
  return x;
}

// Marks `bytes` at `a` as written now, and fills a granule with poison first where it is written in part only.
TW_MACHINE void mark(u64* shadow, uint8_t* granule, u64 tag, u64 at, u64 bytes) {
  const u64 mask = ((1ull << bytes) - 1) << at, old = *shadow;
  if ((old ^ tag) >> kTwClockShift == 0 && old > kTwHost) {
    *shadow = old | mask;
    return;
  }
  if (old == kTwUnwritten && bytes != 16) memset(granule, 0xff, 16);
  *shadow = tag | mask;
}

// True where an asynchronous unit has written or reads the granule (`src/driver/sim/shadow.rs`).
TW_MACHINE bool not_stored(const TwSelf* t, u64 tag) {
  return (tag >> kTwWhoShift & 0x7ff) >= 2 * t->threads;
}

template <class V>
TW_MACHINE void store_shared(saddr a, V x) {
  note(self(), Call::SharedStore, sizeof(V));
  TwSelf* t = self();
  if (u64(a) + sizeof(V) > t->shared_bytes || a % sizeof(V) || not_stored(t, t->shared_shadow[a / 16])) {
    tw_sim_shared_check(t, a, sizeof(V), 1);
  }
  mark(&t->shared_shadow[a / 16], t->shared + a / 16 * 16, t->write_tag, a % 16, sizeof(V));
  memcpy(t->shared + a, &x, sizeof x);
}

TW_MACHINE u32 ld_shared_b32(saddr a) { return load_shared<u32>(a); }
TW_MACHINE vec4 ld_shared_v4(saddr a) { return load_shared<vec4>(a); }
TW_MACHINE void st_shared_b16(saddr a, u32 x) { store_shared(a, uint16_t(x)); }
TW_MACHINE void st_shared_b32(saddr a, u32 x) { store_shared(a, x); }
TW_MACHINE void st_shared_b64(saddr a, u64 x) { store_shared(a, x); }
TW_MACHINE void st_shared_v4(saddr a, vec4 x) { store_shared(a, x); }
}  // namespace mx
