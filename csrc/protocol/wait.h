// Bounded waits for other ranks.
//
// A wait polls one word relaxed and, once it has the expected value, loads it again with acquire (an acquire in the loop
// would drop the L1 at every poll). While it is unsatisfied it also looks at the rank's abort word, at the peer's hello
// (another hash: the ranks launched different operations) and at the deadline. Giving up for one of these three, it
// records itself if it is the rank's first, and raises the abort word everywhere unless that is what it saw.
#pragma once
#include "protocol/address.h"

namespace tw {

struct Wanted {
  uint32_t kind, peer, tile;  // what a record would say
  gaddr word;                 // in this rank's heap
  uint64_t value;
  bool at_least;              // credits only grow, and may have grown past `value`
  TW_DEV bool met(uint64_t seen) const { return seen == value || (at_least && seen > value); }
};

TW_DEV void raise_abort(const TwParams& p, uint64_t why) {
  // Relaxed: the word publishes nothing but itself. Everybody polls it beside what they wait for.
  for (uint32_t r = 0; r < p.group.world; ++r) mx::st_relaxed_sys(heap_of(p, r) + offsetof(TwControl, abort), why);
}

TW_DEV void record_wait(const TwParams& p, uint64_t epoch, const Wanted& w, uint32_t cause, uint64_t expected, uint64_t seen,
                        uint64_t waited_ns) {
  const gaddr r = own_heap(p) + offsetof(TwControl, record);
  // One claim per rank; the host reads the record after the kernel, so the claim orders nothing but itself.
  if (mx::atom_cas_acq_rel_gpu(r + offsetof(TwWaitRecord, state), TW_RECORD_EMPTY, TW_RECORD_CLAIMED, Site::None) ==
      TW_RECORD_EMPTY) {
    mx::st_global_b32(r + offsetof(TwWaitRecord, kind), w.kind);
    mx::st_global_b32(r + offsetof(TwWaitRecord, cause), cause);
    mx::st_global_b32(r + offsetof(TwWaitRecord, op), p.desc.op);
    mx::st_global_b32(r + offsetof(TwWaitRecord, rank), p.group.rank);
    mx::st_global_b32(r + offsetof(TwWaitRecord, peer), w.peer);
    mx::st_global_b32(r + offsetof(TwWaitRecord, tile), w.tile);
    mx::st_global_b64(r + offsetof(TwWaitRecord, epoch), epoch);
    mx::st_global_b64(r + offsetof(TwWaitRecord, expected), expected);
    mx::st_global_b64(r + offsetof(TwWaitRecord, seen), seen);
    mx::st_global_b64(r + offsetof(TwWaitRecord, waited_ns), waited_ns);
    mx::st_global_b32(r + offsetof(TwWaitRecord, state), TW_RECORD_COMPLETE);
  }
  if (cause != TW_CAUSE_ABORT) raise_abort(p, cause == TW_CAUSE_DISAGREED ? TW_ABORT_DISAGREED : TW_ABORT_WAIT);
}

// Whether the peer's hello of this epoch is there and carries another hash, which goes to `*hash`. An acquire only on
// suspicion, since this is asked at every poll: a hash read relaxed may still be the one before.
TW_DEV bool disagrees(const TwParams& p, uint64_t epoch, uint32_t peer, uint64_t* hash) {
  const gaddr hello = own_heap(p) + hello_at(epoch, peer);
  if (mx::poll_relaxed_sys(hello + offsetof(TwHello, epoch), epoch, Site::None) != epoch) return false;
  if (mx::ld_relaxed_sys(hello + offsetof(TwHello, hash)) == p.hash) return false;
  mx::ld_acquire_sys(hello + offsetof(TwHello, epoch), Site::HelloAcquire);  // pairs with HelloSend
  *hash = mx::ld_relaxed_sys(hello + offsetof(TwHello, hash));
  return *hash != p.hash;
}

// What ends an unsatisfied wait: nothing yet (TW_CAUSE_NONE), or a cause, recorded.
TW_DEV uint32_t look_around(const TwParams& p, uint64_t epoch, const Wanted& w, uint64_t seen, uint64_t began) {
  uint32_t cause = TW_CAUSE_NONE;
  uint64_t expected = w.value, hash = 0;
  const uint64_t now = mx::time_ns();
  if (disagrees(p, epoch, w.peer, &hash)) {
    cause = TW_CAUSE_DISAGREED;
    expected = p.hash;
    seen = hash;
  } else if (mx::poll_relaxed_sys(own_heap(p) + offsetof(TwControl, abort), TW_ABORT_NONE, Site::None) != TW_ABORT_NONE) {
    cause = TW_CAUSE_ABORT;
  } else if (now - began >= p.group.deadline_ns) {
    cause = TW_CAUSE_DEADLINE;
  }
  if (cause != TW_CAUSE_NONE) record_wait(p, epoch, w, cause, expected, seen, now - began);
  return cause;
}

// One thread's wait. True: everything that the peer published with that word is visible to this thread.
TW_DEV bool await_word(const TwParams& p, uint64_t epoch, const Wanted& w, Site poll, Site acquire) {
  uint64_t seen = mx::poll_relaxed_sys(w.word, w.value, poll);
  if (!w.met(seen)) {
    const uint64_t began = mx::time_ns();
    do {  // bounded: look_around ends it at the deadline
      if (look_around(p, epoch, w, seen, began) != TW_CAUSE_NONE) return false;
      mx::pause(began + p.group.deadline_ns);
      seen = mx::poll_relaxed_sys(w.word, w.value, poll);
    } while (!w.met(seen));
  }
  mx::ld_acquire_sys(w.word, acquire);
  return true;
}
}  // namespace tw
