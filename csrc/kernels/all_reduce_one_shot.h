// GEMM+AR and AR, one-shot: every rank sends its partial to every rank as packets and adds what it receives, in rank
// order. One exchange instead of two, P - 1 times the bytes: for small M. A CTA sends its block before it waits for the
// peers' packets of it, and all ranks walk one order, so no wait depends on a later send.
//
// Where K is split over CTAs, that order does not hold any more: which CTA completes a block is known when it happens.
// There (`OneShotItems`) a CTA first does all its items, and all its sends with them, and only then waits for anything; this
// rank's own partials go by packets, too, since the CTA that needs one may not be the one that has it. So sends depend
// on nothing, and waits on sends alone. Ranks may have different splits, and some of them none.
#pragma once
#include "kernels/packets.h"
#include "kernels/split_k.h"
#include "kernels/tail.h"
#include "schedule/waves.h"

namespace tw {

template <class Source>
TW_DEV WaveOrder one_shot_order(const TwParams& p) {
  return {p.m, p.n, 1, p.group.world, mx::grid(), Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.tiles, 1};
}

template <class Source, class Product>
class OneShot {
  using Team = typename Source::Team;
  Session<Team> s;
  const TwParams& p;
  const WaveOrder order;
  Packets<Source> packets;
  Product product;

 public:
  TW_DEV OneShot(const TwParams& params, const Product& how)
      : s(params), p(params), order(one_shot_order<Source>(params)), packets(params), product(how) {}

  TW_DEV void run() {
    for (uint32_t t = mx::block(); t < p.tiles; t += mx::grid()) exchange(t, order.block(t));
    run_tail<Source>(s, mx::block(), mx::grid());
    s.finish(0);
  }

 private:
  TW_DEV void exchange(uint32_t t, const Block& block) {
    typename Source::Values values;
    product.whole(block, values, [&] { s.stamps.begin(TW_STAMP_MATH, t); });
    s.stamps.begin(TW_STAMP_PUSH, Source::kMultiplies ? TW_STAMP_SAME : t);
    Octet own[Source::kOctets];
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (exists<Source>(p, block, v)) own[v] = Source::partial(p, block, values, v);
    }
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (!exists<Source>(p, block, v)) continue;
      if (s.alive) packets.send(s, block, v, own[v]);
      packets.round(own[v]);
    }
    s.stamps.end();
    s.agree();
    TW_UNROLL
    for (uint32_t v0 = 0; v0 < Source::kOctets; v0 += Group<Source>::kSize) {
      Group<Source> sum;
      bool ok = s.alive;
      s.stamps.begin_wait(TW_WAIT_PACKET, t, p.group.world);
      for (uint32_t r = 0; r < p.group.world; ++r) s.stamps.came(r, 0);
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) {
        if (ok && exists<Source>(p, block, v0 + i)) {
          ok = packets.template add_up<true>(s, t, block, v0 + i, own[v0 + i], sum.o[i]);
        }
      }
      // One vote a group: all of it came, or all of it, and what follows, is NaN. It orders nothing: a packet is read by
      // the thread that waited for it.
      s.alive = Team::sync_and(ok, Site::None);
      s.stamps.begin(TW_STAMP_REDUCE, t);
      TW_UNROLL
      for (uint32_t i = 0; i < Group<Source>::kSize; ++i) end_sum<Source>(p, block, v0 + i, block.row, sum.o[i]);
      store_group<Source>(s, block, v0, block.row, sum);
      s.stamps.end();
    }
  }
};

template <class Source, class Product>
class OneShotItems {
  using T = typename Source::Type;
  Session<typename Source::Team> s;
  const TwParams& p;
  const WaveOrder order;
  Packets<Source> packets;
  Product product;

 public:
  TW_DEV OneShotItems(const TwParams& params, const Product& how)
      : s(params), p(params), order(one_shot_order<Source>(params)), packets(params), product(how) {}

  TW_DEV void run() {
    SplitK<Source> split(p);
    for (uint32_t i = mx::block(); i < split.items.count(); i += mx::grid()) {
      const Block block = order.block(split.items.block(i));
      typename SplitK<Source>::Sum sum;
      if (split.complete(i, block, product, s.stamps, sum)) {
        s.stamps.begin(TW_STAMP_PUSH, split.items.block(i));
        send(block, sum);
      }
      s.stamps.end();
    }
    s.agree();
    // There are fewer blocks than CTAs, so the sums are dealt out by single octets of a block's threads.
    for (uint32_t u = mx::block(); u < p.tiles * Source::kOctets; u += mx::grid()) {
      const uint32_t t = u / Source::kOctets;
      reduce(t, order.block(t), u % Source::kOctets);
    }
    run_tail<Source>(s, mx::block(), mx::grid());
    s.finish(0);
  }

 private:
  TW_DEV void send(const Block& block, const typename SplitK<Source>::Sum& sum) {
    TW_UNROLL
    for (uint32_t v = 0; v < Source::kOctets; ++v) {
      if (!exists<Source>(p, block, v)) continue;
      const Octet o = Source::partial(p, block, sum, v);
      if (s.alive) packets.send(s, block, v, o);
      // After an abort, too: no CTA of this rank is ever the one that another waits for in vain.
      packets.keep(s, block, v, o);
    }
  }

  TW_DEV void reduce(uint32_t t, const Block& block, uint32_t v) {
    const bool mine = exists<Source>(p, block, v);
    Octet sum = nan_octet();
    bool ok = s.alive;
    s.stamps.begin_wait(TW_WAIT_PACKET, t, p.group.world);
    for (uint32_t r = 0; r < p.group.world; ++r) s.stamps.came(r, 0);
    if (mine && ok) ok = packets.template add_up<false>(s, t, block, v, nan_octet(), sum);
    s.alive = Source::Team::sync_and(ok, Site::None);  // as above
    s.stamps.begin(TW_STAMP_REDUCE, t);
    if (mine) store(block, v, sum);
    s.stamps.end();
  }

  TW_DEV void store(const Block& block, uint32_t v, Octet& sum) {
    const Columns columns = Source::columns(p, block, v);
    end_sum<Source>(p, block, v, block.row, sum);
    store_octet<T>({p.out, p.out_ld}, Source::row(p, block, v), columns, s.alive ? sum : nan_octet());
  }
};

template <class Source, class Product>
TW_DEV void one_shot_by(const TwParams& p, const Product& product) {
  if constexpr (Source::kSplits) {
    if (p.split_space) return OneShotItems<Source, Product>(p, product).run();
  }
  OneShot<Source, Product>(p, product).run();
}
template <class Source>
TW_DEV void one_shot(const TwParams& p) {
  one_shot_by<Source>(p, Computed<Source>{p});
}
}  // namespace tw
