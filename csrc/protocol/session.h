// One operation, as a team of a CTA takes part in it: hello, staging rounds, end. docs/protocol.md holds the argument; in short:
//
//   begin       read epoch and round; CTA 0 says hello to every peer; look at the abort word once
//   open_round  before a CTA pushes into a staging half again: round 1 of a launch waits for every peer's hello (it has
//               finished the operation before, which read that half), later rounds for every rank's credit of two rounds ago
//   close_round the last CTA that has consumed a round gives the credit (close_previous: with the next one open)
//   agree       before a CTA consumes anything: every peer's hello is there and carries the same hash
//   finish      the last CTA out agrees, too, retires the last round and advances epoch and round
//
// Sends never wait. After an abort, waits return at once and sends become no-ops, but every CTA walks its schedule to the end.
#pragma once
#include "machine/team.h"
#include "protocol/exchange.h"
#include "protocol/stamp.h"
#include "protocol/wait.h"

namespace tw {

// One-shot packets carry 32 bits of their round. 0 is never a tag, so cleared memory matches none; equal tags lie 2^32 - 1
// rounds apart, and each half's packets are cleared every 2^30 rounds (`clear_packets`).
TW_DEV uint32_t packet_tag(uint64_t round) { return uint32_t(round % 0xffffffffull) + 1; }
constexpr uint64_t kPacketClearPeriod = 1ull << 30;

// What a team has in an operation. One leads: it says hello and, after all others of its CTA are done, finishes. Those of other
// roles assist: they only wait and push. Where all threads of a CTA end together what its roles have begun, their session
// follows the leader's, behind a barrier of the CTA that follows the leader's `agree`: a leader that did not agree has raised
// the abort word, which is found here.
enum class Part : uint32_t { Leads, Assists, Follows };

// The team: of all threads (`Cta`), or that of a role.
template <class Team>
class Session {
 public:
  const TwParams& p;
  uint64_t epoch, round;    // `round`: the first until the second is opened, and so on
  bool alive;               // equal in all threads of the CTA
  bool agreed;              // every peer's hello of this operation is there and says the same
  uint32_t bytes = 0;       // payload this thread sent to peers
  uint32_t signals = 0;     // words this thread signalled to peers
  Stamps<Team> stamps;

  TW_DEV explicit Session(const TwParams& params, Part part = Part::Leads)
      : p(params), agreed(part == Part::Follows), stamps(params) {
    const gaddr ctl = own_heap(p);
    uint64_t now = 0;
    Team::one([&] { now = mx::time_ns(); });
    // The previous operation's last CTA wrote both; stream order makes them visible.
    epoch = mx::ld_relaxed_sys(ctl + offsetof(TwControl, epoch));
    round = mx::ld_relaxed_sys(ctl + offsetof(TwControl, round));
    bool dead = false;
    Team::one([&] { dead = aborted(); });
    alive = !Team::sync_or(dead, Site::None);  // a vote that orders nothing
    if (part != Part::Leads || mx::block() != 0) return;
    if (!alive) Team::one([&] { tell_abort(p, mx::ld_relaxed_sys(ctl + offsetof(TwControl, abort))); });
    say_hello();
    // Behind the hello, which peers wait for; this word nobody waits for.
    Team::one([&] { mx::st_global_b64(ctl + offsetof(TwControl, started_ns), now); });
  }

  // A thread for every peer: f(rank).
  template <class F>
  TW_DEV void each_peer(F f) const {
    Team::each(p.group.world, [&](uint32_t rank) {
      if (rank != p.group.rank) f(rank);
    });
  }

  // Before a CTA consumes anything from a peer: what ranks that disagree push has no meaning to each other.
  TW_DEV void agree() {
    if (agreed) return;
    const bool ok = await_each(TW_WAIT_HELLO, TW_STAMP_ALL, 0, p.group.world, [&](uint32_t peer, uint64_t& came) {
      return peer == p.group.rank || await_hello(peer, came);
    });
    alive = Team::sync_and(ok, Site::AgreeBarrier);
    stamps.end();
    agreed = true;
  }

  // Thread t < P waits for rank t's signal `index(t)` of this round, the own rank's too where another role gives it; then
  // all threads of the team see what they pushed.
  template <class Index>
  TW_DEV void await_ranks(uint32_t kind, uint32_t tile, bool own_too, Index index) {
    agree();
    bool ok = await_each(kind, TW_STAMP_ALL, tile, p.group.world, [&](uint32_t peer, uint64_t& came) {
      return (!own_too && peer == p.group.rank) || await_signal(kind, peer, tile, index(peer), came);
    });
    // What these threads have acquired was written by another name than the one it is read by now.
    if constexpr (mx::kMulticast) {
      if (ok && in_switch(p)) Team::each(p.group.world, [](uint32_t) { mx::fence_alias(Site::SumFence); });
    }
    alive = Team::sync_and(ok, Site::TileAcquired);
    stamps.end();
  }

  // The same for one peer and its signals from `index` on, `count` of them, at most as many as the team has threads.
  TW_DEV void await_peer(uint32_t kind, uint32_t peer, uint32_t tile, uint32_t index, uint32_t count = 1) {
    agree();
    const bool ok = await_each(kind, peer, tile, count, [&](uint32_t i, uint64_t& came) {
      return await_signal(kind, peer, tile, index + i, came);
    });
    alive = Team::sync_and(ok, Site::TileAcquired);
    stamps.end();
  }

  // What this thread has pushed, and knows to be written, becomes visible to `peer` (or to this rank's other roles).
  TW_DEV void signal(uint32_t peer, uint32_t index) {
    if (!alive) return;
    mx::st_release_sys(heap_of(p, peer) + signal_at(p, round, index), round, Site::TileRelease);
    signals += peer != p.group.rank;
  }

  // Publishes to `peer` what all threads of the team pushed. The barrier makes one thread's release cover them all.
  TW_DEV void publish(uint32_t peer, uint32_t index) {
    Team::sync(Site::TileBarrier);
    Team::one([&] { signal(peer, index); });
  }

  // The same to every peer, a thread each.
  TW_DEV void publish_all(uint32_t index) {
    Team::sync(Site::TileBarrier);
    each_peer([&](uint32_t peer) {
      if constexpr (mx::kMulticast) {
        // Stored through the switch, and read by the receivers' own addresses.
        if (alive && in_switch(p)) mx::fence_alias(Site::ResultFence);
      }
      signal(peer, index);
    });
  }

  // Every round of a launch in turn. This alone is for those who push nothing.
  TW_DEV void enter_round(uint32_t q) { round += q != 0; }

  TW_DEV void open_round(uint32_t q) {
    enter_round(q);
    if (q == 1) agree();
    if (q < 2) return;
    alive = Team::sync_and(await_credits(round - 2), Site::CreditBarrier);
    stamps.end();
  }

  // `used`: bytes of the staging half that the operation may have touched in this round.
  TW_DEV void close_round(uint32_t q, uint64_t used) {
    if (q + 1 != p.panels) retire(round, used);  // the end of the operation closes the last
  }

  // The same for the round before the one that is open.
  TW_DEV void close_previous(uint64_t used) { retire(round - 1, used); }

  // `count` of this rank's CTAs meet, once in an operation: what each has written before, all see behind it. Nobody looks at
  // the abort word here: each CTA arrives, also after an abort, as soon as its own waits, which are bounded, are over; all
  // are resident. So the counter is counted up to `count` and set back in every launch, whatever becomes of it. The bound,
  // twice the deadline, lets the wait that holds a CTA up be recorded first.
  // False, on all threads of the team: not all came. Nothing that others wrote may be read then.
  TW_DEV bool meet(uint32_t count) {
    Team::sync(Site::MeetBarrier);
    stamps.begin(TW_STAMP_WAIT + TW_WAIT_CTAS, 0, p.group.rank);
    bool met_all = true;
    Team::one([&] {
      const gaddr arrived = own_heap(p) + offsetof(TwControl, met_ctas), met = own_heap(p) + offsetof(TwControl, met_epoch);
      if (mx::atom_add_acq_rel_gpu(arrived, 1, Site::MeetArrive) == count - 1) {
        mx::st_global_b32(arrived, 0);
        // Covers what all of them have written: each arrived with acq_rel, this thread last.
        mx::st_release_sys(met, epoch, Site::MeetRelease);
      } else {
        met_all = await_ctas(met);
        mx::ld_acquire_sys(met, Site::MeetAcquire);
      }
    });
    met_all = Team::sync_and(met_all, Site::MeetArrived);
    stamps.end();
    return met_all;
  }

  // Adds what this team's threads sent to the rank's totals; roles that do not finish call it themselves.
  TW_DEV void count_sent() {
    uint32_t b = bytes, s = signals;
    for (uint32_t mask = 16; mask; mask /= 2) {
      b += mx::shfl_xor(b, mask);
      s += mx::shfl_xor(s, mask);
    }
    mx::elect([&] {
      const gaddr totals = own_heap(p) + offsetof(TwControl, totals);
      if (b) mx::red_add_relaxed_gpu(totals + offsetof(TwReport, bytes_sent) + 8 * p.path, b);
      if (s) mx::red_add_relaxed_gpu(totals + offsetof(TwReport, signals_sent), s);
    });
  }

  // The CTA leaves. `used` as in close_round.
  TW_DEV void finish(uint64_t used) {
    count_sent();
    end_operation(used);
    stamps.close();
  }

 private:
  TW_DEV void end_operation(uint64_t used) {
    Team::sync(Site::LastBarrier);
    const gaddr ctl = own_heap(p);
    bool last = false;
    Team::one([&] {
      last = mx::atom_add_acq_rel_gpu(ctl + offsetof(TwControl, ctas_done), 1, Site::LastArrive) == mx::grid() - 1;
    });
    if (!Team::sync_or(last, Site::EndBarrier)) return;
    agree();
    bool ok = p.panels > 1 ? await_credits(round - 1) : alive;
    // A CTA that gave up had seen, or raised, this rank's abort word before it left.
    Team::one([&] { ok = ok && !aborted(); });
    alive = Team::sync_and(ok, Site::CreditBarrier);
    stamps.begin(TW_STAMP_END, 0);
    if (alive) clear_packets(round, Team::thread(), Team::threads());
    tell_totals();
    Team::one([&] {
      if (alive) {
        give_up(round, used);
        mx::st_global_b64(ctl + offsetof(TwControl, epoch_finished), epoch);
      }
      mx::st_global_b64(ctl + offsetof(TwControl, finished_ns), mx::time_ns());
      mx::st_global_b32(ctl + offsetof(TwControl, ctas_done), 0);
      mx::st_relaxed_sys(ctl + offsetof(TwControl, round), round + 1);
      mx::st_relaxed_sys(ctl + offsetof(TwControl, epoch), epoch + 1);
    });
    stamps.end();
  }

  // Thread i < `count` of the team waits as `one(i, came)` says, false where it gives up: for a word of `peer`, or of rank i. The
  // span of this wait lasts until the caller ends it, behind the barrier that follows.
  template <class One>
  TW_DEV bool await_each(uint32_t kind, uint32_t peer, uint32_t tile, uint32_t count, One one) {
    const uint32_t stamp = stamps.begin_wait(kind, tile, count);
    bool ok = alive;
    Team::each(count, [&](uint32_t i) {
      uint64_t came = 0;
      ok = ok && one(i, came);
      stamps.came(stamp, i, peer == TW_STAMP_ALL ? i : peer, came);
    });
    return ok;
  }

  // The word that the last CTA to arrive releases, by twice the deadline.
  TW_DEV bool await_ctas(gaddr met) const {
    const uint64_t deadline = p.group.deadline_ns, began = mx::time_ns();
    const uint64_t most = deadline < 1ull << 62 ? 2 * deadline : 1ull << 63;
    for (;;) {  // bounded: by `most`
      const uint64_t seen = mx::poll_relaxed_sys(met, epoch, Site::MeetPoll);
      if (seen == epoch) return true;
      const uint64_t now = mx::time_ns(), waited = now > began ? now - began : 0;
      if (waited >= most) {
        record_wait(p, epoch, {TW_WAIT_CTAS, p.group.rank, 0, met, epoch, false}, TW_CAUSE_DEADLINE, epoch, seen, waited);
        return false;
      }
      mx::pause(began + most);
    }
  }

  // The last CTA counts the operation, and tells the host what all CTAs counted: each arrived with acq_rel. The words before
  // the totals are `tell_abort`'s.
  TW_DEV void tell_totals() {
    const gaddr totals = own_heap(p) + offsetof(TwControl, totals);
    const uint32_t first = offsetof(TwReport, operations), mine = first + 8 * p.path;
    for (uint32_t begin = 0; begin < (sizeof(TwReport) - first) / 8; begin += Team::threads()) {
      Team::each((sizeof(TwReport) - first) / 8 - begin, [&](uint32_t word) {
        const uint32_t at = first + 8 * (begin + word);
        uint64_t total = mx::ld_relaxed_sys(totals + at);
        if (at == mine && alive) mx::st_relaxed_sys(totals + at, ++total);
        if (p.group.report) mx::st_relaxed_sys(p.group.report + at, total);
      });
    }
    // Another CTA's wait, or a peer, or the host may have raised it: this rank's host hears of it in any case.
    if (!alive) Team::one([&] { tell_abort(p, mx::ld_relaxed_sys(own_heap(p) + offsetof(TwControl, abort))); });
  }

  // A round that this CTA has consumed; the rank's last CTA gives the credit.
  TW_DEV void retire(uint64_t of, uint64_t used) {
    Team::sync(Site::RetireBarrier);
    Team::one([&] { count_retired(of, used); });
  }

  // One thread: the CTA is done with a round.
  TW_DEV void count_retired(uint64_t of, uint64_t used) {
    const gaddr count = own_heap(p) + offsetof(TwControl, panel_done) + (of & 1) * 4;
    // Where some CTAs only reduce, the others read no staging, and know nothing of a round's end.
    const uint32_t consumers = p.reducers ? p.reducers : mx::grid();
    if (mx::atom_add_acq_rel_gpu(count, 1, Site::CreditArrive) != consumers - 1) return;
    mx::st_global_b32(count, 0);  // next counted two rounds on, which this rank's own credit opens
    if (!alive || aborted()) return;  // some CTA has not consumed: no credit, ever
    give_up(of, used);
    clear_packets(of, 0, 1);
    // Covers every CTA's reads of this half: each arrived with acq_rel, this thread last.
    for (uint32_t r = 0; r < p.group.world; ++r) {
      mx::st_release_sys(heap_of(p, r) + credit_at(of, p.group.rank), of, Site::CreditRelease);
      signals += r != p.group.rank;
    }
  }

  // This rank's half is dead, unless peers may still read it (protocol/exchange.h).
  TW_DEV void give_up(uint64_t of, uint64_t used) {
    if (!pulls(p)) mx::discard(own_heap(p) + staging_at(p, of), used);
  }

  TW_DEV bool aborted() const {
    return mx::ld_relaxed_sys(own_heap(p) + offsetof(TwControl, abort)) != TW_ABORT_NONE;
  }

  TW_DEV void say_hello() {
    const gaddr ctl = own_heap(p);
    Team::one([&] {
      const gaddr d = ctl + offsetof(TwControl, current);
      mx::st_global_v4(d, {{p.desc.op, p.desc.algorithm, p.desc.dtype, p.desc.wire}});
      mx::st_global_v4(d + 16, {{p.desc.tile, p.desc.grid, p.desc.has_bias, p.desc.world}});
      mx::st_global_b64(d + 32, p.desc.m);
      mx::st_global_b64(d + 40, p.desc.n);
      mx::st_global_b64(d + 48, p.desc.k);
      mx::st_global_b64(d + 56, p.desc.panel);
      mx::st_global_b64(d + 64, uint64_t(p.desc.tail_eps) << 32 | p.desc.tail);
      mx::st_global_b64(ctl + offsetof(TwControl, current_hash), p.hash);
      mx::st_global_b64(ctl + offsetof(TwControl, epoch_started), epoch);
    });
    if (!alive) return;
    each_peer([&](uint32_t peer) {
      const gaddr hello = heap_of(p, peer) + hello_at(epoch, p.group.rank);
      mx::st_relaxed_sys(hello + offsetof(TwHello, hash), p.hash);
      // Publishes the hash; and, since it follows this rank's previous operation in stream order, that its staging is consumed.
      mx::st_release_sys(hello + offsetof(TwHello, epoch), epoch, Site::HelloSend);
      signals += 2;
    });
  }

  TW_DEV bool await_hello(uint32_t peer, uint64_t& came) {
    const Wanted w = {TW_WAIT_HELLO, peer, 0, own_heap(p) + hello_at(epoch, peer) + offsetof(TwHello, epoch), epoch, false};
    if (!await_word(p, epoch, w, Site::HelloPoll, Site::HelloAcquire, came)) return false;
    const uint64_t hash = mx::ld_relaxed_sys(own_heap(p) + hello_at(epoch, peer) + offsetof(TwHello, hash));
    if (hash != p.hash) record_wait(p, epoch, w, TW_CAUSE_DISAGREED, p.hash, hash, 0);
    return hash == p.hash;
  }

  TW_DEV bool await_signal(uint32_t kind, uint32_t peer, uint32_t tile, uint32_t index, uint64_t& came) {
    return await_word(p, epoch, {kind, peer, tile, own_heap(p) + signal_at(p, round, index), round, false}, Site::TilePoll,
                      Site::TileAcquire, came);
  }

  // Every rank's, the own one's too.
  TW_DEV bool await_credits(uint64_t of_round) {
    return await_each(TW_WAIT_CREDIT, TW_STAMP_ALL, 0, p.group.world, [&](uint32_t from, uint64_t& came) {
      return await_word(p, epoch, {TW_WAIT_CREDIT, from, 0, own_heap(p) + credit_at(of_round, from), of_round, true},
                        Site::CreditPoll, Site::CreditAcquire, came);
    });
  }

  // Every round is retired once, by all threads of one CTA or (between the rounds of a launch) by one thread, when all of
  // this rank's reads of its half are done and no peer may write there yet: that needs this round's credit or the next hello.
  TW_DEV void clear_packets(uint64_t of, uint32_t first, uint32_t step) {
    if (of / 2 % (kPacketClearPeriod / 2) != kPacketClearPeriod / 2 - 1) return;
    const gaddr begin = own_heap(p) + packets_at(p, of);
    for (uint64_t at = uint64_t(first) * 16; at < p.group.packets_half; at += uint64_t(step) * 16) {
      mx::st_packet(begin + at, {{0, 0, 0, 0}});
    }
  }
};
}  // namespace tw
