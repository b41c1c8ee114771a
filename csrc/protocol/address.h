// Where things lie in a heap. Offsets are the same on every rank; `half` picks the parity of a round or an epoch.
#pragma once
#include <stddef.h>
#include "abi.h"
#include "machine.h"

namespace tw {
using mx::gaddr;
using mx::saddr;
using mx::Site;
using mx::vec4;

TW_DEV gaddr heap_of(const TwParams& p, uint32_t rank) { return p.group.heap[rank]; }
TW_DEV gaddr own_heap(const TwParams& p) { return p.group.heap[p.group.rank]; }

TW_DEV uint64_t staging_at(const TwParams& p, uint64_t round) { return p.group.staging + (round & 1) * p.group.staging_half; }

TW_DEV uint64_t signal_at(const TwParams& p, uint64_t round, uint32_t index) {
  return p.group.signals + (round & 1) * p.group.signals_half + uint64_t(index) * 8;
}

TW_DEV uint64_t packets_at(const TwParams& p, uint64_t round) { return p.group.packets + (round & 1) * p.group.packets_half; }

// The slot of `from` in the parity of `epoch`.
TW_DEV uint64_t hello_at(uint64_t epoch, uint32_t from) {
  return offsetof(TwControl, hello) + ((epoch & 1) * TW_MAX_RANKS + from) * sizeof(TwHello);
}

TW_DEV uint64_t credit_at(uint64_t round, uint32_t from) {
  return offsetof(TwControl, credit) + ((round & 1) * TW_MAX_RANKS + from) * 8;
}
}  // namespace tw
