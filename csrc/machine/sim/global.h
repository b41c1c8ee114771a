// Weak global accesses. Fast: the own device's memory, written by the host (loads) or allocated (stores). All else,
// peers first of all, is Rust's.
#pragma once
#include "shared.h"

namespace mx {
template <class V>
TW_MACHINE V load_global(gaddr a) {
  note(self(), Call::Load, a, sizeof(V));
  TwSelf* t = self();
  const u64 at = a - t->own_base;
  V x;
  if (at < kTwSliceBytes && at % sizeof(V) == 0 && t->own_shadow[at / 16] == kTwHost) {
    t->payload = kTwNoPayload;
    memcpy(&x, reinterpret_cast<const void*>(a), sizeof x);
  } else {
    tw_sim_load(t, a, &x, sizeof x);
  }
  return x;
}
template <class V>
TW_MACHINE void store_global(gaddr a, V x) {
  note(self(), Call::Store, a, sizeof(V));
  TwSelf* t = self();
  const u64 at = a - t->own_base;
  if (at < kTwSliceBytes && at % sizeof(V) == 0 && t->own_shadow[at / 16] != kTwUnallocated && !t->guarded) {
    t->payload = kTwNoPayload;
    mark(&t->own_shadow[at / 16], reinterpret_cast<uint8_t*>(a / 16 * 16), t->write_tag, at % 16, sizeof(V));
    memcpy(reinterpret_cast<void*>(a), &x, sizeof x);
  } else {
    tw_sim_store(t, a, &x, sizeof x);
  }
}

TW_MACHINE u32 ld_global_b16(gaddr a) { return load_global<uint16_t>(a); }
TW_MACHINE u32 ld_global_b32(gaddr a) { return load_global<u32>(a); }
TW_MACHINE vec4 ld_global_v4(gaddr a) { return load_global<vec4>(a); }
TW_MACHINE void st_global_b16(gaddr a, u32 x) { store_global(a, uint16_t(x)); }
TW_MACHINE void st_global_b32(gaddr a, u32 x) { store_global(a, x); }
TW_MACHINE void st_global_b64(gaddr a, u64 x) { store_global(a, x); }
TW_MACHINE void st_global_v4(gaddr a, vec4 x) { store_global(a, x); }

TW_MACHINE void discard(gaddr a, u64 bytes) { tw_sim_discard(self(), a, bytes); }
TW_MACHINE void payload(u32 bytes) { self()->payload = bytes; }
}  // namespace mx
