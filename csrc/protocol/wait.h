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

// What this rank's host looks at before it launches again, and when it asks how things are.
TW_DEV void tell_abort(const TwParams& p, uint64_t why) {
  // Relaxed: the host reads what else it wants to know behind the kernel's end.
  if (p.group.report) mx::st_relaxed_sys(p.group.report + offsetof(TwReport, abort), why);
}

// A word of `peer` came after this thread had begun to wait for it: who holds this rank up most.
TW_DEV void note_wait(const TwParams& p, uint32_t peer, uint64_t began, uint64_t came) {
  const gaddr longest = own_heap(p) + offsetof(TwControl, totals) + offsetof(TwReport, longest_wait_ns) + 8 * peer;
  if (came > began) mx::red_max_relaxed_gpu(longest, came - began);
}

TW_DEV void raise_abort(const TwParams& p, uint64_t why) {
  // Relaxed: the word publishes nothing but itself. Everybody polls it beside what they wait for.
  for (uint32_t r = 0; r < p.group.world; ++r) mx::st_relaxed_sys(heap_of(p, r) + offsetof(TwControl, abort), why);
  tell_abort(p, why);
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

// What else a wait looks at: the peer's hello and this rank's abort word, loaded relaxed beside the word that is waited
// for, so that a poll costs one round trip, not four.
struct Surroundings {
  uint64_t hello_epoch, hello_hash, abort;
};
TW_DEV Surroundings look_around(const TwParams& p, uint64_t epoch, uint32_t peer) {
  const gaddr hello = own_heap(p) + hello_at(epoch, peer);
  Surroundings s;
  s.hello_epoch = mx::poll_relaxed_sys(hello + offsetof(TwHello, epoch), epoch, Site::None);
  s.hello_hash = mx::ld_relaxed_sys(hello + offsetof(TwHello, hash));
  s.abort = mx::poll_relaxed_sys(own_heap(p) + offsetof(TwControl, abort), TW_ABORT_NONE, Site::None);
  return s;
}

// Whether the peer's hello of this epoch carries another hash, which goes to `*hash`. An acquire only on suspicion, since
// this is asked at every poll: a hash read relaxed may still be the one before.
TW_DEV bool disagrees(const TwParams& p, uint64_t epoch, uint32_t peer, const Surroundings& s, uint64_t* hash) {
  if (s.hello_epoch != epoch || s.hello_hash == p.hash) return false;
  const gaddr hello = own_heap(p) + hello_at(epoch, peer);
  mx::ld_acquire_sys(hello + offsetof(TwHello, epoch), Site::HelloAcquire);  // pairs with HelloSend
  *hash = mx::ld_relaxed_sys(hello + offsetof(TwHello, hash));
  return *hash != p.hash;
}

// Whether an unsatisfied wait goes on. If not, it has been recorded.
TW_DEV bool keep_waiting(const TwParams& p, uint64_t epoch, const Wanted& w, const Surroundings& s, uint64_t seen,
                         uint64_t began) {
  uint32_t cause = TW_CAUSE_NONE;
  uint64_t expected = w.value, hash = 0;
  const uint64_t now = mx::time_ns(), waited = now > began ? now - began : 0;  // the clock need not be monotone
  if (disagrees(p, epoch, w.peer, s, &hash)) {
    cause = TW_CAUSE_DISAGREED;
    expected = p.hash;
    seen = hash;
  } else if (s.abort != TW_ABORT_NONE) {
    cause = TW_CAUSE_ABORT;
  } else if (waited >= p.group.deadline_ns) {
    cause = TW_CAUSE_DEADLINE;
  }
  if (cause == TW_CAUSE_NONE) return true;
  record_wait(p, epoch, w, cause, expected, seen, waited);
  return false;
}

// One thread's wait. True: everything that the peer published with that word is visible to this thread. `came`: when; it stays
// as it was where the word was there at once. The clock is read before the poll that finds it, inside the loop: behind that,
// threads of a warp that wait for several words may have met, and would all read the time of the last.
TW_DEV bool await_word(const TwParams& p, uint64_t epoch, const Wanted& w, Site poll, Site acquire, uint64_t& came) {
  uint64_t seen = mx::poll_relaxed_sys(w.word, w.value, poll);
  if (!w.met(seen)) {
    const uint64_t began = mx::time_ns();
    Surroundings around = look_around(p, epoch, w.peer);
    do {  // bounded: by the deadline
      if (!keep_waiting(p, epoch, w, around, seen, began)) return false;
      mx::pause(began + p.group.deadline_ns);
      came = mx::time_ns();
      around = look_around(p, epoch, w.peer);
      seen = mx::poll_relaxed_sys(w.word, w.value, poll);
    } while (!w.met(seen));
    note_wait(p, w.peer, began, came);
  }
  mx::ld_acquire_sys(w.word, acquire);
  return true;
}
}  // namespace tw
