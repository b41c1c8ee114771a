// Time. The global timer is one clock for all SMs; it may tick no faster than once a microsecond.
#pragma once
#include "types.h"

namespace mx {
TW_DEV u64 time_ns() {
  u64 t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}
// Between two polls: long enough to leave the issue slots and the link to others, far below a link's round trip.
TW_DEV void pause(u64) { asm volatile("nanosleep.u32 32;" ::: "memory"); }
}  // namespace mx
