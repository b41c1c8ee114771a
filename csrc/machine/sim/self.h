// What the running fiber knows of itself: its CUDA thread, its windows onto memory and their shadow, its clocks, and the
// queue of its warp's tensor-core work. `src/driver/sim/fiber.rs` holds the Rust twin; sizes and offsets are asserted in
// both. The inline functions of this folder work on this struct alone and fall into Rust only off the fast path.
//
// Shadow: one u64 for each 16-byte granule of memory.
//     0   not allocated
//     1   allocated, never written (or discarded): the content is poison, 0xff, whatever the bytes say
//     2   written by the host or by a stream's copy or fill: everybody may read it
//     else the last writer: CTA slot (12 bits) | thread * 2 + async (11) | clock (25) | the bytes it wrote (16)
// Behind the CTA's threads stand its asynchronous units: `src/driver/sim/shadow.rs`.
#pragma once
#include "machine/noted.h"
#include "types.h"

constexpr uint64_t kTwUnallocated = 0, kTwUnwritten = 1, kTwHost = 2;
constexpr uint32_t kTwClockShift = 16, kTwWhoShift = 41, kTwSlotShift = 52;
constexpr uint64_t kTwClockOne = 1ull << kTwClockShift, kTwAllBytes = 0xffff;
constexpr uint64_t kTwSliceShift = 36;  // each device owns 64 GiB of the node's addresses
constexpr uint64_t kTwSliceBytes = 1ull << kTwSliceShift;
constexpr uint32_t kTwNoPayload = ~0u;
constexpr uint32_t kTwThisCta = ~0u;  // in place of a mask of CTAs

// One recorded instruction of a warp's tensor-core queue: registers as distances below the fiber's stack base.
struct TwMmaOp {
  uint32_t kind;  // kTwLdmatrix, kTwMmaBf16, kTwMmaF16, kTwLdmatrixTrans
  uint32_t d, a, b;
};
enum : uint32_t { kTwLdmatrix = 0, kTwMmaBf16 = 1, kTwMmaF16 = 2, kTwLdmatrixTrans = 3 };

// One recorded wgmma of a warpgroup, or with `what` 0 a commit.
struct TwWgmmaOp {
  uint64_t a, b;  // descriptors
  uint32_t d;     // distance below the stack base
  uint32_t what;  // N | kTwMmaBf16 or kTwMmaF16 << 16 | add << 24
};

struct TwSelf {
  uint32_t thread, block, threads, grid;

  uint8_t* shared;          // the CTA's window
  uint64_t* shared_shadow;  // of the window
  uint32_t shared_bytes;
  uint32_t careful;         // a fault is planted: every site asks Rust

  uint64_t own_base;        // this device's slice of the arena
  uint64_t* own_shadow;     // of that slice

  uint64_t write_tag;       // shadow of what this thread writes now, no byte marked
  uint64_t async_tag;       // shadow of what the open cp.async group writes
  const uint32_t* row;      // what this thread knows of its CTA: a clock for each thread * 2 + async
  uint32_t async_known;     // newest cp.async group that this thread has waited for
  uint32_t async_now;       // copies run at issue (else they are queued)
  uint32_t async_queued;
  uint32_t payload;         // of the next store or load, if it crosses a link, or kTwNoPayload

  uint64_t stack_base;
  uint64_t mma_hash;        // over all recorded register numbers: equal in all lanes, or lanes diverged
  uint64_t mma_lowest;      // lowest register address recorded
  TwMmaOp* mma_ops;         // lane 0 alone; null elsewhere
  uint32_t* mma_rows;       // ldmatrix row addresses of this lane
  uint32_t mma_count, mma_room;
  uint32_t row_count, row_room;

  uint64_t wgmma_hash;      // over all wgmma and commits since the last wait: equal in all threads of a warpgroup
  TwWgmmaOp* wgmma_ops;     // first thread of a warpgroup alone; null elsewhere
  const uint32_t* wgmma_row;  // `row` when what this thread knows was last noted
  uint32_t wgmma_count, wgmma_room;
  uint32_t wgmma_fenced;
  uint32_t guarded;         // devices read each other's memory: stores to the own one ask Rust
  uint64_t noted;           // machine/noted.h
};

static_assert(sizeof(TwMmaOp) == 16 && sizeof(TwWgmmaOp) == 24 && sizeof(TwSelf) == 200, "the Rust twin in src/driver/sim/fiber.rs");
static_assert(offsetof(TwSelf, own_base) == 40 && offsetof(TwSelf, row) == 72 && offsetof(TwSelf, mma_ops) == 120, "TwSelf");

// Set by the executor at every resume. A fiber never changes its thread, so a cached address stays right.
extern "C" __thread TwSelf* tw_self;

extern "C" void tw_sim_noted(TwSelf*, uint64_t what);
inline void tell(TwSelf* t, uint64_t what) { tw_sim_noted(t, what); }

namespace mx {
TW_MACHINE TwSelf* self() { return tw_self; }
}  // namespace mx
