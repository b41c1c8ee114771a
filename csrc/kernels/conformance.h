// One case for each function of `machine.h`, and one for `tile/functions.h`, run on both machines by `tests/conformance`, which computes what must come
// out. `p.k` is the case, by its place in the list and then in Hopper's; a case reads `p.x` and `p.weight` and writes
// `p.out`. The words that CTAs meet in are in `p.out` and start as 0. No case polls for longer than kPatience.
#pragma once
#include "kernels/conformance_hopper.h"
#include "kernels/conformance_multicast.h"
#include "kernels/conformance_words.h"
#include "machine.h"
#include "tile/functions.h"

#define TW_CONFORMANCE_CASES(X)                                                                              \
  X(identity) X(shared_base) X(barrier) X(votes) X(warp) X(shared_widths) X(global_widths) X(async_copy)     \
  X(matrices) X(matrices_turned) X(mma_bf16) X(mma_f16) X(words) X(message) X(atomics) X(packets) X(clock)     \
  X(arithmetic) X(conversions) X(hints) X(functions)

namespace tw {
namespace conformance {
// out[6 t ..]: who thread t of the grid is.
TW_DEV void identity(const TwParams& p) {
  const mx::u32 at = 6 * global_thread();
  put(p, at, mx::thread());
  put(p, at + 1, mx::threads());
  put(p, at + 2, mx::block());
  put(p, at + 3, mx::grid());
  put(p, at + 4, mx::lane());
  put(p, at + 5, mx::warp());
}

// out[t]: the misalignment of the shared window's base.
TW_DEV void shared_base(const TwParams& p) { put(p, mx::thread(), mx::shared() % 1024); }

// out[t]: what another thread, in another warp, stored before the barrier.
TW_DEV void barrier(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::st_shared_b32(mx::shared() + 4 * t, word(p.x, t));
  mx::cta_sync(kHere);
  put(p, t, mx::ld_shared_b32(mx::shared() + 4 * ((37 * t + 41) % kThreads)));
}

// out[6 t ..]: votes of one thread, of none, of all.
TW_DEV void votes(const TwParams& p) {
  const mx::u32 t = mx::thread(), at = 6 * t, chosen = word(p.x, 0);
  put(p, at, mx::cta_sync_or(t == chosen, kHere));
  put(p, at + 1, mx::cta_sync_or(false, kHere));
  put(p, at + 2, mx::cta_sync_or(true, kHere));
  put(p, at + 3, mx::cta_sync_and(t != chosen, kHere));
  put(p, at + 4, mx::cta_sync_and(true, kHere));
  put(p, at + 5, mx::cta_sync_and(false, kHere));
}

// out[4 t ..]: exchanges between the lanes of a warp, by register and by shared memory.
TW_DEV void warp(const TwParams& p) {
  const mx::u32 t = mx::thread(), mine = word(p.x, t);
  put(p, 4 * t, mx::shfl_xor(mine, 1));
  put(p, 4 * t + 1, mx::shfl_xor(mine, 31));
  put(p, 4 * t + 2, mx::shfl(mine, (7 * mx::lane() + 3) % 32));
  mx::st_shared_b32(mx::shared() + 4 * t, mine);
  mx::warp_sync();
  put(p, 4 * t + 3, mx::ld_shared_b32(mx::shared() + 4 * (t ^ 17)));
}

// out[4 t ..]: 16 bytes stored whole, then their third 16-bit half alone, read whole by the neighbour.
TW_DEV void shared_widths(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::st_shared_v4(mx::shared() + 16 * t, mx::ld_global_v4(p.x + 16 * t));
  mx::st_shared_b16(mx::shared() + 16 * t + 4, word(p.weight, t));
  mx::cta_sync(kHere);
  mx::st_global_v4(p.out + 16 * t, mx::ld_shared_v4(mx::shared() + 16 * (t ^ 1)));
}

// out: 16 bytes a thread stored whole; from 4096: 8 bytes, 4 bytes and 2 bytes a thread.
TW_DEV void global_widths(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::vec4 v = mx::ld_global_v4(p.x + 16 * t);
  mx::st_global_v4(p.out + 16 * t, mx::vec4{{v.v[3], v.v[2], v.v[1], v.v[0]}});
  mx::st_global_b64(p.out + 4096 + 8 * t, mx::u64(v.v[1]) << 32 | v.v[0]);
  mx::st_global_b32(p.out + 8192 + 4 * t, mx::ld_global_b16(p.x + 2 * t));
  mx::st_global_b16(p.out + 12288 + 2 * t, word(p.x, t));
}

// out[4 t ..]: t % 17 bytes copied and the rest zero, in two groups; the first is awaited alone.
TW_DEV void async_copy(const TwParams& p) {
  const mx::u32 t = mx::thread(), bytes = t % 17;
  const mx::saddr first = mx::shared() + 16 * t, second = mx::shared() + 2048 + 16 * t;
  mx::st_shared_v4(first, mx::vec4{{~0u, ~0u, ~0u, ~0u}});
  mx::st_shared_v4(second, mx::vec4{{~0u, ~0u, ~0u, ~0u}});
  mx::cta_sync(kHere);
  mx::cp_async_16(first, bytes ? p.x + 16 * t : 0, bytes);
  mx::cp_async_commit();
  mx::cp_async_16(second, p.weight + 16 * t, 16);
  mx::cp_async_commit();
  mx::cp_async_wait<1>(kHere);
  mx::st_global_v4(p.out + 16 * t, mx::ld_shared_v4(first));
  mx::cp_async_wait<0>(kHere);
  mx::cta_sync(kHere);
  mx::st_global_v4(p.out + 2048 + 16 * t, mx::ld_shared_v4(mx::shared() + 2048 + 16 * (t ^ 64)));
}

// out[4 t ..]: four 8x8 matrices of 16-bit values a warp, rows of 16 bytes, spread over the lanes.
TW_DEV void matrices(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::st_shared_v4(mx::shared() + 16 * t, mx::ld_global_v4(p.x + 16 * t));
  mx::cta_sync(kHere);
  mx::u32 r[4];
  mx::ldmatrix_x4(r, mx::shared() + 16 * (t ^ 5));
  mx::mma_wait(r, kHere);
  mx::st_global_v4(p.out + 16 * t, mx::vec4{{r[0], r[1], r[2], r[3]}});
}

// The same, each matrix turned round.
TW_DEV void matrices_turned(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::st_shared_v4(mx::shared() + 16 * t, mx::ld_global_v4(p.x + 16 * t));
  mx::cta_sync(kHere);
  mx::u32 r[4];
  mx::ldmatrix_x4_trans(r, mx::shared() + 16 * (t ^ 5));
  mx::mma_wait(r, kHere);
  mx::st_global_v4(p.out + 16 * t, mx::vec4{{r[0], r[1], r[2], r[3]}});
}

// Each warp: D = A B + C, 16x8x16. x: A[16][16] of T, then B[n 8][k 16] of T; weight: C[16][8] of f32; out: D.
template <class T>
TW_DEV void mma_of(const TwParams& p) {
  const mx::u32 w = mx::warp(), g = mx::lane() / 4, i = mx::lane() % 4;
  const mx::gaddr a0 = p.x + 768 * w, b0 = a0 + 512 + 32 * g + 4 * i;
  const mx::gaddr low = a0 + 32 * g + 4 * i, high = low + 256;
  const mx::u32 a[4] = {mx::ld_global_b32(low), mx::ld_global_b32(high), mx::ld_global_b32(low + 16),
                        mx::ld_global_b32(high + 16)};
  const mx::u32 b[2] = {mx::ld_global_b32(b0), mx::ld_global_b32(b0 + 16)};
  const mx::u32 at = 128 * w + 8 * g + 2 * i;
  float d[4] = {mx::bits_f32(word(p.weight, at)), mx::bits_f32(word(p.weight, at + 1)),
                mx::bits_f32(word(p.weight, at + 64)), mx::bits_f32(word(p.weight, at + 65))};
  mx::mma<T>(d, a, b);
  mx::mma_wait(d, kHere);
  put(p, at, mx::f32_bits(d[0]));
  put(p, at + 1, mx::f32_bits(d[1]));
  put(p, at + 64, mx::f32_bits(d[2]));
  put(p, at + 65, mx::f32_bits(d[3]));
}
TW_DEV void mma_bf16(const TwParams& p) { mma_of<mx::bf16>(p); }
TW_DEV void mma_f16(const TwParams& p) { mma_of<mx::f16>(p); }

// out: 8 bytes a thread, three times: what the ordered accesses read and write when nobody interferes.
TW_DEV void words(const TwParams& p) {
  const mx::u32 at = 8 * mx::thread();
  mx::st_relaxed_sys(p.out + at, mx::ld_relaxed_sys(p.x + at) + 1);
  mx::st_release_sys(p.out + 1024 + at, mx::ld_acquire_sys(p.x + at, kHere) + 2, kHere);
  mx::st_relaxed_sys(p.out + 2048 + at, mx::poll_relaxed_sys(p.x + at, 0, kHere) + 3);
}

// CTA 0 writes 128 words, then a flag with release; CTA 1 polls the flag, acquires, and copies the words.
TW_DEV void message(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const mx::gaddr flag = p.out, data = p.out + 1024, result = p.out + 2048;
  if (mx::block() == 0) {
    mx::st_global_b32(data + 4 * t, 3 * word(p.x, t) + 1);
    mx::cta_sync(kHere);
    if (t == 0) mx::st_release_sys(flag, 7, kHere);
    return;
  }
  bool there = false;
  if (t == 0) {
    const mx::u64 deadline = mx::time_ns() + kPatience;
    while (!there && mx::time_ns() < deadline) {
      there = mx::poll_relaxed_sys(flag, 7, kHere) == 7;
      if (!there) mx::pause(deadline);
    }
    if (there) mx::ld_acquire_sys(flag, kHere);
  }
  if (mx::cta_sync_or(there, kHere)) mx::st_global_b32(result + 4 * t, mx::ld_global_b32(data + 4 * t));
}

// out[0], out[1], the u64s at out[2], out[4] and out[6]: words that all threads of all CTAs hit; out[16 + old] and
// out[2048 + old]: 1 for each old value of the first and of that at out[4]; out[1024 + t]: what thread t's exchange saw.
TW_DEV void atomics(const TwParams& p) {
  const mx::u32 t = global_thread();
  put(p, 16 + mx::atom_add_acq_rel_gpu(p.out, 1, kHere), 1);
  put(p, 1024 + t, mx::atom_cas_acq_rel_gpu(p.out + 4, 0, t + 1, kHere));
  mx::red_add_relaxed_gpu(p.out + 8, mx::u64(1) << 33 | t);
  mx::red_max_relaxed_gpu(p.out + 24, mx::u64(t % 7) << 40 | t);
  put(p, 2048 + mx::u32(mx::atom_add_relaxed_sys(p.out + 16, mx::u64(1) << 33 | 1)), 1);
}

// CTA 0 sends a packet a thread, CTA 1 polls for it by its tags and copies it out.
TW_DEV void packets(const TwParams& p) {
  constexpr mx::u32 kTag = 0x5eed;
  const mx::u32 t = mx::thread();
  const mx::gaddr mail = p.out + 4096 + 16 * t;
  if (mx::block() == 0) {
    mx::st_packet(mail, mx::vec4{{word(p.x, 2 * t), kTag, word(p.x, 2 * t + 1), kTag}});
    return;
  }
  const mx::u64 deadline = mx::time_ns() + kPatience;
  bool there = false;
  while (!there && mx::time_ns() < deadline) {
    const mx::vec4 v = mx::poll_packet(mail, kTag, kHere);
    there = v.v[1] == kTag && v.v[3] == kTag;
    if (!there) mx::pause(deadline);
  }
  if (there) mx::st_global_v4(p.out + 16 * t, mx::ld_packet(mail));
}

// out[t]: 1 when the clock has moved, and forward only.
TW_DEV void clock(const TwParams& p) {
  const mx::u64 start = mx::time_ns();
  mx::u64 now = start;
  bool forward = true;
  for (mx::u32 tries = 0; tries < 100000 && now == start; ++tries) {
    mx::pause(now + 1000);
    const mx::u64 next = mx::time_ns();
    forward &= next >= now;
    now = next;
  }
  put(p, mx::thread(), forward && now > start);
}

// out[5 t ..], as bits, of a, b, c from x[3 t] on: a b + c, a + b, a b, a / b, the square root of a.
TW_DEV void arithmetic(const TwParams& p) {
  const mx::u32 t = mx::thread();
  const float a = mx::bits_f32(word(p.x, 3 * t)), b = mx::bits_f32(word(p.x, 3 * t + 1));
  put(p, 5 * t, mx::f32_bits(mx::fma(a, b, mx::bits_f32(word(p.x, 3 * t + 2)))));
  put(p, 5 * t + 1, mx::f32_bits(mx::add(a, b)));
  put(p, 5 * t + 2, mx::f32_bits(mx::mul(a, b)));
  put(p, 5 * t + 3, mx::f32_bits(mx::div(a, b)));
  put(p, 5 * t + 4, mx::f32_bits(mx::sqrt(a)));
}

// out[9 t ..]: two f32 packed and rounded; two pairs of 16-bit values unpacked.
TW_DEV void conversions(const TwParams& p) {
  const mx::u32 t = mx::thread(), at = 9 * t, pair = word(p.weight, t);
  const float lo = mx::bits_f32(word(p.x, 2 * t)), hi = mx::bits_f32(word(p.x, 2 * t + 1));
  put(p, at, mx::pack2<mx::bf16>(lo, hi));
  put(p, at + 1, mx::pack2<mx::f16>(lo, hi));
  put(p, at + 2, mx::f32_bits(mx::round_f32<mx::bf16>(lo)));
  put(p, at + 3, mx::f32_bits(mx::round_f32<mx::f16>(lo)));
  put(p, at + 4, mx::f32_bits(mx::round_f32<float>(lo)));
  put(p, at + 5, mx::f32_bits(mx::unpack_lo<mx::bf16>(pair)));
  put(p, at + 6, mx::f32_bits(mx::unpack_hi<mx::bf16>(pair)));
  put(p, at + 7, mx::f32_bits(mx::unpack_lo<mx::f16>(pair)));
  put(p, at + 8, mx::f32_bits(mx::unpack_hi<mx::f16>(pair)));
}

// out[t]: what was stored, in the last of a loop's turns; the words in `p.weight` are given up after.
TW_DEV void hints(const TwParams& p) {
  const mx::u32 t = mx::thread();
  mx::payload(4);
  for (mx::u32 turn = 0; mx::again(turn <= t % 3); ++turn) put(p, t, word(p.x, t) + t % 3 - turn);
  mx::st_global_b32(p.weight + 4 * t, t);
  mx::cta_sync(kHere);
  if (t == 0) mx::discard(p.weight, 4 * kThreads);
}

// out[9 i ..], as bits: the functions of tile/functions.h of each of the p.m numbers at x.
TW_DEV void functions(const TwParams& p) {
  for (mx::u32 i = global_thread(); i < p.m; i += mx::grid() * kThreads) {
    const float x = mx::bits_f32(word(p.x, i));
    const float y[] = {fn::exp(x),     fn::log(x),  fn::gauss(x),      fn::normal(x), fn::sigmoid(x),
                       fn::gelu(x),    fn::gelu_slope(x), fn::silu(x), fn::silu_slope(x)};
    TW_UNROLL
    for (int f = 0; f < 9; ++f) put(p, 9 * i + f, mx::f32_bits(y[f]));
  }
}
}  // namespace conformance
}  // namespace tw

// Each case ends the kernel: what it left behind, registers among it, is no other's business.
#define TW_RUN_CASE(name) \
  if (p.k == id++) return tw::conformance::name(p);
TW_KERNEL(conformance, 128, 1) {
  uint32_t id = 0;
  TW_CONFORMANCE_CASES(TW_RUN_CASE)
  if constexpr (mx::kHopper) {
    TW_CONFORMANCE_HOPPER_CASES(TW_RUN_CASE)
    TW_CONFORMANCE_MULTICAST_CASES(TW_RUN_CASE)
  }
}
#undef TW_RUN_CASE
