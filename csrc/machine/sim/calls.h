// The calls into the executor (`src/driver/sim/callbacks.rs`): everything that blocks, orders, touches a peer, or fails a
// check. A call that finds a violation never returns: its fiber is abandoned.
#pragma once
#include "self.h"

extern "C" {
// Accesses off the fast path: addresses of peers, writers that must be looked up, and errors.
void tw_sim_load(TwSelf*, uint64_t addr, void* to, uint32_t bytes);
void tw_sim_store(TwSelf*, uint64_t addr, const void* from, uint32_t bytes);
void tw_sim_shared_check(TwSelf*, uint32_t addr, uint32_t bytes, uint32_t write);
void tw_sim_discard(TwSelf*, uint64_t addr, uint64_t bytes);

void tw_sim_copy_async(TwSelf*, uint32_t dst, uint64_t src, uint32_t bytes);
void tw_sim_copy_wait(TwSelf*, uint32_t newest, uint32_t site);

// vote: 0 plain, 1 or, 2 and
uint32_t tw_sim_barrier(TwSelf*, uint32_t vote, uint32_t mine, uint32_t site);
void tw_sim_warp_sync(TwSelf*);
uint32_t tw_sim_shuffle(TwSelf*, uint32_t value, uint32_t from_lane);
void tw_sim_mma_grow(TwSelf*);
void tw_sim_mma_wait(TwSelf*, uint64_t frame, uint32_t site);

void tw_sim_wgmma_begin(TwSelf*);
void tw_sim_wgmma_grow(TwSelf*);
void tw_sim_wgmma_wait(TwSelf*, uint64_t frame, uint32_t keep, uint32_t site);
void tw_sim_stmatrix(TwSelf*, uint32_t row, const uint32_t* r);
void tw_sim_registers(TwSelf*, uint32_t count, uint32_t increase);

uint64_t tw_sim_poll(TwSelf*, uint64_t addr, uint64_t want, uint32_t site);
uint64_t tw_sim_load_acquire(TwSelf*, uint64_t addr, uint32_t site);
void tw_sim_store_word(TwSelf*, uint64_t addr, uint64_t value, uint32_t release, uint32_t site);
uint32_t tw_sim_atomic_add(TwSelf*, uint64_t addr, uint32_t value, uint32_t site);
uint32_t tw_sim_atomic_cas(TwSelf*, uint64_t addr, uint32_t want, uint32_t put, uint32_t site);
uint64_t tw_sim_add_relaxed(TwSelf*, uint64_t addr, uint64_t value);
uint64_t tw_sim_max_relaxed(TwSelf*, uint64_t addr, uint64_t value);
void tw_sim_load_packet(TwSelf*, uint64_t addr, uint32_t* to, uint32_t tag, uint32_t site);
void tw_sim_store_packet(TwSelf*, uint64_t addr, const uint32_t* from);

// Clusters, mbarriers and the asynchronous proxy (`src/driver/sim/hopper.rs`).
uint32_t tw_sim_cluster_rank(TwSelf*);
uint32_t tw_sim_cluster_size(TwSelf*);
void tw_sim_cluster_sync(TwSelf*, uint32_t site);
uint32_t tw_sim_named_barrier(TwSelf*, uint32_t id, uint32_t threads, uint32_t vote, uint32_t mine, uint32_t site);

void tw_sim_mbar_init(TwSelf*, uint32_t bar, uint32_t count);
void tw_sim_mbar_init_fence(TwSelf*);
void tw_sim_mbar_arrive(TwSelf*, uint32_t bar, uint32_t site);
void tw_sim_mbar_arrive_at(TwSelf*, uint32_t bar, uint32_t cta, uint32_t site);
void tw_sim_mbar_arrive_expect_tx(TwSelf*, uint32_t bar, uint32_t bytes, uint32_t site);
void tw_sim_mbar_wait(TwSelf*, uint32_t bar, uint32_t parity, uint32_t site);

void tw_sim_fence_async_shared(TwSelf*, uint32_t site);
void tw_sim_fence_async_global(TwSelf*, uint32_t site);
// `at`: coordinates, innermost first; `ctas`: a mask, or kTwThisCta.
void tw_sim_tma_prefetch(TwSelf*, const TwTensorMap*);
void tw_sim_tma_load(TwSelf*, uint32_t dst, const TwTensorMap*, const uint32_t* at, uint32_t rank, uint32_t bar, uint32_t ctas);
void tw_sim_tma_store(TwSelf*, const TwTensorMap*, uint32_t src, const uint32_t* at);
void tw_sim_bulk_store(TwSelf*, uint64_t dst, uint32_t src, uint32_t bytes);
void tw_sim_bulk_commit(TwSelf*);
void tw_sim_bulk_wait(TwSelf*, uint32_t open, uint32_t read, uint32_t site);

// Multicast (`src/driver/sim/switch.rs`): the addresses of every member's 16 bytes, in the order in which they are added.
uint32_t tw_sim_multicast_load(TwSelf*, uint64_t addr, uint64_t* from);
void tw_sim_multicast_store(TwSelf*, uint64_t addr, const uint32_t* from);
void tw_sim_fence_alias(TwSelf*, uint32_t site);

uint64_t tw_sim_time(TwSelf*);
void tw_sim_pause(TwSelf*, uint64_t until);
}
