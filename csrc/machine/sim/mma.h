// Tensor cores. ldmatrix and mma only record: lane 0 the whole instruction, every lane its row address and a hash of its
// register numbers. `mma_wait` runs the warp's queue in one batch once its 32 lanes are there, which is what makes
// simulated GEMMs fast: operands are converted once and accumulators are gathered and scattered once a batch.
//
// A register is known by its distance from the fiber's stack base, the same in all lanes. The empty asm makes it live in
// memory; operands and accumulators must stay in scope up to the wait.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE u32 register_of(TwSelf* t, const void* r) {
  asm volatile("" ::"r"(r) : "memory");
  const u64 at = reinterpret_cast<u64>(r);
  t->mma_lowest = at < t->mma_lowest ? at : t->mma_lowest;
  return u32(t->stack_base - at);
}
TW_MACHINE void record(TwSelf* t, u32 kind, u32 d, u32 a, u32 b) {
  t->mma_hash = (t->mma_hash ^ (d | u64(a) << 20 | u64(b) << 40 | u64(kind) << 60)) * 0x9e3779b97f4a7c15ull;
  if (!t->mma_ops) return;
  if (t->mma_count == t->mma_room) tw_sim_mma_grow(t);
  t->mma_ops[t->mma_count++] = TwMmaOp{kind, d, a, b};
}

TW_MACHINE void load_matrices(u32 kind, u32 (&r)[4], saddr row) {
  note(self(), Call::MatrixLoad, kind);
  TwSelf* t = self();
  if (t->row_count == t->row_room) tw_sim_mma_grow(t);
  t->mma_rows[t->row_count++] = row;
  record(t, kind, register_of(t, r), 0, 0);
}
TW_MACHINE void ldmatrix_x4(u32 (&r)[4], saddr row) { load_matrices(kTwLdmatrix, r, row); }
TW_MACHINE void ldmatrix_x4_trans(u32 (&r)[4], saddr row) { load_matrices(kTwLdmatrixTrans, r, row); }

template <class T>
constexpr u32 kMmaKind = 0;
template <>
constexpr u32 kMmaKind<bf16> = kTwMmaBf16;
template <>
constexpr u32 kMmaKind<f16> = kTwMmaF16;

template <class T>
TW_MACHINE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  note(self(), Call::Mma);
  static_assert(kMmaKind<T> != 0, "mma: bf16 or f16");
  TwSelf* t = self();
  record(t, kMmaKind<T>, register_of(t, d), register_of(t, a), register_of(t, b));
}

// The stack pointer of the kernel's frame: what lies below it is no variable any more.
TW_MACHINE u64 frame_of_caller() {
  u64 frame;
#if defined(__x86_64__)
  asm volatile("mov %%rsp, %0" : "=r"(frame));
#elif defined(__aarch64__)
  asm volatile("mov %0, sp" : "=r"(frame));
#else
  frame = 0;
#endif
  return frame;
}

template <class Acc>
TW_MACHINE void mma_wait(Acc& acc, Site s) {
  note(self(), Call::MmaWait);
  asm volatile("" ::"r"(&acc) : "memory");
  tw_sim_mma_wait(self(), frame_of_caller(), u32(s));
  asm volatile("" ::"r"(&acc) : "memory");
}
}  // namespace mx
