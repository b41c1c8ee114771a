// cp.async: global to shared past the registers, completed by the group wait.
#pragma once
#include "types.h"

namespace mx {
// `.cg` caches in L2 alone: operands stream through L1 without displacing anything, and no stale line can be hit.
TW_DEV void cp_async_16(saddr dst, gaddr src, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}
TW_DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
TW_DEV void cp_async_wait(Site) {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
}  // namespace mx
