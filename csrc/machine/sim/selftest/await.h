#pragma once
#include "machine.h"

namespace mx {
// The wait of the real protocol: poll relaxed, pause, and one acquire at the end.
TW_DEV bool await(gaddr word, u64 want, u64 deadline, Site poll, Site acquire) {
  const u64 began = time_ns();
  while (poll_relaxed_sys(word, want, poll) != want) {
    if (time_ns() - began >= deadline) return false;
    pause(began + deadline);
  }
  ld_acquire_sys(word, acquire);
  return true;
}
}  // namespace mx
