// Clusters of CTAs, and barriers of some of a CTA's warps.
#pragma once
#include "calls.h"

namespace mx {
TW_MACHINE u32 cluster_rank() { return tw_sim_cluster_rank(self()); }
TW_MACHINE u32 cluster_size() { return tw_sim_cluster_size(self()); }
TW_MACHINE void cluster_sync(Site s) {
  note(self(), Call::ClusterSync);
  tw_sim_cluster_sync(self(), u32(s));
}

TW_MACHINE void bar_sync(u32 id, u32 threads, Site s) {
  note(self(), Call::Barrier, id | threads << 8, 0);
  tw_sim_named_barrier(self(), id, threads, 0, 0, u32(s));
}
TW_MACHINE bool bar_sync_or(u32 id, u32 threads, bool mine, Site s) {
  note(self(), Call::Barrier, id | threads << 8, 1);
  return tw_sim_named_barrier(self(), id, threads, 1, mine, u32(s));
}
TW_MACHINE bool bar_sync_and(u32 id, u32 threads, bool mine, Site s) {
  note(self(), Call::Barrier, id | threads << 8, 2);
  return tw_sim_named_barrier(self(), id, threads, 2, mine, u32(s));
}
}  // namespace mx
