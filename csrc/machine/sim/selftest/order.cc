// Ordering between devices and CTAs: messages, packets, counters. `p.group` as in real kernels, other fields as said.
#include "await.h"

namespace {
using namespace mx;
}  // namespace

// Every rank pushes `p.n` bytes a round to the next rank's staging and adds up what the rank before pushed; `p.k` rounds,
// one CTA a rank. What the sum must be is the host's business: round r of rank s pushes the byte 16 * s + r + 1.
// Halves alternate; a credit from the reader two rounds ago opens a half. `p.out`: one u32 a thread and round.
TW_KERNEL(selftest_message, 128, 4) {
  const u32 to = (p.group.rank + 1) % p.group.world, from = (p.group.rank + p.group.world - 1) % p.group.world;
  const gaddr own = p.group.heap[p.group.rank], peer = p.group.heap[to], back = p.group.heap[from];
  const u64 credits = p.group.signals + 256;
  for (u32 r = 0; r < p.k; ++r) {
    const u64 half = p.group.staging + r % 2 * p.group.staging_half;
    if (r >= 2) {
      const bool open = thread() != 0 || await(own + credits + r % 2 * 128, r - 1, p.group.deadline_ns, Site::CreditPoll,
                                               Site::CreditAcquire);
      if (!cta_sync_and(open, Site::CreditBarrier)) return;
    }
    const u32 word = (16 * p.group.rank + r + 1) * 0x01010101u;
    for (u32 at = thread() * 16; at < p.n; at += threads() * 16) st_global_v4(peer + half + at, {{word, word, word, word}});
    cta_sync(Site::TileBarrier);
    if (thread() == 0) st_release_sys(peer + p.group.signals + r % 2 * 128, r + 1, Site::TileRelease);
    const bool there = thread() != 0 || await(own + p.group.signals + r % 2 * 128, r + 1, p.group.deadline_ns,
                                              Site::TilePoll, Site::TileAcquire);
    if (!cta_sync_and(there, Site::TileAcquired)) return;
    u32 sum = 0;
    // Another thread's part than it wrote itself, so that the barrier matters.
    for (u32 at = (threads() - 1 - thread()) * 16; at < p.n; at += threads() * 16) {
      const vec4 x = ld_global_v4(own + half + at);
      sum += x.v[0] % 256 + x.v[1] % 256 + x.v[2] % 256 + x.v[3] % 256;
    }
    st_global_b32(p.out + (r * threads() + thread()) * 4, sum);
    cta_sync(Site::CreditBarrier);
    if (thread() == 0) {
      discard(own + half, p.n);
      st_release_sys(back + credits + r % 2 * 128, r + 1, Site::CreditRelease);
    }
  }
}

// Every rank sends the next one `p.n` packets a thread; the tag is `p.k`. `p.out`: the sum of the data of each thread.
TW_KERNEL(selftest_packets, 64, 4) {
  const gaddr own = p.group.heap[p.group.rank] + p.group.packets;
  const gaddr peer = p.group.heap[(p.group.rank + 1) % p.group.world] + p.group.packets;
  for (u32 i = 0; i < p.n; ++i) {
    const u32 at = i * threads() + thread();
    st_packet(peer + at * 16, {{at, p.k, at + 7, p.k}});
  }
  u32 sum = 0;
  for (u32 i = 0; i < p.n; ++i) {
    const gaddr at = own + (i * threads() + thread()) * 16;
    vec4 x = poll_packet(at, p.k, Site::PacketPoll);
    while (x.v[1] != p.k || x.v[3] != p.k) {
      pause(time_ns() + p.group.deadline_ns);
      x = poll_packet(at, p.k, Site::PacketPoll);
    }
    sum += x.v[0] + x.v[2];
  }
  st_global_b32(p.out + thread() * 4, sum);
}

// Every CTA writes its number at `p.x`, arrives at the counter `p.weight`, and the last one adds them all up to `p.out`.
TW_KERNEL(selftest_counter, 64, 8) {
  if (thread() == 0) st_global_b32(p.x + block() * 16, block() + 1);
  cta_sync(Site::CreditBarrier);
  bool last = false;
  if (thread() == 0) last = atom_add_acq_rel_gpu(p.weight, 1, Site::CreditArrive) == grid() - 1;
  red_add_relaxed_gpu(p.weight + 8, 1);
  if (!cta_sync_or(last, Site::LastBarrier)) return;
  if (thread() == 0) {
    u32 sum = 0;
    for (u32 c = 0; c < grid(); ++c) sum += ld_global_b32(p.x + c * 16);
    st_global_b32(p.out, sum);
  }
}

// Thread 0 of every CTA waits until the word at `p.x` is `p.k`, up to the group's deadline, and writes to `p.out` whether
// it saw it and how long it took.
TW_KERNEL(selftest_wait, 64, 8) {
  bool seen = true;
  const u64 began = time_ns();
  if (thread() == 0) seen = await(p.x, p.k, p.group.deadline_ns, Site::HelloPoll, Site::HelloAcquire);
  seen = cta_sync_and(seen, Site::TileAcquired);
  if (thread() == 0) {
    st_global_b64(p.out + block() * 16, seen);
    st_global_b64(p.out + block() * 16 + 8, time_ns() - began);
  }
}
