// AG+GEMM and AG: every rank pushes its rows, a row block at a time, into the staging of all peers, and consumes all ranks'
// rows, its own first (schedule/gather.h). `comm_ctas` CTAs only push while the others compute from the first instruction
// on; with 0 (a grid of one, or little to do) every CTA first pushes its share. Pushes depend on nothing but the round,
// consumption on pushes alone.
#pragma once
#include "tile/epilogue.h"
#include "kernels/gather_push.h"
#include "tile/source.h"

namespace tw {

// What a rank does with gathered rows: a Consumer has kColumns (kernels/gather_push.h), tile_m, tile_n, tiles_n and
// consume(session, tile, rows), where `rows` are the source's, the block's first being row `first` of them.
template <class T>
struct GatheredRows {
  Matrix<T> m;
  uint32_t first;
};

template <class Consumer>
class AllGather {
  using T = typename Consumer::Type;
  Session<Cta> s;
  const TwParams& p;
  const GatherOrder order;
  const GatherStaging<T, Consumer::kColumns> staging;

 public:
  TW_DEV explicit AllGather(const TwParams& params)
      : s(params), p(params),
        order(gather_order(p, Consumer::tile_m(p), Consumer::tile_n(p), Consumer::tiles_n(p))), staging(params, order) {}

  TW_DEV void run() {
    const bool split = p.comm_ctas != 0, pushes = !split || mx::block() < p.comm_ctas;
    const bool consumes = !split || !pushes;
    const uint32_t pushers = split ? p.comm_ctas : mx::grid(), consumers = split ? mx::grid() - p.comm_ctas : mx::grid();
    const uint32_t consumer = split ? mx::block() - p.comm_ctas : mx::block();
    // A rank without columns reads nothing and waits for nothing: it has no say in when its staging is dead.
    const uint64_t used = order.positions() ? staging.bytes() : 0;
    for (uint32_t q = 0; q < p.panels; ++q) {
      s.open_round(q);
      if (pushes) push_rows(s, order, staging, q, mx::block(), pushers);
      if (consumes) {
        for (uint32_t f = consumer; f < order.positions(); f += consumers) consume(order.at(q, f));
      }
      s.close_round(q, used);
    }
    s.finish(used);
  }

 private:
  TW_DEV void consume(const GatherTile& t) {
    if (!t.block.rows) return;
    const bool own = t.source == p.group.rank;
    if (!own) {
      s.await_peer(TW_WAIT_ROWS, t.source, t.row_block, order.signal(t.source, t.row_block, 0), order.pieces_in(t.block.rows));
    }
    // One call for both: a mainloop is large.
    const Matrix<T> rows = own ? Matrix<T>{p.x, p.x_ld} : Matrix<T>{staging.at(s.round, p.group.rank, t.source), staging.pitch()};
    Consumer::consume(s, t, GatheredRows<T>{rows, own ? t.block.row - staging.own_begin : t.local_row});
  }
};

// AG+GEMM: a block of the gathered rows times this rank's columns.
template <class Tile>
class GemmConsumer {
 public:
  using Type = typename Tile::Type;
  using Source = GemmSource<Tile>;
  static constexpr bool kColumns = false;
  static constexpr uint32_t kThreads = Tile::kThreads;
  static TW_DEV uint32_t tile_m(const TwParams&) { return Tile::kM; }
  static TW_DEV uint32_t tile_n(const TwParams&) { return Tile::kN; }
  static TW_DEV uint32_t tiles_n(const TwParams& p) { return p.tiles_n; }

  static TW_DEV void consume(Session<Cta>& s, const GatherTile& t, const GatheredRows<Type>& rows) {
    const Block& b = t.block;
    typename Source::Values values;
    s.stamps.begin(TW_STAMP_MATH, t.index);
    if (s.alive) Source::multiply(s.p, {rows.m, rows.first + b.rows, s.p.k, false}, rows.first, b, values);
    s.stamps.next(TW_STAMP_STORE);
    store(s, b, values);
    s.stamps.end();
  }

 private:
  static TW_DEV void store(const Session<Cta>& s, const Block& b, const typename Source::Values& values) {
    if (s.p.desc.epilogue) {
      return store_activated<Source>(s.p, b, [&](uint32_t v) { return s.alive ? values.octet(v) : nan_octet(); });
    }
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      const uint32_t row = Source::row(s.p, b, v);
      const Columns cols = Source::columns(s.p, b, v);
      if (row >= b.row + b.rows || !cols.any()) continue;
      Octet o = values.octet(v);
      add_bias<Type>(s.p, cols, o);
      store_octet<Type>({s.p.out, s.p.out_ld}, row, cols, s.alive ? o : nan_octet());
    }
  }
};

// AG: the rows themselves, bit for bit, one below the other or side by side. Here `k` and `n` are both the number of columns
// that are staged.
template <class T>
struct CopyConsumer {
  using Type = T;
  static constexpr bool kColumns = true;
  static constexpr uint32_t kThreads = TW_TILE_MEMORY_THREADS, kSize = Element<T>::kSize;
  static TW_DEV uint32_t tile_m(const TwParams& p) { return p.gather_rows; }
  static TW_DEV uint32_t tile_n(const TwParams& p) { return p.n; }
  static TW_DEV uint32_t tiles_n(const TwParams&) { return 1; }  // whole rows

  static TW_DEV void consume(Session<Cta>& s, const GatherTile& t, const GatheredRows<T>& rows) {
    const Block& b = t.block;
    s.stamps.begin(TW_STAMP_COLLECT, t.index, t.source);
    const Span cols = columns_of_source(s.p, t.source);
    // Side by side, a source's rows begin at the top.
    const uint32_t bytes = cols.size() * kSize, vectors = ceil_div(bytes, 16), top = s.p.columns ? t.source * s.p.chunk : 0;
    for (uint32_t at = mx::thread(); at < b.rows * vectors; at += mx::threads()) {
      const uint32_t row = at / vectors, chunk = at % vectors, valid = min_u32(16, bytes - chunk * 16);
      vec4 v = {{~0u, ~0u, ~0u, ~0u}};  // after an abort: NaN in every type
      if (s.alive) v = load_16<kSize>(rows.m.at(rows.first + row, 0) + chunk * 16, valid);
      store_16<kSize>(Matrix<T>{s.p.out, s.p.out_ld}.at(b.row - top + row, cols.begin) + chunk * 16, valid, v);
    }
    s.stamps.end();
  }
};
}  // namespace tw
