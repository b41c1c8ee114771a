// What a probe does to a link, on the GPU's side; `docs/probe.md` tells the whole. One launch does one thing, `p.k`:
//
//   p.x       the area, of this device or mapped from another: guard, zone, guard; ATOMICS: a word; ECHO: this side's word
//   p.m, p.n  vectors of 16 bytes in the zone, and in each guard; ATOMICS: additions of each thread;
//             ECHO, CHASE: m rounds after the first, which is not timed
//   p.hash    seed of the pattern; ECHO: the words are p.hash + round, and where p.n is not 0 each publishes a vector behind it
//   p.weight  ECHO: the other side's word.   p.group.rank  ECHO: 0 begins, 1 answers.   p.group.deadline_ns  of all rounds
//   p.group.rank, p.group.world  NUMBERS, SUM: which member of the team, of how many.   p.x  SUM, CAST: a multicast address
//   p.out     a TwProbeResult in this device's own memory
//
// Every byte of a zone is another one after STORE than after FILL, and guards are as FILL left them: no byte that never
// arrived passes, nor one that arrived where it should not. A vector's pattern depends on its index and on a seed that no
// other transfer has, so none passes that arrived elsewhere or was there before.
#pragma once
#include "machine/team.h"
#include "protocol/address.h"

namespace tw {
namespace probe {
TW_DEV uint64_t mix(uint64_t z) {  // SplitMix64's
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

TW_DEV vec4 pattern(uint64_t seed, uint32_t index, bool stored) {
  const uint64_t a = mix(seed + (2ull * index + 1) * 0x9e3779b97f4a7c15ull);
  const uint64_t b = mix(a ^ 0x6a09e667f3bcc909ull);
  const uint32_t flip = stored ? ~0u : 0;
  return {{uint32_t(a) ^ flip, uint32_t(a >> 32) ^ flip, uint32_t(b) ^ flip, uint32_t(b >> 32) ^ flip}};
}

TW_DEV uint32_t first_vector() { return mx::block() * mx::threads() + mx::thread(); }
TW_DEV uint32_t all_threads() { return mx::grid() * mx::threads(); }
TW_DEV gaddr vector_at(const TwParams& p, uint32_t index) { return p.x + uint64_t(index) * 16; }
TW_DEV bool in_zone(const TwParams& p, uint32_t index) { return index >= p.n && index < p.n + p.m; }

TW_DEV void fill(const TwParams& p) {
  for (uint32_t i = first_vector(); i < p.m + 2 * p.n; i += all_threads()) {
    mx::st_global_v4(vector_at(p, i), pattern(p.hash, i, false));
  }
}

TW_DEV void store(const TwParams& p) {
  for (uint32_t i = first_vector(); i < p.m; i += all_threads()) {
    mx::st_global_v4(vector_at(p, p.n + i), pattern(p.hash, p.n + i, true));
  }
}

// Lowers the u32 at `at` to `mine`; 0 is above all.
TW_DEV void lower(gaddr at, uint32_t mine) {
  uint32_t there = 0;
  for (;;) {  // bounded: what is there only falls
    const uint32_t seen = mx::atom_cas_acq_rel_gpu(at, there, mine, Site::None);  // orders nothing: read after the kernel
    if (seen == there || (seen && seen <= mine)) return;
    there = seen;
  }
}

// Loads all of the area by `load` and compares it with `want`, both of a vector's index.
template <class Load, class Want>
TW_DEV void compare(const TwParams& p, Load load, Want want) {
  constexpr uint32_t kAhead = 4;  // loads under way at once: a link is long
  const uint32_t all = p.m + 2 * p.n, step = all_threads();
  uint32_t seen = 0, wrong = 0, first = 0;
  for (uint32_t i0 = first_vector(); i0 < all; i0 += kAhead * step) {
    vec4 got[kAhead] = {};
    TW_UNROLL
    for (uint32_t j = 0; j < kAhead; ++j) {
      if (i0 + j * step < all) got[j] = load(i0 + j * step);
    }
    TW_UNROLL
    for (uint32_t j = 0; j < kAhead; ++j) {
      const uint32_t i = i0 + j * step;
      if (i >= all) continue;
      ++seen;
      const vec4 w = want(i);
      if (!((got[j].v[0] ^ w.v[0]) | (got[j].v[1] ^ w.v[1]) | (got[j].v[2] ^ w.v[2]) | (got[j].v[3] ^ w.v[3]))) continue;
      if (!wrong++) first = i + 1;
    }
  }
  if (seen) mx::red_add_relaxed_gpu(p.out + offsetof(TwProbeResult, seen), seen);
  if (!wrong) return;
  mx::red_add_relaxed_gpu(p.out + offsetof(TwProbeResult, wrong), wrong);
  lower(p.out + offsetof(TwProbeResult, first), first);
}

TW_DEV void check(const TwParams& p) {
  compare(
      p, [&](uint32_t i) { return mx::ld_global_v4(vector_at(p, i)); },
      [&](uint32_t i) { return pattern(p.hash, i, in_zone(p, i)); });
}

// Numbers of 16 bits, so that the sum over 16 members is exact in f32 in whatever order the switch adds.
TW_DEV vec4 numbers_of(uint64_t seed, uint32_t index, uint32_t member) {
  const uint64_t a = mix(seed + (16ull * index + member) * 0x9e3779b97f4a7c15ull);
  return {{uint32_t(a & 0xffff), uint32_t(a >> 16 & 0xffff), uint32_t(a >> 32 & 0xffff), uint32_t(a >> 48)}};
}
TW_DEV vec4 as_floats(const vec4& v) {
  return {{mx::f32_bits(float(v.v[0])), mx::f32_bits(float(v.v[1])), mx::f32_bits(float(v.v[2])), mx::f32_bits(float(v.v[3]))}};
}

TW_DEV void numbers(const TwParams& p) {
  for (uint32_t i = first_vector(); i < p.m + 2 * p.n; i += all_threads()) {
    mx::st_global_v4(vector_at(p, i), as_floats(numbers_of(p.hash, i, p.group.rank)));
  }
}

// Where the machine has no switch, nothing is looked at, and nothing sent: the host sees that.
TW_DEV void sum(const TwParams& p) {
  if constexpr (mx::kMulticast) {
    compare(
        p, [&](uint32_t i) { return mx::multimem_ld_reduce_v4<float>(vector_at(p, i)); },
        [&](uint32_t i) {
          vec4 all = {};
          for (uint32_t member = 0; member < p.group.world; ++member) {
            const vec4 one = numbers_of(p.hash, i, member);
            for (uint32_t j = 0; j < 4; ++j) all.v[j] += one.v[j];
          }
          return as_floats(all);
        });
  }
}

TW_DEV void cast(const TwParams& p) {
  if constexpr (mx::kMulticast) {
    for (uint32_t i = first_vector(); i < p.m; i += all_threads()) {
      mx::multimem_st_v4(vector_at(p, p.n + i), pattern(p.hash, p.n + i, true));
    }
  }
}

// Additions of 1 by threads of several devices: what they saw is every number once.
TW_DEV void atomics(const TwParams& p) {
  uint64_t sum = 0, before = 0, fell = 0;
  for (uint32_t i = 0; i < p.m; ++i) {
    const uint64_t old = mx::atom_add_relaxed_sys(p.x, 1);
    if (i && old <= before) ++fell;
    before = old;
    sum += old;
  }
  mx::red_add_relaxed_gpu(p.out + offsetof(TwProbeResult, olds), sum);
  if (fell) mx::red_add_relaxed_gpu(p.out + offsetof(TwProbeResult, wrong), fell);
}

TW_DEV bool arrives(const TwParams& p, uint64_t want, uint64_t began) {
  constexpr uint32_t kEager = 256;  // polls without a pause, which would be part of the latency
  for (uint32_t polls = 0;; ++polls) {
    if (mx::poll_relaxed_sys(p.x, want, Site::None) == want) return true;
    if (polls < kEager) continue;
    if (mx::time_ns() - began >= p.group.deadline_ns) return false;
    mx::pause(began + p.group.deadline_ns);
  }
}

constexpr uint32_t kBehindWord = 16;

TW_DEV void send(const TwParams& p, uint32_t round, bool begins) {
  if (!p.n) return mx::st_relaxed_sys(p.weight, p.hash + round);  // publishes nothing but itself
  mx::st_global_v4(p.weight + kBehindWord, pattern(p.hash, round, begins));
  mx::st_release_sys(p.weight, p.hash + round, Site::TileRelease);
}

// Whether what the word published is there.
TW_DEV bool is_whole(const TwParams& p, uint32_t round, bool begins) {
  if (!p.n) return true;
  mx::ld_acquire_sys(p.x, Site::TileAcquire);  // pairs with TileRelease
  const vec4 got = mx::ld_global_v4(p.x + kBehindWord), want = pattern(p.hash, round, !begins);
  return !((got.v[0] ^ want.v[0]) | (got.v[1] ^ want.v[1]) | (got.v[2] ^ want.v[2]) | (got.v[3] ^ want.v[3]));
}

// One thread. A vector is overwritten when the answer to it has come, and so has been read.
TW_DEV void echo(const TwParams& p) {
  const bool begins = p.group.rank == 0;
  const uint64_t began = mx::time_ns();
  uint64_t started = began, seen = 0, wrong = 0;
  for (uint32_t round = 0; round <= p.m; ++round) {
    if (begins) send(p, round, begins);
    if (!arrives(p, p.hash + round, began)) break;
    if (!is_whole(p, round, begins)) ++wrong;
    ++seen;
    if (!begins) send(p, round, begins);
    if (round == 0) started = mx::time_ns();
  }
  mx::st_global_b64(p.out + offsetof(TwProbeResult, wrong), wrong);
  mx::st_global_b64(p.out + offsetof(TwProbeResult, started_ns), started);
  mx::st_global_b64(p.out + offsetof(TwProbeResult, finished_ns), mx::time_ns());
  mx::st_global_b64(p.out + offsetof(TwProbeResult, seen), seen);
}

// One thread. Each load is of another line, at a place that what came before decides: 8, 16, ... 64 vectors further on.
TW_DEV void chase(const TwParams& p) {
  uint32_t at = p.n;
  uint64_t started = 0;
  for (uint32_t round = 0; round <= p.m; ++round) {
    const vec4 v = mx::ld_global_v4(vector_at(p, at));
    at += 8 + v.v[0] % 8 * 8;
    if (round == 0) started = mx::time_ns();
  }
  static_assert(TW_PROBE_STRIDE == 8 + 7 * 8, "what the host makes room for");
  mx::st_global_b64(p.out + offsetof(TwProbeResult, started_ns), started);
  mx::st_global_b64(p.out + offsetof(TwProbeResult, finished_ns), mx::time_ns());
  mx::st_global_b64(p.out + offsetof(TwProbeResult, seen), at);  // so that the last load is one that somebody needs
}
}  // namespace probe

TW_DEV void run_probe(const TwParams& p) {
  switch (p.k) {
    case TW_PROBE_FILL: return probe::fill(p);
    case TW_PROBE_STORE: return probe::store(p);
    case TW_PROBE_CHECK: return probe::check(p);
    case TW_PROBE_ATOMICS: return probe::atomics(p);
    case TW_PROBE_NUMBERS: return probe::numbers(p);
    case TW_PROBE_SUM: return probe::sum(p);
    case TW_PROBE_CAST: return probe::cast(p);
  }
  if (mx::block() != 0) return;
  if (p.k == TW_PROBE_ECHO) Cta::one([&] { probe::echo(p); });
  if (p.k == TW_PROBE_CHASE) Cta::one([&] { probe::chase(p); });
}
}  // namespace tw
