// The asynchronous proxy: TMA, bulk copies, and the fences between it and ordinary accesses. Copies run at issue, at some
// later moment or as late as possible, as the schedule has it (`src/driver/sim/tma.rs`, `bulk.rs`, `proxy.rs`).
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void fence_async_shared(Site s) { tw_sim_fence_async_shared(self(), u32(s)); }
TW_MACHINE void fence_async_global(Site s) { tw_sim_fence_async_global(self(), u32(s)); }

TW_MACHINE void tma_prefetch(const TwTensorMap& map) { tw_sim_tma_prefetch(self(), &map); }
TW_MACHINE void tma_load_2d_multicast(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, saddr bar, u32 ctas) {
  note(self(), Call::TmaLoad, c0 | u64(c1) << 32, bar);
  const u32 at[4] = {c0, c1, 0, 0};
  tw_sim_tma_load(self(), dst, &map, at, 2, bar, ctas);
}
TW_MACHINE void tma_load_2d(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, saddr bar) {
  tma_load_2d_multicast(dst, map, c0, c1, bar, kTwThisCta);
}
TW_MACHINE void tma_load_4d(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, u32 c2, u32 c3, saddr bar) {
  note(self(), Call::TmaLoad, c0 | u64(c1) << 32, bar);
  const u32 at[4] = {c0, c1, c2, c3};
  tw_sim_tma_load(self(), dst, &map, at, 4, bar, kTwThisCta);
}
TW_MACHINE void tma_store_2d(const TwTensorMap& map, saddr src, u32 c0, u32 c1) {
  note(self(), Call::TmaStore, c0 | u64(c1) << 32);
  const u32 at[4] = {c0, c1, 0, 0};
  tw_sim_tma_store(self(), &map, src, at);
}

TW_MACHINE void bulk_store(gaddr dst, saddr src, u32 bytes) {
  note(self(), Call::BulkStore, dst, bytes);
  tw_sim_bulk_store(self(), dst, src, bytes);
}
TW_MACHINE void bulk_commit() {
  note(self(), Call::BulkCommit);
  tw_sim_bulk_commit(self());
}
template <int N>
TW_MACHINE void bulk_wait(Site s) {
  note(self(), Call::BulkWait, N, 0);
  tw_sim_bulk_wait(self(), N, 0, u32(s));
}
template <int N>
TW_MACHINE void bulk_wait_read(Site s) {
  note(self(), Call::BulkWait, N, 1);
  tw_sim_bulk_wait(self(), N, 1, u32(s));
}
}  // namespace mx
