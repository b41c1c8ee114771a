// Rows on their way: an all-gather's staging, and the role that pushes a rank's own rows into that of all peers.
//
// A staging half holds, per source, the panel's rows at a pitch of whole 16-byte vectors, so that gathered rows are always
// addressable by the GEMM's vector loads, whatever the caller's leading dimension. A row is below 2^28 bytes and a block at
// most 128 rows (the host refuses wider ones), so bytes within a row and vectors within a block fit 32 bits.
//
// Matrices that end up side by side (`TwParams::columns`) are gathered like rows, m of each rank: `p.m` counts all of them, and
// `p.k` is the width of the widest. Only a source's own columns travel; where its rows end up is the consumer's business.
#pragma once
#include "protocol/session.h"
#include "schedule/gather.h"
#include "tile/matrix.h"

namespace tw {

TW_DEV GatherOrder gather_order(const TwParams& p, uint32_t tile_m, uint32_t tile_n, uint32_t tiles_n) {
  return {p.m, p.n, p.chunk, p.panel, p.group.world, p.group.rank, tile_m, tile_n, tiles_n, p.slots, p.piece, p.cluster};
}

// The columns of `source`'s rows, counted in those of all ranks where they stand side by side.
TW_DEV Span columns_of_source(const TwParams& p, uint32_t source) {
  return p.columns ? chunk_of(p.columns, p.k, source) : Span{0, p.k};
}

// kColumns: whether matrices may stand side by side, as in plain all-gathers alone.
template <class T, bool kColumns = false>
struct GatherStaging {
  const TwParams& p;
  const uint32_t own_begin;   // first row of this rank's chunk
  const uint32_t panel_rows;  // of a source, in a half
  const uint32_t row_bytes;   // from one to the next
  TW_DEV GatherStaging(const TwParams& params, const GatherOrder& order)
      : p(params), own_begin(chunk_of(p.m, p.chunk, p.group.rank).begin), panel_rows(p.slots * order.tile_m),
        row_bytes(ceil_div(p.k * Element<T>::kSize, 16) * 16) {}
  // Of one of this rank's rows.
  TW_DEV uint32_t own_bytes() const {
    return (kColumns ? columns_of_source(p, p.group.rank).size() : p.k) * Element<T>::kSize;
  }
  TW_DEV uint64_t bytes() const { return uint64_t(p.group.world) * panel_rows * row_bytes; }
  TW_DEV uint32_t pitch() const { return row_bytes / Element<T>::kSize; }
  TW_DEV gaddr at(uint64_t round, uint32_t on, uint32_t source) const {
    return heap_of(p, on) + staging_at(p, round) + uint64_t(source) * panel_rows * row_bytes;
  }
};

TW_DEV uint32_t rank_before(const TwParams& p, uint32_t distance) {
  return (p.group.rank + p.group.world - distance) % p.group.world;
}

// Pushes rows [t.block.row, + t.block.rows) to the peers `first_peer` to `last_peer` ranks before this one and publishes them as
// piece `signal`. Four vectors are loaded before the first is stored: a push is bounded by latencies else.
template <class Team, class T, bool kColumns>
TW_DEV void push_piece(Session<Team>& s, const GatherStaging<T, kColumns>& staging, const GatherTile& t, uint32_t signal,
                       uint32_t first_peer, uint32_t last_peer) {
  constexpr uint32_t kSize = Element<T>::kSize, kAhead = 4;
  const TwParams& p = s.p;
  s.stamps.begin(TW_STAMP_PUSH, t.index);
  const uint32_t own_bytes = staging.own_bytes(), vectors = ceil_div(own_bytes, 16);
  const uint32_t row0 = t.block.row - staging.own_begin, count = t.block.rows * vectors;
  for (uint32_t first = Team::thread(); s.alive && first < count; first += kAhead * Team::threads()) {
    vec4 v[kAhead];
    uint32_t valid[kAhead];
    uint64_t offset[kAhead];
    TW_UNROLL
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t at = first + i * Team::threads(), row = at / vectors, chunk = at % vectors;
      valid[i] = at < count ? min_u32(16, own_bytes - chunk * 16) : 0;
      offset[i] = uint64_t(t.local_row + row) * staging.row_bytes + chunk * 16;
      v[i] = valid[i] ? load_16<kSize>(Matrix<T>{p.x, p.x_ld}.at(row0 + row, 0) + chunk * 16, valid[i]) : vec4{{0, 0, 0, 0}};
    }
    for (uint32_t d = first_peer; d <= last_peer; ++d) {
      const gaddr base = staging.at(s.round, rank_before(p, d), p.group.rank);
      TW_UNROLL
      for (uint32_t i = 0; i < kAhead; ++i) {
        if (!valid[i]) continue;
        if (valid[i] < 16) mx::payload(valid[i]);
        mx::st_global_v4(base + offset[i], v[i]);
        s.bytes += valid[i];
      }
    }
  }
  if (first_peer == last_peer) {
    s.publish(rank_before(p, first_peer), signal);
  } else {
    s.publish_all(signal);
  }
  s.stamps.end();
}

// This rank's rows of round `q`: pieces `first`, `first` + `step`, ..., in the order in which they are needed. The rank before
// this one needs them first, behind its own; the next one last (schedule/gather.h). Many rows go to one after the other,
// so that all have what they need next as soon as links can bring it; of few, that would take P - 1 releases in place of one.
template <class Team, class T, bool kColumns>
TW_DEV void push_rows(Session<Team>& s, const GatherOrder& order, const GatherStaging<T, kColumns>& staging, uint32_t q,
                      uint32_t first, uint32_t step) {
  if (s.p.group.world == 1) return;
  const uint32_t rank = s.p.group.rank, pieces = order.pieces(), peers = s.p.group.world - 1;
  const uint32_t at_once = s.p.in_turn ? 1 : peers;
  for (uint32_t d = 1; d <= peers; d += at_once) {
    for (uint32_t u = first; u < s.p.slots * pieces; u += step) {
      const GatherTile t = order.piece_of(q, rank, u / pieces, u % pieces);
      if (t.block.rows) push_piece(s, staging, t, order.signal(rank, u / pieces, u % pieces), d, d + at_once - 1);
    }
  }
}
}  // namespace tw
