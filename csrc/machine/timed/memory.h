// Shared and global memory. Words that one thread reads or writes are real, in shared memory and out of it: kernels decide by
// them. Data is not moved.
#pragma once
#include "calls.h"

namespace mx {
constexpr u32 kAccess = 3;  // instructions of an access: its own, and what its address takes

TW_MACHINE void need_pieces(TwWarp* w) { w->now = later(w->now, w->pieces); }

TW_MACHINE saddr shared() { return 0; }
TW_MACHINE void shared_load(u32 bytes) {
  note(self(), Call::SharedLoad, bytes);
  TwWarp* w = self();
  w->issue += kAccess;
  w->read += bytes * w->lanes;
}
TW_MACHINE void shared_store(u32 bytes) {
  note(self(), Call::SharedStore, bytes);
  TwWarp* w = self();
  w->issue += kAccess;
  w->written += bytes * w->lanes;
}
// All lanes read one word; it is real.
TW_MACHINE u32 ld_shared_b32(saddr a) {
  shared_load(4);
  u32 x;
  memcpy(&x, self()->shared + a, 4);
  return x;
}
TW_MACHINE vec4 ld_shared_v4(saddr) {
  shared_load(16);
  return {{0, 0, 0, 0}};
}
TW_MACHINE void st_shared_b16(saddr, u32 x) {
  need(self(), x);
  shared_store(2);
}
TW_MACHINE void st_shared_b32(saddr a, u32 x) {
  need(self(), x);
  shared_store(4);
  if (self()->lanes == 1) memcpy(self()->shared + a, &x, 4);
}
TW_MACHINE void st_shared_b64(saddr, u64 x) {
  need(self(), u32(x));
  need(self(), u32(x >> 32));
  shared_store(8);
}
TW_MACHINE void st_shared_v4(saddr, vec4 x) {
  need_pieces(self());
  need(self(), x);
  shared_store(16);
}

TW_MACHINE u32 load_global(gaddr a, u32 bytes) {
  note(self(), Call::Load, a, bytes);
  return tw_timed_load(at_call(kAccess), a, bytes);
}
// Kernels put two into a word, which has no number then: whoever stores next waits for all of them.
TW_MACHINE u32 ld_global_b16(gaddr a) {
  const u32 x = load_global(a, 2);
  TwWarp* w = self();
  w->pieces = later(w->pieces, ready(w, x));
  return x;
}
TW_MACHINE u32 ld_global_b32(gaddr a) { return load_global(a, 4); }
TW_MACHINE vec4 ld_global_v4(gaddr a) {
  const u32 x = load_global(a, 16);
  return {{x, x, x, x}};
}

TW_MACHINE void store_global(gaddr a, u64 x, u32 bytes) {
  note(self(), Call::Store, a, bytes);
  TwWarp* w = at_call(kAccess);
  need_pieces(w);
  need(w, u32(x));
  if (bytes == 8) need(w, u32(x >> 32));
  if (w->lanes == 1) {
    tw_timed_put(w, a, x, bytes);
  } else {
    tw_timed_store(w, a, bytes);
  }
}
TW_MACHINE void st_global_b16(gaddr a, u32 x) { store_global(a, x, 2); }
TW_MACHINE void st_global_b32(gaddr a, u32 x) { store_global(a, x, 4); }
TW_MACHINE void st_global_b64(gaddr a, u64 x) { store_global(a, x, 8); }
TW_MACHINE void st_global_v4(gaddr a, vec4 x) {
  note(self(), Call::Store, a, 16);
  TwWarp* w = at_call(kAccess);
  need_pieces(w);
  need(w, x);
  tw_timed_store(w, a, 16);
}

TW_MACHINE void discard(gaddr, u64) {}
TW_MACHINE void payload(u32 bytes) { self()->payload = bytes; }

TW_MACHINE void cp_async_16(saddr, gaddr from, u32 bytes) {
  note(self(), Call::Copy, from, bytes);
  TwWarp* w = at_call(kAccess);
  w->written += 16 * w->lanes;
  if (bytes) tw_timed_copy_async(w, from, bytes);
}
TW_MACHINE void cp_async_commit() {
  note(self(), Call::CopyCommit);
  TwWarp* w = self();
  w->async_done[w->async_groups++ % kTwGroups] = w->async_ready;
}
template <int N>
TW_MACHINE void cp_async_wait(Site) {
  note(self(), Call::CopyWait, N);
  TwWarp* w = at_branch(1);
  if (w->async_groups > N) w->now = later(w->now, w->async_done[(w->async_groups - 1 - N) % kTwGroups]);
}
}  // namespace mx
