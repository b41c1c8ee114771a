// One case for each function of the machine that only Hopper has (docs/machine.md, "Hopper"). As in conformance.h,
// which runs them; `p.m` and `p.n` choose variants. Tiles lie from kTile on in shared memory, mbarriers before.
#pragma once
#include "kernels/conformance_words.h"
#include "tile/swizzle.h"

#define TW_CONFORMANCE_HOPPER_CASES(X)                                                                             \
  X(clusters) X(cluster_barrier) X(named_barriers) X(registers) X(mbarrier_phases) X(mbarriers_of_others) X(tma_2d)   \
  X(tma_4d) X(multicast) X(tma_store) X(bulk_copy) X(generic_then_tma) X(matrices_back) X(shared_b64) X(wgmma_bf16) \
  X(wgmma_f16)

namespace tw {
namespace conformance {
constexpr mx::u32 kTile = 1024;
constexpr mx::u32 kRows = 16;  // of a box, unless a case says otherwise
constexpr mx::u32 kBoxBytes = kRows * kSwizzleRow;

TW_DEV mx::saddr tile() { return mx::shared() + kTile; }
TW_DEV mx::saddr barrier_at(mx::u32 i) { return mx::shared() + 8 * i; }

// One thread initialises, all see it: of this CTA, or with `everywhere` of the cluster.
TW_DEV void start_barrier(mx::saddr bar, mx::u32 count, bool everywhere = false) {
  if (mx::thread() == 0) {
    mx::mbar_init(bar, count);
    mx::mbar_init_fence();
  }
  if (everywhere) {
    mx::cluster_sync(kHere);
  } else {
    mx::cta_sync(kHere);
  }
}

// Copies a swizzled box of kRows rows to `to`, row after row: thread t has chunk t % 8 of row t / 8.
TW_DEV void put_box(mx::gaddr to, mx::saddr box) {
  const mx::u32 t = mx::thread();
  mx::st_global_v4(to + 16 * t, mx::ld_shared_v4(box + swizzled(t / 8, t % 8)));
}

// out[2 t ..]: which CTA of its cluster thread t of the grid is in, and how many there are.
TW_DEV void clusters(const TwParams& p) {
  put(p, 2 * global_thread(), mx::cluster_rank());
  put(p, 2 * global_thread() + 1, mx::cluster_size());
}

// out[512 + t]: what the other CTA of the pair stored before the barrier.
TW_DEV void cluster_barrier(const TwParams& p) {
  const mx::u32 t = mx::thread(), first = mx::block() - mx::cluster_rank();
  put(p, global_thread(), word(p.x, global_thread()));
  mx::cluster_sync(kHere);
  const mx::u32 other = (first + (mx::cluster_rank() ^ 1)) * kThreads + (t ^ 3);
  put(p, 512 + global_thread(), word(p.out, other));
}

// out[4 t ..]: two barriers of 64 threads each, used a different number of times; votes in each pair of warps.
TW_DEV void named_barriers(const TwParams& p) {
  const mx::u32 t = mx::thread(), pair = t / 64, id = pair ? 15 : 1;
  mx::u32 mine = word(p.x, t);
  for (mx::u32 round = 0; round < 1 + 2 * pair; ++round) {
    const mx::saddr slots = mx::shared() + 512 * round;
    mx::st_shared_b32(slots + 4 * t, mine);
    mx::bar_sync(id, 64, kHere);
    mine = mx::ld_shared_b32(slots + 4 * (t ^ 33)) + 1;
  }
  put(p, 4 * t, mine);
  const mx::u32 chosen = word(p.weight, 0);
  put(p, 4 * t + 1, mx::bar_sync_or(id, 64, t == chosen, kHere));
  put(p, 4 * t + 2, mx::bar_sync_and(id, 64, t != chosen, kHere));
  put(p, 4 * t + 3, mx::bar_sync_or(id, 64, false, kHere) + 2 * mx::bar_sync_and(id, 64, true, kHere));
}

// out[t]: registers given back, and fewer of them taken again. All warps of the warpgroup meet between the two.
TW_DEV void registers(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::reg_dealloc<64>();
  const mx::u32 mine = word(p.x, t);
  mx::cta_sync(kHere);
  mx::reg_alloc<240>();
  put(p, t, 5 * mine);
}

// out[5 t ..]: five phases of one mbarrier at which all threads arrive; in each another thread's word.
TW_DEV void mbarrier_phases(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::saddr bar = barrier_at(3);
  start_barrier(bar, kThreads);
  mx::mbar_wait(bar, 1, kHere);  // the phase before the first is over
  mx::u32 mine = word(p.x, t);
  for (mx::u32 phase = 0; phase < 5; ++phase) {
    const mx::saddr slots = tile() + 512 * phase;
    mx::st_shared_b32(slots + 4 * t, mine);
    mx::mbar_arrive(bar, kHere);
    mx::mbar_wait(bar, phase % 2, kHere);
    mine = mx::ld_shared_b32(slots + 4 * ((29 * t + 64) % kThreads));
    put(p, 5 * t + phase, mine);
  }
}

// out[global thread]: four times CTA 0 of the pair waits for the other's threads, and then those for CTA 0's. One more
// arrival of each phase is by the waiting CTA itself.
TW_DEV void mbarriers_of_others(const TwParams& p) {
  const mx::u32 rank = mx::cluster_rank(), other = rank ^ 1;
  const mx::saddr bar = barrier_at(0);
  start_barrier(bar, kThreads + 1, true);
  mx::u32 phases = 0;
  for (; phases < 4; ++phases) {
    if (mx::thread() == 0) mx::mbar_arrive_at(bar, rank, kHere);
    if (rank == 1) mx::mbar_arrive_at(bar, other, kHere);
    mx::mbar_wait(bar, phases % 2, kHere);
    if (rank == 0) mx::mbar_arrive_at(bar, other, kHere);
  }
  put(p, global_thread(), phases);
  mx::cluster_sync(kHere);  // no CTA leaves while the other arrives at its mbarriers
}

// out[4 t ..]: the box at (m, n) of `map_x`, row after row.
TW_DEV void tma_2d(const TwParams& p) {
  const mx::saddr bar = barrier_at(1);
  start_barrier(bar, 1);
  if (mx::thread() == 0) {
    mx::tma_prefetch(p.map_x);
    mx::mbar_arrive_expect_tx(bar, kBoxBytes, kHere);
    mx::tma_load_2d(tile(), p.map_x, p.m, p.n, bar);
  }
  mx::mbar_wait(bar, 0, kHere);
  put_box(p.out, tile());
}

// out[4 t ..]: the box of `map_gathered` at the coordinates in `weight`; 4 x 2 x 2 rows.
TW_DEV void tma_4d(const TwParams& p) {
  const mx::saddr bar = barrier_at(0);
  start_barrier(bar, 1);
  if (mx::thread() == 0) {
    const mx::u32 c[4] = {word(p.weight, 0), word(p.weight, 1), word(p.weight, 2), word(p.weight, 3)};
    mx::mbar_arrive_expect_tx(bar, kBoxBytes, kHere);
    mx::tma_load_4d(tile(), p.map_gathered, c[0], c[1], c[2], c[3], bar);
  }
  mx::mbar_wait(bar, 0, kHere);
  put_box(p.out, tile());
}

// Boxes of 8 rows. out: rows 0..15 as both CTAs of the pair got them, each half loaded by one of them for both, and at
// 4096 the eight rows from 16 on, loaded by CTA 0 for the other alone.
TW_DEV void multicast(const TwParams& p) {
  const mx::u32 rank = mx::cluster_rank(), half = kBoxBytes / 2;
  const mx::saddr bar = barrier_at(2), last = tile() + kBoxBytes;
  start_barrier(bar, 1, true);
  if (mx::thread() == 0) {
    mx::mbar_arrive_expect_tx(bar, kBoxBytes + rank * half, kHere);
    mx::tma_load_2d_multicast(tile() + rank * half, p.map_x, 0, 8 * rank, bar, 3);
    if (rank == 0) mx::tma_load_2d_multicast(last, p.map_x, 0, 16, bar, 2);
  }
  mx::mbar_wait(bar, 0, kHere);
  put_box(p.out + kBoxBytes * rank, tile());
  if (rank == 1 && mx::thread() < 64) put_box(p.out + 2 * kBoxBytes, last);
  mx::cluster_sync(kHere);  // no CTA leaves while the other's box is under way to it
}

// `x` as a box, stored at (m, n) of `map_out`.
TW_DEV void tma_store(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::st_shared_v4(tile() + swizzled(t / 8, t % 8), mx::ld_global_v4(p.x + 16 * t));
  mx::fence_async_shared(kHere);
  mx::cta_sync(kHere);
  if (t == 0) {
    mx::tma_store_2d(p.map_out, tile(), p.m, p.n);
    mx::bulk_commit();
    mx::bulk_wait<0>(kHere);
  }
}

// Two chunks of 2048 and 1040 bytes of `x` leave in two groups for out and out + 4096. When the first has been read its
// place takes other words. out + 8192: both as ordinary loads see them after the whole wait.
TW_DEV void bulk_copy(const TwParams& p) {
  constexpr mx::u32 kLast = 1040;
  const mx::u32 t = mx::thread();
  const mx::gaddr first = p.out, second = p.out + 4096, seen = p.out + 8192;
  mx::st_shared_v4(tile() + 16 * t, mx::ld_global_v4(p.x + 16 * t));
  mx::st_shared_v4(tile() + 2048 + 16 * t, mx::ld_global_v4(p.x + 2048 + 16 * t));
  mx::fence_async_shared(kHere);
  mx::cta_sync(kHere);
  if (t == 0) {
    mx::bulk_store(first, tile(), 2048);
    mx::bulk_commit();
    mx::bulk_store(second, tile() + 2048, kLast);
    mx::bulk_commit();
    mx::bulk_wait_read<1>(kHere);
  }
  mx::cta_sync(kHere);
  mx::st_shared_v4(tile() + 16 * t, mx::vec4{{~0u, ~0u, ~0u, ~0u}});
  if (t == 0) mx::bulk_wait<0>(kHere);
  mx::cta_sync(kHere);
  mx::st_global_v4(seen + 16 * t, mx::ld_global_v4(first + 16 * t));
  if (16 * t < kLast) mx::st_global_v4(seen + 2048 + 16 * t, mx::ld_global_v4(second + 16 * t));
}

// out + 4096: rows that ordinary stores have written in out, `map_gathered`, as TMA then loads them.
TW_DEV void generic_then_tma(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::saddr bar = barrier_at(0);
  mx::st_global_v4(p.out + 16 * t, mx::ld_global_v4(p.x + 16 * (t ^ 9)));
  start_barrier(bar, 1);
  if (t == 0) {
    mx::fence_async_global(kHere);
    mx::mbar_arrive_expect_tx(bar, kBoxBytes, kHere);
    mx::tma_load_2d(tile(), p.map_gathered, 0, 0, bar);
  }
  mx::mbar_wait(bar, 0, kHere);
  put_box(p.out + 4096, tile());
}

// out[4 t ..]: four 8x8 matrices a warp, from the lanes' registers to rows of 16 bytes.
TW_DEV void matrices_back(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::vec4 v = mx::ld_global_v4(p.x + 16 * t);
  mx::stmatrix_x4(tile() + 16 * (t ^ 5), v.v);
  mx::cta_sync(kHere);
  mx::st_global_v4(p.out + 16 * t, mx::ld_shared_v4(tile() + 16 * t));
}

// out[4 t ..]: two stores of 8 bytes, read as one of 16.
TW_DEV void shared_b64(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::vec4 v = mx::ld_global_v4(p.x + 16 * t);
  mx::st_shared_b64(tile() + 16 * t, mx::u64(v.v[1]) << 32 | v.v[0]);
  mx::st_shared_b64(tile() + 16 * t + 8, mx::u64(v.v[3]) << 32 | v.v[2]);
  mx::cta_sync(kHere);
  mx::st_global_v4(p.out + 16 * t, mx::ld_shared_v4(tile() + 16 * (t ^ 1)));
}

// Rows of 64 16-bit values, swizzled into shared memory.
TW_DEV void take_rows(mx::saddr to, mx::gaddr from, mx::u32 rows) {
  for (mx::u32 i = mx::thread(); i < 8 * rows; i += kThreads)
    mx::st_shared_v4(to + swizzled(i / 8, i % 8), mx::ld_global_v4(from + 16 * i));
}

// out[64][N] = A B (+ C where m is not 0). x: A[64][64], then B[n N][k 64]; weight: C[64][N] of f32. Two groups of two
// steps each.
template <class T, mx::u32 N>
TW_DEV void wgmma_of(const TwParams& p) {
  const mx::saddr a = tile(), b = tile() + 64 * kSwizzleRow;
  take_rows(a, p.x, 64);
  take_rows(b, p.x + 64 * kSwizzleRow, N);
  mx::fence_async_shared(kHere);
  mx::cta_sync(kHere);
  // Element i of a thread's accumulators, in bytes from its first.
  constexpr auto place = [](mx::u32 i) { return 4 * (i % 4 / 2 * 8 * N + i / 4 * 8 + i % 2); };
  const mx::u32 first = 4 * ((16 * mx::warp() + mx::lane() / 4) * N + mx::lane() % 4 * 2);
  const mx::gaddr c = p.weight + first, out = p.out + first;
  float d[N / 2];
  TW_UNROLL
  for (mx::u32 i = 0; i < N / 2; ++i) d[i] = mx::bits_f32(mx::ld_global_b32(c + place(i)));
  mx::wgmma_fence(d);
  TW_UNROLL
  for (mx::u32 step = 0; step < 4; ++step) {
    const mx::u64 along = step * kWgmmaStep;
    mx::wgmma<T, N>(d, wgmma_descriptor(a) + along, wgmma_descriptor(b) + along, step || p.m);
    if (step % 2) mx::wgmma_commit();
  }
  mx::wgmma_wait<1>(d, kHere);
  mx::wgmma_wait<0>(d, kHere);
  TW_UNROLL
  for (mx::u32 i = 0; i < N / 2; ++i) mx::st_global_b32(out + place(i), mx::f32_bits(d[i]));
}
template <class T>
TW_DEV void wgmma_of_any(const TwParams& p) {
  if (p.n == 64) wgmma_of<T, 64>(p);
  if (p.n == 128) wgmma_of<T, 128>(p);
  if (p.n == 256) wgmma_of<T, 256>(p);
}
TW_DEV void wgmma_bf16(const TwParams& p) { wgmma_of_any<mx::bf16>(p); }
TW_DEV void wgmma_f16(const TwParams& p) { wgmma_of_any<mx::f16>(p); }
}  // namespace conformance
}  // namespace tw
