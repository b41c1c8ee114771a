// The kernels of the timed machine by name, and the one thread-local that warps reach themselves by.
#include "calls.h"
#include "kernels/entries.h"

extern "C" {
__thread TwWarp* tw_timed_self = nullptr;

TwWarp** tw_timed_self_slot() { return &tw_timed_self; }

struct TwTimedEntry {
  const char* name;
  void (*run)(const TwParams&);
  uint32_t threads, ctas_per_sm;
};

#define TW_DECLARE(name, threads, ctas_per_sm) void tw_timed_kernel_##name(const TwParams&);
#define TW_ENTRY(name, threads, ctas_per_sm) {#name, tw_timed_kernel_##name, threads, ctas_per_sm},
TW_ENTRIES(TW_DECLARE)

static const TwTimedEntry kEntries[] = {TW_ENTRIES(TW_ENTRY)};

const TwTimedEntry* tw_timed_entries(uint32_t* count) {
  *count = sizeof kEntries / sizeof kEntries[0];
  return kEntries;
}
}
