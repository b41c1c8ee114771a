// Where an operation's time goes: every role of a CTA says when it begins and ends what it does (docs/timeline.md).
//
// A team's first thread writes, in the order in which things happen, into the ring of its CTA and role. A stamp says what the role
// does from then on, until the next one says something else or nothing. `begin` and `end` may be called by all threads, or by
// those alone that the first one is among.
//
// A wait for several words at once is one span, with a stamp for each: when it came, as the thread that looked saw it.
//
// Where `TwParams::stamps` is 0 all this is a branch that goes one way. A ring that is full takes no more, and the track tells
// how many stamps there would have been.
#pragma once
#include "machine/team.h"
#include "protocol/address.h"

namespace tw {

template <class Team>
class Stamps {
  const TwParams& p;
  uint32_t n = 0;  // stamps so far, as the team's first thread knows: others may have counted fewer

  // The team's first thread, where there is somebody to tell.
  template <class F>
  TW_DEV void tell(F f) const {
    if (p.stamps) Team::one(f);
  }
  TW_DEV uint32_t place() const { return mx::block() * TW_ROLES + Team::role(); }
  TW_DEV gaddr track() const { return p.stamps + uint64_t(place()) * sizeof(TwTrack); }
  TW_DEV void put(uint32_t at, uint32_t kind, uint32_t peer, uint32_t tile, uint64_t ns) const {
    if (at >= p.stamp_capacity) return;
    const uint64_t before = uint64_t(p.stamp_ctas) * TW_ROLES * sizeof(TwTrack);
    const gaddr to = p.stamps + before + (uint64_t(place()) * p.stamp_capacity + at) * sizeof(TwStamp);
    mx::st_global_b64(to + offsetof(TwStamp, what), uint64_t(tile) << 32 | (peer & 0xffff) << 16 | kind);
    mx::st_global_b64(to + offsetof(TwStamp, ns), ns);
  }

 public:
  TW_DEV explicit Stamps(const TwParams& params) : p(params) {
    tell([&] { mx::st_global_b64(track() + offsetof(TwTrack, began_ns), mx::time_ns()); });
  }

  TW_DEV void begin(uint32_t kind, uint32_t tile, uint32_t peer = TW_STAMP_ALL) {
    if (!p.stamps) return;
    Team::one([&] { put(n, kind, peer, tile, mx::time_ns()); });
    ++n;
  }
  // Something else of the same tile, whose number need not be kept for it.
  TW_DEV void next(uint32_t kind, uint32_t peer = TW_STAMP_ALL) { begin(kind, TW_STAMP_SAME, peer); }
  TW_DEV void end() { begin(TW_STAMP_NONE, 0); }

  // A wait of the team's first warp, which is here together, for `count` words: where stamps of these go.
  TW_DEV uint32_t begin_wait(uint32_t kind, uint32_t tile, uint32_t count) {
    if (!p.stamps || Team::thread() >= 32) return 0;
    begin(TW_STAMP_WAIT + kind, tile);
    const uint32_t first = mx::shfl(n, 0);
    n += count;
    return first;
  }
  // Word `i` of these, by the thread that waited for it.
  TW_DEV void came(uint32_t first, uint32_t i, uint32_t peer, uint64_t ns) const {
    if (p.stamps) put(first + i, TW_STAMP_CAME, peer, 0, ns);
  }

  // The same where one thread waits for words of every rank; the last call for a rank counts.
  TW_DEV void came(uint32_t rank, uint64_t ns) const {
    tell([&] { put(n - p.group.world + rank, TW_STAMP_CAME, rank, 0, ns); });
  }

  // The role has nothing more to do.
  TW_DEV void close() const {
    tell([&] {
      mx::st_global_b64(track() + offsetof(TwTrack, stamps), n);
      mx::st_global_b64(track() + offsetof(TwTrack, ended_ns), mx::time_ns());
    });
  }
};
}  // namespace tw
