// The calls into the clock (`src/driver/sim/timed/callbacks.rs`): all that goes beyond the warp's SM, waits, or decides. Each
// first gives way to whoever is earlier. Bytes of an access are a lane's.
#pragma once
#include "self.h"

extern "C" {
uint32_t tw_timed_load(TwWarp*, uint64_t addr, uint32_t bytes);
void tw_timed_store(TwWarp*, uint64_t addr, uint32_t bytes);
void tw_timed_put(TwWarp*, uint64_t addr, uint64_t value, uint32_t bytes);
void tw_timed_copy_async(TwWarp*, uint64_t from, uint32_t bytes);

// id 0: all threads of the CTA. vote: 0 plain, 1 or, 2 and
uint32_t tw_timed_barrier(TwWarp*, uint32_t id, uint32_t threads, uint32_t vote, uint32_t mine);
void tw_timed_cluster_sync(TwWarp*);

void tw_timed_mbar_init(TwWarp*, uint32_t bar, uint32_t count);
void tw_timed_mbar_arrive(TwWarp*, uint32_t bar, uint32_t cta, uint32_t bytes);
void tw_timed_mbar_wait(TwWarp*, uint32_t bar, uint32_t parity);

void tw_timed_tma_load(TwWarp*, const TwTensorMap*, const uint32_t* at, uint32_t rank, uint32_t bar, uint32_t ctas);
void tw_timed_tma_store(TwWarp*, const TwTensorMap*, const uint32_t* at);
void tw_timed_bulk_store(TwWarp*, uint64_t to, uint32_t bytes);
void tw_timed_bulk_commit(TwWarp*);
void tw_timed_bulk_wait(TwWarp*, uint32_t open, uint32_t read);

uint64_t tw_timed_poll(TwWarp*, uint64_t addr, uint32_t acquire);
void tw_timed_word(TwWarp*, uint64_t addr, uint64_t value, uint32_t release);
uint32_t tw_timed_atomic_add(TwWarp*, uint64_t addr, uint32_t value);
uint32_t tw_timed_atomic_cas(TwWarp*, uint64_t addr, uint32_t want, uint32_t put);
uint64_t tw_timed_add(TwWarp*, uint64_t addr, uint64_t value, uint32_t fetch);
void tw_timed_max(TwWarp*, uint64_t addr, uint64_t value);
void tw_timed_pause(TwWarp*, uint64_t until_ns);

void tw_timed_load_packet(TwWarp*, uint64_t addr, uint32_t* to);
void tw_timed_store_packet(TwWarp*, uint64_t addr, const uint32_t* from);
uint32_t tw_timed_multicast_load(TwWarp*, uint64_t addr);
void tw_timed_multicast_store(TwWarp*, uint64_t addr);

// What a warp may do by one thread only, was done by all.
void tw_timed_not_elected(TwWarp*, const char* what);
}

namespace mx {
// Where lanes would do each its own, and lane 0 cannot stand for them: only within elect and each_lane.
TW_MACHINE TwWarp* one_lane(u32 instructions, const char* what) {
  TwWarp* w = at_call(instructions);
  if (w->lanes != 1) tw_timed_not_elected(w, what);
  return w;
}
}  // namespace mx
