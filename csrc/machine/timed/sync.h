// What orders, and what waits: barriers, mbarriers, words between CTAs and between ranks, packets, the clock itself.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void cta_sync(Site) {
  note(self(), Call::Barrier, 0, 0);
  tw_timed_barrier(at_branch(1), 0, 0, 0, 0);
}
TW_MACHINE bool cta_sync_or(bool mine, Site) {
  note(self(), Call::Barrier, 0, 1);
  return tw_timed_barrier(at_branch(2), 0, 0, 1, mine);
}
TW_MACHINE bool cta_sync_and(bool mine, Site) {
  note(self(), Call::Barrier, 0, 2);
  return tw_timed_barrier(at_branch(2), 0, 0, 2, mine);
}
TW_MACHINE void bar_sync(u32 id, u32 threads, Site) {
  note(self(), Call::Barrier, id | threads << 8, 0);
  tw_timed_barrier(at_branch(1), id, threads, 0, 0);
}
TW_MACHINE bool bar_sync_or(u32 id, u32 threads, bool mine, Site) {
  note(self(), Call::Barrier, id | threads << 8, 1);
  return tw_timed_barrier(at_branch(2), id, threads, 1, mine);
}
TW_MACHINE bool bar_sync_and(u32 id, u32 threads, bool mine, Site) {
  note(self(), Call::Barrier, id | threads << 8, 2);
  return tw_timed_barrier(at_branch(2), id, threads, 2, mine);
}
TW_MACHINE void cluster_sync(Site) {
  note(self(), Call::ClusterSync);
  tw_timed_cluster_sync(at_branch(1));
}

TW_MACHINE void warp_sync() { self()->issue += 1; }
// All lanes have what lane 0 has.
TW_MACHINE u32 shfl(u32 v, u32) {
  note(self(), Call::Shuffle);
  TwWarp* w = at_call(2);
  need(w, v);
  return v;
}
TW_MACHINE u32 shfl_xor(u32 v, u32 lane) { return shfl(v, lane); }

TW_MACHINE bool again(bool more) {
  at_branch(1);
  return more;
}

TW_MACHINE void mbar_init(saddr bar, u32 count) {
  note(self(), Call::MbarInit, bar, count);
  tw_timed_mbar_init(one_lane(2, "mbar_init"), bar, count);
}
TW_MACHINE void mbar_init_fence() { self()->issue += 1; }
TW_MACHINE void mbar_arrive_at(saddr bar, u32 cta, Site) {
  note(self(), Call::MbarArrive, bar, cta);
  tw_timed_mbar_arrive(at_call(2), bar, cta, 0);
}
TW_MACHINE void mbar_arrive(saddr bar, Site) {
  note(self(), Call::MbarArrive, bar, 99);
  tw_timed_mbar_arrive(at_call(2), bar, ~0u, 0);
}
TW_MACHINE void mbar_arrive_expect_tx(saddr bar, u32 bytes, Site) {
  note(self(), Call::MbarExpect, bar, bytes);
  tw_timed_mbar_arrive(one_lane(2, "mbar_arrive_expect_tx"), bar, ~0u, bytes);
}
TW_MACHINE void mbar_wait(saddr bar, u32 parity, Site) {
  note(self(), Call::MbarWait, bar, parity);
  tw_timed_mbar_wait(at_branch(3), bar, parity);
}

TW_MACHINE u64 ld_relaxed_sys(gaddr a) { return tw_timed_poll(at_branch(2), a, 0); }
TW_MACHINE u64 poll_relaxed_sys(gaddr a, u64, Site) { return tw_timed_poll(at_branch(2), a, 0); }
TW_MACHINE u64 ld_acquire_sys(gaddr a, Site) { return tw_timed_poll(at_branch(2), a, 1); }
TW_MACHINE void st_relaxed_sys(gaddr a, u64 x) {
  note(self(), Call::Word, a, 0);
  tw_timed_word(one_lane(2, "st_relaxed_sys"), a, x, 0);
}
TW_MACHINE void st_release_sys(gaddr a, u64 x, Site) {
  note(self(), Call::Word, a, 1);
  tw_timed_word(one_lane(2, "st_release_sys"), a, x, 1);
}
TW_MACHINE u32 atom_add_acq_rel_gpu(gaddr a, u32 x, Site) {
  note(self(), Call::Atomic, a, 0);
  return tw_timed_atomic_add(one_lane(2, "atom_add_acq_rel_gpu"), a, x);
}
TW_MACHINE u32 atom_cas_acq_rel_gpu(gaddr a, u32 want, u32 put, Site) {
  note(self(), Call::Atomic, a, 0);
  return tw_timed_atomic_cas(one_lane(2, "atom_cas_acq_rel_gpu"), a, want, put);
}
TW_MACHINE u64 atom_add_relaxed_sys(gaddr a, u64 x) {
  note(self(), Call::Add, a, 1);
  return tw_timed_add(at_call(2), a, x, 1);
}
TW_MACHINE void red_add_relaxed_gpu(gaddr a, u64 x) {
  note(self(), Call::Add, a, 0);
  tw_timed_add(at_call(2), a, x, 0);
}
TW_MACHINE void red_max_relaxed_gpu(gaddr a, u64 x) { tw_timed_max(at_call(2), a, x); }

TW_MACHINE vec4 poll_packet(gaddr a, u32, Site) {
  vec4 x;
  tw_timed_load_packet(at_branch(3), a, x.v);
  return x;
}
TW_MACHINE vec4 ld_packet(gaddr a) { return poll_packet(a, 0, Site::Count); }
TW_MACHINE void st_packet(gaddr a, vec4 x) {
  note(self(), Call::Packet, a, 0);
  TwWarp* w = at_call(3);
  need(w, x);
  tw_timed_store_packet(w, a, x.v);
}

TW_MACHINE u64 time_ns() {
  TwWarp* w = at_call(1);
  const u64 ns = w->now / 1000;
  if (w->noted) tw_timed_looked(w, ns);
  return ns;
}
TW_MACHINE void pause(u64 until_ns) { tw_timed_pause(at_branch(1), until_ns); }
}  // namespace mx
