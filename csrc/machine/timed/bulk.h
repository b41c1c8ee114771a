// The asynchronous proxy, and the switch.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE void fence_async_shared(Site) { self()->issue += 8; }
TW_MACHINE void fence_async_global(Site) { self()->issue += 8; }

TW_MACHINE void tma_prefetch(const TwTensorMap&) {}
TW_MACHINE void tma_load_2d_multicast(saddr, const TwTensorMap& map, u32 c0, u32 c1, saddr bar, u32 ctas) {
  note(self(), Call::TmaLoad, c0 | u64(c1) << 32, bar);
  const u32 at[4] = {c0, c1, 0, 0};
  tw_timed_tma_load(one_lane(2, "tma_load_2d"), &map, at, 2, bar, ctas);
}
TW_MACHINE void tma_load_2d(saddr to, const TwTensorMap& map, u32 c0, u32 c1, saddr bar) {
  tma_load_2d_multicast(to, map, c0, c1, bar, 0);
}
TW_MACHINE void tma_load_4d(saddr, const TwTensorMap& map, u32 c0, u32 c1, u32 c2, u32 c3, saddr bar) {
  note(self(), Call::TmaLoad, c0 | u64(c1) << 32, bar);
  const u32 at[4] = {c0, c1, c2, c3};
  tw_timed_tma_load(one_lane(2, "tma_load_4d"), &map, at, 4, bar, 0);
}
TW_MACHINE void tma_store_2d(const TwTensorMap& map, saddr, u32 c0, u32 c1) {
  note(self(), Call::TmaStore, c0 | u64(c1) << 32);
  const u32 at[4] = {c0, c1, 0, 0};
  tw_timed_tma_store(one_lane(2, "tma_store_2d"), &map, at);
}
TW_MACHINE void bulk_store(gaddr to, saddr, u32 bytes) {
  note(self(), Call::BulkStore, to, bytes);
  tw_timed_bulk_store(one_lane(2, "bulk_store"), to, bytes);
}
TW_MACHINE void bulk_commit() {
  note(self(), Call::BulkCommit);
  tw_timed_bulk_commit(at_call(1));
}
template <int N>
TW_MACHINE void bulk_wait(Site) {
  note(self(), Call::BulkWait, N, 0);
  tw_timed_bulk_wait(at_call(1), N, 0);
}
template <int N>
TW_MACHINE void bulk_wait_read(Site) {
  note(self(), Call::BulkWait, N, 1);
  tw_timed_bulk_wait(at_call(1), N, 1);
}

template <class T>
TW_MACHINE vec4 multimem_ld_reduce_v4(gaddr a) {
  note(self(), Call::SwitchLoad, a, 0);
  const u32 x = tw_timed_multicast_load(at_call(3), a);
  return {{x, x, x, x}};
}
TW_MACHINE void multimem_st_v4(gaddr a, vec4 x) {
  note(self(), Call::SwitchStore, a, 0);
  TwWarp* w = at_call(3);
  need(w, x);
  tw_timed_multicast_store(w, a);
}
TW_MACHINE void fence_alias(Site) {
  note(self(), Call::AliasFence);
  self()->issue += 8;
}
}  // namespace mx
