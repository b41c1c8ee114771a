// The kernels by name, and the one thread-local that fibers reach themselves by.
#include "calls.h"
#if __has_include("kernels/entries.h")
#include "kernels/entries.h"
#else
#define TW_ENTRIES(X)
#endif
#include "selftest/entries.h"

extern "C" {
__thread TwSelf* tw_self = nullptr;

TwSelf** tw_sim_self_slot() { return &tw_self; }

struct TwEntry {
  const char* name;
  void (*run)(const TwParams&);
  uint32_t threads, ctas_per_sm;
};

#define TW_DECLARE(name, threads, ctas_per_sm) void tw_kernel_##name(const TwParams&);
#define TW_ENTRY(name, threads, ctas_per_sm) {#name, tw_kernel_##name, threads, ctas_per_sm},
TW_ENTRIES(TW_DECLARE)
TW_SELFTEST_ENTRIES(TW_DECLARE)

static const TwEntry kEntries[] = {TW_ENTRIES(TW_ENTRY) TW_SELFTEST_ENTRIES(TW_ENTRY)};

const TwEntry* tw_sim_entries(uint32_t* count) {
  *count = sizeof kEntries / sizeof kEntries[0];
  return kEntries;
}

// What the Rust side asserts of its twins.
uint32_t tw_sim_layout(uint32_t which) {
  switch (which) {
    case 0: return sizeof(TwSelf);
    case 1: return offsetof(TwSelf, wgmma_fenced);
    case 2: return sizeof(TwMmaOp);
    case 3: return uint32_t(mx::Site::Count);
    default: return sizeof(TwParams);
  }
}
}
