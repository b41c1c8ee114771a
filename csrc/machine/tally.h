// What lane 0 of every warp asks of the machine, in its order, as one number: alike on the node that computes and on the one
// that has a clock, whose times then are those of the kernel that computes (docs/clock.md, "The same calls").
//
// Left out is what a wait does (polls, acquires, the time, pauses), since how often one looks is a matter of time; and
// arithmetic in registers, which stands between these calls and is the same code. Who is the last to arrive at a counter goes on
// differently from the others, and who that is, is a matter of time too: there, and at the vote by which the others of its team
// hear of it, a piece ends, and pieces are added up.
#pragma once
#include <stdint.h>

#include "machine/site.h"

// Of a device. `base`: of its memory, from which addresses count.
struct TwTally {
  uint64_t base, sum, calls;
};

namespace mx {
enum class Call : uint64_t {
  Load = 1, Store, SharedLoad, SharedStore, Copy, CopyCommit, CopyWait, MatrixLoad, MatrixStore, Mma, MmaWait, Wgmma, WgmmaCommit,
  WgmmaWait, Barrier, ClusterSync, Shuffle, MbarInit, MbarArrive, MbarExpect, MbarWait, TmaLoad, TmaStore, BulkStore, BulkCommit, BulkWait,
  Word, Atomic, Add, Packet, SwitchLoad, SwitchStore, AliasFence,
};

// `Self`: who runs, of either machine. Its `tally` is null but where calls are counted, and in all lanes but lane 0.
template <class Self>
inline __attribute__((always_inline)) void note(Self* t, Call call, uint64_t a = 0, uint64_t b = 0) {
  if (!t->tally) return;
  t->piece = (t->piece ^ (uint64_t(call) << 56) ^ (b << 44) ^ a) * 0x9e3779b97f4a7c15ull;
  t->piece ^= t->piece >> 29;
  ++t->tally->calls;
}
// With an address of global memory.
template <class Self>
inline __attribute__((always_inline)) void note_at(Self* t, Call call, uint64_t addr, uint64_t b) {
  if (t->tally) note(t, call, addr - t->tally->base, b);
}
template <class Self>
inline __attribute__((always_inline)) void note_end(Self* t) {
  if (!t->tally) return;
  t->tally->sum += t->piece;
  t->piece = 0;
}
// A barrier with a vote. That of who waits for the peers' hellos belongs to the wait: who is last does so late, or has before.
template <class Self>
inline __attribute__((always_inline)) void note_vote(Self* t, uint64_t who, uint64_t vote, Site site) {
  if (site == Site::AgreeBarrier) return;
  note(t, Call::Barrier, who, vote);
  note_end(t);
}
}  // namespace mx
