// Who takes part: some threads of a CTA that meet among themselves. What a role does is written over a Team:
//   thread(), threads()   a thread's number in the team, from 0; how many there are
//   sync(site), sync_or, sync_and   all threads of the team meet, with a vote
//   one(f)                thread 0 runs f()
//   each(count, f)        thread i < count runs f(i)
//   role()                what it is for whoever asks where time goes, TW_ROLE_*
#pragma once
#include "machine.h"

namespace tw {

// All threads of the CTA.
struct Cta {
  static TW_DEV uint32_t thread() { return mx::thread(); }
  static TW_DEV uint32_t threads() { return mx::threads(); }
  static TW_DEV uint32_t role() { return TW_ROLE_CTA; }
  static TW_DEV void sync(mx::Site s) { mx::cta_sync(s); }
  static TW_DEV bool sync_or(bool mine, mx::Site s) { return mx::cta_sync_or(mine, s); }
  static TW_DEV bool sync_and(bool mine, mx::Site s) { return mx::cta_sync_and(mine, s); }
  template <class F>
  static TW_DEV void one(F f) {
    if (mx::warp() == 0) mx::elect(f);
  }
  template <class F>
  static TW_DEV void each(uint32_t count, F f) {
    mx::each_lane(thread(), count, f);
  }
};

// Neighbouring warps of a CTA, meeting at a named barrier of their own.
template <uint32_t kFirst, uint32_t kThreads, uint32_t kBarrier, uint32_t kRole>
struct Warps {
  static_assert(kFirst % 32 == 0 && kThreads % 32 == 0 && kBarrier >= 1 && kBarrier <= 15, "Warps");
  static TW_DEV uint32_t thread() { return mx::thread() - kFirst; }
  static TW_DEV uint32_t threads() { return kThreads; }
  static TW_DEV uint32_t role() { return kRole; }
  static TW_DEV void sync(mx::Site s) { mx::bar_sync(kBarrier, kThreads, s); }
  static TW_DEV bool sync_or(bool mine, mx::Site s) { return mx::bar_sync_or(kBarrier, kThreads, mine, s); }
  static TW_DEV bool sync_and(bool mine, mx::Site s) { return mx::bar_sync_and(kBarrier, kThreads, mine, s); }
  template <class F>
  static TW_DEV void one(F f) {
    if (mx::warp() == kFirst / 32) mx::elect(f);
  }
  template <class F>
  static TW_DEV void each(uint32_t count, F f) {
    mx::each_lane(thread(), count, f);
  }
};

// One warp: of a Hopper kernel's, the first or the second. Votes go through shuffles, and memory is ordered among the lanes.
struct OneWarp {
  static TW_DEV uint32_t thread() { return mx::lane(); }
  static TW_DEV uint32_t threads() { return 32; }
  static TW_DEV uint32_t role() { return mx::warp() == 0 ? TW_ROLE_LOADER : TW_ROLE_STORER; }
  static TW_DEV void sync(mx::Site) { mx::warp_sync(); }
  static TW_DEV bool sync_or(bool mine, mx::Site s) { return !sync_and(!mine, s); }
  static TW_DEV bool sync_and(bool mine, mx::Site) {
    uint32_t all = mine;
    for (uint32_t mask = 16; mask; mask /= 2) all &= mx::shfl_xor(all, mask);
    mx::warp_sync();
    return all;
  }
  template <class F>
  static TW_DEV void one(F f) {
    mx::elect(f);
  }
  template <class F>
  static TW_DEV void each(uint32_t count, F f) {
    mx::each_lane(thread(), count, f);
  }
};
}  // namespace tw
