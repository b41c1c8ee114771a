// Hopper: bulk copies out of shared memory, completed by groups of the thread that issued them.
#pragma once
#include "types.h"

namespace mx {
TW_DEV void bulk_store(gaddr dst, saddr src, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(dst), "r"(src), "r"(bytes)
               : "memory");
}
TW_DEV void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Written, and visible to this thread.
template <int N>
TW_DEV void bulk_wait(Site) {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
// The sources may be overwritten; of the destinations it says nothing.
template <int N>
TW_DEV void bulk_wait_read(Site) {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
}  // namespace mx
