// Tensor cores. An SM has four; a warp uses one of them, by mma; of a warpgroup's wgmma each warp's core does a quarter, and
// reads its operands from shared memory.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void load_matrices(u32 kind) {
  TwWarp* w = self();
  note(w, Call::MatrixLoad, kind);
  w->issue += 2;
  w->read += 512;
}
TW_MACHINE void ldmatrix_x4(u32 (&)[4], saddr) { load_matrices(0); }
TW_MACHINE void ldmatrix_x4_trans(u32 (&)[4], saddr) { load_matrices(3); }
template <class T>
TW_MACHINE void mma(float (&)[4], const u32 (&)[4], const u32 (&)[2]) {
  note(self(), Call::Mma);
  TwWarp* w = self();
  w->issue += 1;
  w->flops += 2 * 16 * 8 * 16;
}
template <class Acc>
TW_MACHINE void mma_wait(Acc&, Site) {
  note(self(), Call::MmaWait);
  TwWarp* w = at_call(0);
  if (w->now > *w->horizon) tw_timed_turn(w);
}

template <class... Acc>
TW_MACHINE void wgmma_fence(Acc&...) {}
template <class T, u32 N>
TW_MACHINE void wgmma(float (&)[N / 2], u64, u64, bool) {
  note(self(), Call::Wgmma, N);
  TwWarp* w = self();
  w->issue += 2;
  w->group_flops += 2 * 64 * N * 16 / 4;
  w->group_traffic += (64 + N) * 16 * 2 / 4;
}
TW_MACHINE void wgmma_commit() {
  note(self(), Call::WgmmaCommit);
  TwWarp* w = at_call(1);
  const u64 read = serve(w->sm->shared, w->now, w->group_traffic * w->costs->shared_byte >> 10);
  const u64 multiplied = serve(w->sm->tensor[w->part], w->now, w->group_flops * w->costs->wgmma_flop >> 10);
  w->wgmma_done[w->wgmma_groups++ % kTwGroups] = later(read, multiplied) + w->costs->wgmma_latency;
  w->group_flops = w->group_traffic = 0;
  if (w->now > *w->horizon) tw_timed_turn(w);
}
template <int N, class Acc>
TW_MACHINE void wgmma_wait(Acc&, Site) {
  note(self(), Call::WgmmaWait, N);
  TwWarp* w = at_call(1);
  if (w->wgmma_groups > N) w->now = later(w->now, w->wgmma_done[(w->wgmma_groups - 1 - N) % kTwGroups]);
  if (w->now > *w->horizon) tw_timed_turn(w);
}
TW_MACHINE void stmatrix_x4(saddr, const u32 (&)[4]) {
  note(self(), Call::MatrixStore);
  TwWarp* w = self();
  w->issue += 2;
  w->written += 512;
}
template <u32 N>
TW_MACHINE void reg_alloc() {}
template <u32 N>
TW_MACHINE void reg_dealloc() {}
}  // namespace mx
