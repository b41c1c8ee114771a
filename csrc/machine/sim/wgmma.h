// Warpgroups: wgmma, its register budget, and stmatrix. wgmma only records, like mma: the warpgroup's first thread the
// whole instruction, every thread a hash of it. `wgmma_wait` runs what it waits for once its 128 threads are there, on the
// operands that shared memory holds then: a program that is right cannot tell, one that overwrites them too early gets
// wrong numbers, or a report.
//
// What a thread knew when it issued is noted wherever it has changed: an operand must have been written before that.
#pragma once
#include "mma.h"

namespace mx {
TW_MACHINE void wgmma_hash(TwSelf* t, u64 x) { t->wgmma_hash = (t->wgmma_hash ^ x) * 0x9e3779b97f4a7c15ull; }

TW_MACHINE void wgmma_record(TwSelf* t, const TwWgmmaOp& op) {
  wgmma_hash(t, op.a);
  wgmma_hash(t, op.b);
  wgmma_hash(t, op.d | u64(op.what) << 32);
  if (t->wgmma_ops) {
    if (t->wgmma_count == t->wgmma_room) tw_sim_wgmma_grow(t);
    t->wgmma_ops[t->wgmma_count] = op;
  }
  ++t->wgmma_count;
}

template <class... Acc>
TW_MACHINE void wgmma_fence(Acc&...) {
  self()->wgmma_fenced = 1;
}

template <class T, u32 N>
TW_MACHINE void wgmma(float (&d)[N / 2], u64 a, u64 b, bool add) {
  note(self(), Call::Wgmma, N);
  static_assert(kMmaKind<T> != 0, "wgmma: bf16 or f16");
  static_assert(N == 64 || N == 128 || N == 256, "wgmma: N is 64, 128 or 256");
  TwSelf* t = self();
  asm volatile("" ::"r"(d) : "memory");
  if (t->wgmma_row != t->row || !t->wgmma_fenced) tw_sim_wgmma_begin(t);
  wgmma_record(t, {a, b, u32(t->stack_base - reinterpret_cast<u64>(d)), N | kMmaKind<T> << 16 | u32(add) << 24});
}

TW_MACHINE void wgmma_commit() {
  note(self(), Call::WgmmaCommit);
  wgmma_record(self(), {});
}

template <int N, class Acc>
TW_MACHINE void wgmma_wait(Acc& acc, Site s) {
  note(self(), Call::WgmmaWait, N);
  static_assert(N >= 0 && N < 8, "wgmma_wait: 0 to 7 groups stay pending");
  asm volatile("" ::"r"(&acc) : "memory");
  tw_sim_wgmma_wait(self(), frame_of_caller(), N, u32(s));
  asm volatile("" ::"r"(&acc) : "memory");
}

// Row j of matrix i goes to the address that lane 8 i + j gives, and counts as written by that lane.
TW_MACHINE void stmatrix_x4(saddr row, const u32 (&r)[4]) {
  note(self(), Call::MatrixStore);
  tw_sim_stmatrix(self(), row, r);
}

template <u32 N>
TW_MACHINE void reg_alloc() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256, "reg_alloc: a multiple of 8, 24 to 256");
  tw_sim_registers(self(), N, 1);
}
template <u32 N>
TW_MACHINE void reg_dealloc() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256, "reg_dealloc: a multiple of 8, 24 to 256");
  tw_sim_registers(self(), N, 0);
}
}  // namespace mx
