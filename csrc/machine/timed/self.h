// What the running warp knows of itself, and the units of its SM that it shares with others.
// `src/driver/sim/timed/self_c.rs` holds the Rust twins; sizes and offsets are asserted in both.
//
// Times are picoseconds. What a warp issues between two calls into Rust is only counted (`issue`, `traffic`, `flops`) and
// becomes time in `settle`: its scheduler is one for every fourth warp of the SM, its tensor core too, shared memory is the
// SM's. A unit serves whoever comes, one after the other; who comes while it is busy waits.
//
// A loaded value is the number of its load, 1 to kTwLoads - 1: whatever computes with it, or stores it, first waits until it is
// there. So loads overlap as far as the kernel's own code lets them. All other values are 0 or garbage; none of them may
// decide anything.
#pragma once
#include <stddef.h>

#include "types.h"

constexpr uint32_t kTwLoads = 128;      // numbers of loads under way, reused in turn
constexpr uint32_t kTwGroups = 16;      // commit groups that a warp remembers, of each kind

// A unit that serves one after the other: when it is free, and how long it has been busy.
struct TwUnit {
  uint64_t free_at, busy;
};

struct TwSm {
  TwUnit scheduler[4], tensor[4], shared;
};

struct TwWarp {
  uint32_t thread, block, threads, grid;  // `thread`: the warp's first
  uint32_t lane, lanes;                   // who runs, and for how many: 0 and 32, but within elect and each_lane
  uint32_t cluster_rank, cluster_size;

  uint8_t* shared;
  TwSm* sm;
  const struct TwCosts* costs;
  uint64_t now;
  const uint64_t* horizon;                // beyond it others come first

  uint32_t issue, traffic;                // since the last settling: instructions, bytes of shared memory
  uint64_t flops;                         // of mma
  uint64_t group_flops;                   // of the open group of wgmma
  uint32_t group_traffic, payload;

  uint32_t loads, async_groups;           // numbers given so far
  uint32_t wgmma_groups, part;            // `part`: of the SM's four, the one that this warp belongs to
  uint64_t async_ready;                   // when the open cp.async group's bytes are there
  uint64_t ready[kTwLoads];
  uint64_t async_done[kTwGroups], wgmma_done[kTwGroups];
};

// What instructions cost, alike for all SMs of a node.
struct TwCosts {
  uint64_t cycle;                         // ps
  uint64_t shared_byte, shared_latency;   // 1/1024 ps, ps
  uint64_t mma_flop, wgmma_flop;          // of one of four tensor cores, 1/1024 ps
  uint64_t wgmma_latency;                 // ps, of a group behind its last product
};

static_assert(sizeof(TwUnit) == 16 && sizeof(TwSm) == 144 && sizeof(TwCosts) == 48, "the Rust twins");
static_assert(sizeof(TwWarp) == 1408 && offsetof(TwWarp, loads) == 104 && offsetof(TwWarp, ready) == 128, "the Rust twin");

extern "C" __thread TwWarp* tw_timed_self;

extern "C" {
// Gives way to warps whose time is earlier.
void tw_timed_turn(TwWarp*);
}

namespace mx {
TW_MACHINE TwWarp* self() { return tw_timed_self; }

TW_MACHINE u64 later(u64 a, u64 b) { return a > b ? a : b; }

// From `from` on for `time`, behind what others have asked for; the end.
TW_MACHINE u64 serve(TwUnit& unit, u64 from, u64 time) {
  unit.free_at = later(from, unit.free_at) + time;
  unit.busy += time;
  return unit.free_at;
}

// Makes time of what has been counted.
TW_MACHINE void settle(TwWarp* w) {
  const u64 from = w->now;
  if (w->issue) {
    w->now = serve(w->sm->scheduler[w->part], from, w->issue * w->costs->cycle);
    w->issue = 0;
  }
  if (w->traffic) {
    w->now = later(w->now, serve(w->sm->shared, from, w->traffic * w->costs->shared_byte >> 10) + w->costs->shared_latency);
    w->traffic = 0;
  }
  if (w->flops) {
    w->now = later(w->now, serve(w->sm->tensor[w->part], from, w->flops * w->costs->mma_flop >> 10));
    w->flops = 0;
  }
}

// Before a call into Rust: `instructions` more, and the time so far.
TW_MACHINE TwWarp* at_call(u32 instructions) {
  TwWarp* w = self();
  w->issue += instructions;
  settle(w);
  return w;
}

// Whoever is to have the value of a load waits for it.
TW_MACHINE void need(TwWarp* w, u32 value) {
  if (value < kTwLoads && w->ready[value] > w->now) w->now = w->ready[value];
}
}  // namespace mx
