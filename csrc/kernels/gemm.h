// A rank's own GEMM: the first half of an unfused operation. out = round(x w^T + addend + bias), in the wire type; with an epilogue,
// what comes of that (tile/epilogue.h).
#pragma once
#include "tile/epilogue.h"
#include "kernels/split_k.h"
#include "protocol/stamp.h"
#include "schedule/waves.h"
#include "tile/source.h"

namespace tw {

template <class Source, class Products>
TW_DEV void store_product(const TwParams& p, const Block& block, const Products& values) {
  using T = typename Source::Type;
  if (p.desc.epilogue) {
    return store_activated<Source>(p, block, [&](uint32_t v) { return Source::partial(p, block, values, v); });
  }
  TW_UNROLL
  for (uint32_t v = 0; v < Source::kOctets; ++v) {
    const uint32_t row = Source::row(p, block, v);
    const Columns cols = Source::columns(p, block, v);
    if (row >= block.row + block.rows || !cols.any()) continue;
    Octet o = Source::partial(p, block, values, v);
    add_bias<T>(p, cols, o);
    if (p.desc.wire == TW_F32) {
      store_octet<float>({p.out, p.out_ld}, row, cols, o);
    } else {
      store_octet<T>({p.out, p.out_ld}, row, cols, o);
    }
  }
}

template <class Source>
TW_DEV WaveOrder gemm_order(const TwParams& p) {
  return {p.m, p.n, 1, 1, mx::grid(), Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.tiles, 1};
}

// A CTA a block.
template <class Source, class Product>
TW_DEV void gemm_blocks(const TwParams& p, Product product) {
  const WaveOrder order = gemm_order<Source>(p);
  Stamps<typename Source::Team> stamps(p);
  for (uint32_t t = mx::block(); t < p.tiles; t += mx::grid()) {
    const Block block = order.block(t);
    typename Source::Values values;
    product.whole(block, values, [&] { stamps.begin(TW_STAMP_MATH, t); });
    stamps.next(TW_STAMP_STORE);
    store_product<Source>(p, block, values);
    stamps.end();
  }
  stamps.close();
}

// Several CTAs a block: its last one stores it.
template <class Source, class Product>
TW_DEV void gemm_items(const TwParams& p, Product product) {
  const WaveOrder order = gemm_order<Source>(p);
  SplitK<Source> split(p);
  Stamps<typename Source::Team> stamps(p);
  for (uint32_t i = mx::block(); i < split.items.count(); i += mx::grid()) {
    const Block block = order.block(split.items.block(i));
    typename SplitK<Source>::Sum sum;
    if (split.complete(i, block, product, stamps, sum)) store_product<Source>(p, block, sum);
    stamps.end();
  }
  stamps.close();
}

template <class Source, class Product>
TW_DEV void gemm_by(const TwParams& p, Product product) {
  if constexpr (Source::kSplits) {
    if (p.split_space) return gemm_items<Source>(p, product);
  }
  gemm_blocks<Source>(p, product);
}
template <class Source>
TW_DEV void gemm(const TwParams& p) {
  gemm_by<Source>(p, Computed<Source>{p});
}
}  // namespace tw
