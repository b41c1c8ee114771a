// A rank's own GEMM: the first half of an unfused operation. out = round(x w^T + addend + bias), in the wire type.
#pragma once
#include "protocol/address.h"
#include "schedule/waves.h"
#include "tile/source.h"

namespace tw {

template <class Source>
TW_DEV void gemm(const TwParams& p) {
  using T = typename Source::Type;
  const WaveOrder order = {p.m, p.n, 1, 1, mx::grid(), Source::tile_m(p), Source::tile_n(p), p.tiles_n, p.tiles, 1};
  for (uint32_t t = mx::block(); t < p.tiles; t += mx::grid()) {
    const Block block = order.block(t);
    typename Source::Values values;
    Source::compute(p, block, values);
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
}
}  // namespace tw
