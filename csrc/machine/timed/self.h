// What the running warp knows of itself, and the units of its SM that it shares with others.
// `src/driver/sim/timed/self_c.rs` holds the Rust twins; sizes and offsets are asserted in both.
//
// Times are picoseconds. What a warp issues between two calls into Rust is only counted (`issue`, `read`, `written`, `flops`) and
// becomes time in `settle`: its scheduler is one for every fourth warp of the SM, its tensor core too, shared memory is the
// SM's. A unit serves whoever comes, one after the other; who comes while it is busy waits.
//
// A loaded value is the number of its load. What is computed from it has that number too, of two the later one's: compilers
// let arithmetic wait for its operands, and what follows go first. A warp itself waits where an instruction must have the
// value (a store, a shuffle), and at a branch (a barrier, a poll, the next turn of a loop) for all that has been computed so
// far. So loads overlap as far as compiled code would let them. All other values are 0 or garbage; none of them may decide
// anything.
#pragma once
#include <stddef.h>

#include "machine/noted.h"
#include "types.h"

constexpr uint32_t kTwLoads = 16;       // loads that a thread has registers for, 64 of them: one more waits for the oldest
constexpr uint32_t kTwFirstLoad = 0x7c000000;  // its number; no small integer is one
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
  uint64_t noted;                         // machine/noted.h
  uint64_t now;
  const uint64_t* horizon;                // beyond it others come first

  uint64_t flops;                         // of mma since the last settling
  uint64_t group_flops;                   // of the open group of wgmma
  uint32_t issue, read, written;          // since the last settling: instructions, bytes of shared memory
  uint32_t group_traffic, payload;

  uint32_t part;                          // of the SM's four, the one that this warp belongs to
  uint32_t loads, async_groups, wgmma_groups;  // numbers given so far
  uint64_t async_ready;                   // when the open cp.async group's bytes are there
  uint64_t computed, pieces;              // when all is there that went into arithmetic; the last of loads that lose their number
  uint64_t ready[kTwLoads];
  uint64_t async_done[kTwGroups], wgmma_done[kTwGroups];
};

// What instructions cost, alike for all SMs of a node.
struct TwCosts {
  uint64_t cycle;                         // ps
  uint64_t shared_byte, shared_latency;   // 1/1024 ps, ps
  uint64_t mma_flop, wgmma_flop;          // of one of four tensor cores, 1/1024 ps
  uint64_t mma_latency, wgmma_latency;    // ps, of an mma, of a group of wgmma behind its last product
};

static_assert(sizeof(TwUnit) == 16 && sizeof(TwSm) == 144 && sizeof(TwCosts) == 56, "the Rust twins");
static_assert(sizeof(TwWarp) == 544 && offsetof(TwWarp, loads) == 120 && offsetof(TwWarp, ready) == 160, "the Rust twin");

extern "C" __thread TwWarp* tw_timed_self;

extern "C" {
// Gives way to warps whose time is earlier.
void tw_timed_turn(TwWarp*);
// Where calls are noted: one, and a look at the time.
void tw_timed_noted(TwWarp*, uint64_t what);
void tw_timed_looked(TwWarp*, uint64_t ns);
}
inline void tell(TwWarp* w, uint64_t what) { tw_timed_noted(w, what); }

namespace mx {
TW_MACHINE TwWarp* self() { return tw_timed_self; }

TW_MACHINE u64 later(u64 a, u64 b) { return a > b ? a : b; }

// From `from` on for `time`, behind what others have asked for; the end.
TW_MACHINE u64 serve(TwUnit& unit, u64 from, u64 time) {
  unit.free_at = later(from, unit.free_at) + time;
  unit.busy += time;
  return unit.free_at;
}

// Makes time of what has been counted. Lanes that do the same as lane 0 did at the same moment ask no unit again.
TW_MACHINE void settle(TwWarp* w) {
  const u64 from = w->now;
  if (w->lane) {
    w->now = from + w->issue * w->costs->cycle + (w->read ? w->costs->shared_latency : 0);
    w->issue = w->read = w->written = 0;
    return;
  }
  if (w->issue) {
    w->now = serve(w->sm->scheduler[w->part], from, w->issue * w->costs->cycle);
    w->issue = 0;
  }
  // Stores are on their way when they have been issued.
  if (w->written) serve(w->sm->shared, from, w->written * w->costs->shared_byte >> 10);
  w->written = 0;
  u64 operands = from;
  if (w->read) {
    operands = from + w->costs->shared_latency;
    w->now = later(w->now, serve(w->sm->shared, from, w->read * w->costs->shared_byte >> 10) + w->costs->shared_latency);
    w->read = 0;
  }
  // Products begin with the first operands, and the warp goes on when the last one has begun: its sums are not read here.
  if (w->flops) {
    const u64 done = serve(w->sm->tensor[w->part], operands, w->flops * w->costs->mma_flop >> 10);
    w->now = later(w->now, done - w->costs->mma_latency);
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

// When a value is there: the number of a load may be an old one's, whose data has come.
TW_MACHINE u64 ready(const TwWarp* w, u32 value) {
  const u32 number = value - kTwFirstLoad;
  return w->loads - number < kTwLoads ? w->ready[number % kTwLoads] : 0;
}

// Whoever must have a value waits for it.
TW_MACHINE void need(TwWarp* w, u32 value) { w->now = later(w->now, ready(w, value)); }
TW_MACHINE void need(TwWarp* w, const vec4& x) {
  for (u32 i = 0; i < 4; ++i) need(w, x.v[i]);
}

// Of what is made from two values: the later one.
TW_MACHINE u32 made_of(TwWarp* w, u32 a, u32 b) {
  const u64 a_at = ready(w, a), b_at = ready(w, b);
  w->computed = later(w->computed, later(a_at, b_at));
  return a_at < b_at ? b : a_at ? a : 0;
}

// Before whatever ends a straight piece of code.
TW_MACHINE TwWarp* at_branch(u32 instructions) {
  TwWarp* w = at_call(instructions);
  w->now = later(w->now, w->computed);
  return w;
}
}  // namespace mx
