// What orders: barriers and exchanges inside a CTA, words between CTAs (.gpu) and between ranks (.sys).
#pragma once
#include "types.h"

namespace mx {
TW_DEV void cta_sync(Site) { asm volatile("bar.sync 0;" ::: "memory"); }
TW_DEV bool cta_sync_or(bool mine, Site) {
  u32 any;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.or.pred q, 0, p; selp.u32 %0, 1, 0, q; }"
               : "=r"(any)
               : "r"(u32(mine))
               : "memory");
  return any;
}
TW_DEV bool cta_sync_and(bool mine, Site) {
  u32 all;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.and.pred q, 0, p; selp.u32 %0, 1, 0, q; }"
               : "=r"(all)
               : "r"(u32(mine))
               : "memory");
  return all;
}
// Named barriers: `threads` of the CTA, a multiple of 32.
TW_DEV void bar_sync(u32 id, u32 threads, Site) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
TW_DEV bool bar_sync_or(u32 id, u32 threads, bool mine, Site) {
  u32 any;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %3, 0; bar.red.or.pred q, %1, %2, p; selp.u32 %0, 1, 0, q; }"
               : "=r"(any)
               : "r"(id), "r"(threads), "r"(u32(mine))
               : "memory");
  return any;
}
TW_DEV bool bar_sync_and(u32 id, u32 threads, bool mine, Site) {
  u32 all;
  asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %3, 0; bar.red.and.pred q, %1, %2, p; selp.u32 %0, 1, 0, q; }"
               : "=r"(all)
               : "r"(id), "r"(threads), "r"(u32(mine))
               : "memory");
  return all;
}
TW_DEV bool again(bool more) { return more; }
TW_DEV void warp_sync() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }
TW_DEV u32 shfl_xor(u32 v, u32 mask) {
  u32 x;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(x) : "r"(v), "r"(mask));
  return x;
}
TW_DEV u32 shfl(u32 v, u32 lane) {
  u32 x;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(x) : "r"(v), "r"(lane));
  return x;
}

TW_DEV u64 ld_relaxed_sys(gaddr a) {
  u64 x;
  asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(x) : "l"(a) : "memory");
  return x;
}
TW_DEV u64 poll_relaxed_sys(gaddr a, u64, Site) { return ld_relaxed_sys(a); }
TW_DEV u64 ld_acquire_sys(gaddr a, Site) {
  u64 x;
  asm volatile("ld.acquire.sys.global.b64 %0, [%1];" : "=l"(x) : "l"(a) : "memory");
  return x;
}
TW_DEV void st_relaxed_sys(gaddr a, u64 x) {
  asm volatile("st.relaxed.sys.global.b64 [%0], %1;" ::"l"(a), "l"(x) : "memory");
}
TW_DEV void st_release_sys(gaddr a, u64 x, Site) {
  asm volatile("st.release.sys.global.b64 [%0], %1;" ::"l"(a), "l"(x) : "memory");
}

TW_DEV u32 atom_add_acq_rel_gpu(gaddr a, u32 x, Site) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(a), "r"(x) : "memory");
  return old;
}
TW_DEV u32 atom_cas_acq_rel_gpu(gaddr a, u32 want, u32 put, Site) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.global.cas.b32 %0, [%1], %2, %3;"
               : "=r"(old)
               : "l"(a), "r"(want), "r"(put)
               : "memory");
  return old;
}
TW_DEV u64 atom_add_relaxed_sys(gaddr a, u64 x) {
  u64 old;
  asm volatile("atom.relaxed.sys.global.add.u64 %0, [%1], %2;" : "=l"(old) : "l"(a), "l"(x) : "memory");
  return old;
}
TW_DEV void red_add_relaxed_gpu(gaddr a, u64 x) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(a), "l"(x) : "memory");
}
TW_DEV void red_max_relaxed_gpu(gaddr a, u64 x) {
  asm volatile("red.relaxed.gpu.global.max.u64 [%0], %1;" ::"l"(a), "l"(x) : "memory");
}
}  // namespace mx
