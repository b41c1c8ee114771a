// What orders: barriers and exchanges inside a CTA, words between CTAs (.gpu) and between ranks (.sys).
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void cta_sync(Site s) {
  note(self(), Call::Barrier, 0, 0);
  tw_sim_barrier(self(), 0, 0, u32(s));
}
TW_MACHINE bool cta_sync_or(bool mine, Site s) {
  note(self(), Call::Barrier, 0, 1);
  return tw_sim_barrier(self(), 1, mine, u32(s));
}
TW_MACHINE bool cta_sync_and(bool mine, Site s) {
  note(self(), Call::Barrier, 0, 2);
  return tw_sim_barrier(self(), 2, mine, u32(s));
}
TW_MACHINE bool again(bool more) { return more; }
TW_MACHINE void warp_sync() { tw_sim_warp_sync(self()); }
TW_MACHINE u32 shfl_xor(u32 v, u32 mask) {
  note(self(), Call::Shuffle);
  return tw_sim_shuffle(self(), v, (self()->thread ^ mask) % 32);
}
TW_MACHINE u32 shfl(u32 v, u32 lane) {
  note(self(), Call::Shuffle);
  return tw_sim_shuffle(self(), v, lane % 32);
}

TW_MACHINE u64 ld_relaxed_sys(gaddr a) { return tw_sim_poll(self(), a, 0, u32(Site::Count)); }
TW_MACHINE u64 poll_relaxed_sys(gaddr a, u64 want, Site s) { return tw_sim_poll(self(), a, want, u32(s)); }
TW_MACHINE u64 ld_acquire_sys(gaddr a, Site s) { return tw_sim_load_acquire(self(), a, u32(s)); }
TW_MACHINE void st_relaxed_sys(gaddr a, u64 x) {
  note(self(), Call::Word, a, 0);
  tw_sim_store_word(self(), a, x, 0, u32(Site::Count));
}
TW_MACHINE void st_release_sys(gaddr a, u64 x, Site s) {
  note(self(), Call::Word, a, 1);
  tw_sim_store_word(self(), a, x, 1, u32(s));
}

TW_MACHINE u32 atom_add_acq_rel_gpu(gaddr a, u32 x, Site s) {
  note(self(), Call::Atomic, a, 0);
  return tw_sim_atomic_add(self(), a, x, u32(s));
}
TW_MACHINE u32 atom_cas_acq_rel_gpu(gaddr a, u32 want, u32 put, Site s) {
  note(self(), Call::Atomic, a, 0);
  return tw_sim_atomic_cas(self(), a, want, put, u32(s));
}
TW_MACHINE u64 atom_add_relaxed_sys(gaddr a, u64 x) {
  note(self(), Call::Add, a, 1);
  return tw_sim_add_relaxed(self(), a, x);
}
TW_MACHINE void red_add_relaxed_gpu(gaddr a, u64 x) {
  note(self(), Call::Add, a, 0);
  tw_sim_add_relaxed(self(), a, x);
}
TW_MACHINE void red_max_relaxed_gpu(gaddr a, u64 x) { tw_sim_max_relaxed(self(), a, x); }
}  // namespace mx
