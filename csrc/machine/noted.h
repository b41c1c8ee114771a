// What lane 0 of every warp asks of the machine, call by call. A node that computes and has a clock runs every kernel on both: the
// one on the clock leads, and the one that computes may ask for nothing else than what that one asked for (docs/clock.md, "Both").
//
// Left out is what a wait does (polls, acquires, the time, pauses), since how often one looks is a matter of time; and
// arithmetic in registers, which stands between these calls and is the same code.
#pragma once
#include <stdint.h>

namespace mx {
// A byte each: the first of what is noted.
enum class Call : uint64_t {
  Load = 1, Store, SharedLoad, SharedStore, Copy, CopyCommit, CopyWait, MatrixLoad, MatrixStore, Mma, MmaWait, Wgmma, WgmmaCommit,
  WgmmaWait, Barrier, ClusterSync, Shuffle, MbarInit, MbarArrive, MbarExpect, MbarWait, TmaLoad, TmaStore, BulkStore, BulkCommit, BulkWait,
  Word, Atomic, Add, Packet, SwitchLoad, SwitchStore, AliasFence,
};

// `Self`: who runs, of either machine. Its `noted` is 0 but where calls are compared, and in all lanes but lane 0; `tell` of
// either machine takes it from here.
template <class Self>
inline __attribute__((always_inline)) void note(Self* t, Call call, uint64_t a = 0, uint64_t b = 0) {
  if (t->noted) tell(t, uint64_t(call) << 56 ^ b << 44 ^ a);
}
}  // namespace mx
