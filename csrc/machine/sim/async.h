// cp.async: runs at issue, at some later moment or at the wait, as the schedule has it. Its writes carry the number of
// their group, which nobody knows, its own thread included, before `cp_async_wait`.
#pragma once
#include "shared.h"

namespace mx {
TW_MACHINE void cp_async_16(saddr dst, gaddr src, u32 bytes) {
  note(self(), Call::Copy, src, bytes);
  TwSelf* t = self();
  const u64 at = src - t->own_base;
  const bool plain = bytes == 0 || (at < kTwSliceBytes && at % 16 == 0 && t->own_shadow[at / 16] == kTwHost);
  if (!plain || !t->async_now || u64(dst) + 16 > t->shared_bytes || dst % 16 || bytes > 16) {
    tw_sim_copy_async(t, dst, src, bytes);
    return;
  }
  uint8_t* to = t->shared + dst;
  if (bytes == 16) {
    memcpy(to, reinterpret_cast<const void*>(src), 16);
  } else {
    memset(to, 0, 16);
    memcpy(to, reinterpret_cast<const void*>(src), bytes);
  }
  t->shared_shadow[dst / 16] = t->async_tag;
}
TW_MACHINE void cp_async_commit() {
  note(self(), Call::CopyCommit);
  self()->async_tag += kTwClockOne;
}
template <int N>
TW_MACHINE void cp_async_wait(Site s) {
  note(self(), Call::CopyWait, N);
  TwSelf* t = self();
  // The open group is not waited for: the newest complete one is N + 1 before it.
  const u32 newest = (u32(t->async_tag >> kTwClockShift) & 0x1ffffff) - 1 - N;
  if (t->async_queued | t->careful) {
    tw_sim_copy_wait(t, newest, u32(s));
  } else if (newest > t->async_known) {
    t->async_known = newest;
  }
}
}  // namespace mx
