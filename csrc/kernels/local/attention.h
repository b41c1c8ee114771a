// Causal softmax attention, forward: o = softmax(scale q k^T) v, by tiles, with the online softmax of FlashAttention (Dao et al.,
// 2022, algorithm 1): nothing of seq x seq is ever in memory. For each tile of keys, upwards:
//
//   m' = max(m, scores of the tile); p = exp(s - m'); l = l exp(m - m') + sum of p; o = o exp(m - m') + p v
//
// and at the end o / l, and lse = m + log l. All of it in f32; p is not rounded. A CTA has 32 rows of one head, and up to 128 of
// its columns of o; those with most keys come first, so that the others fill the end. Query head h reads key and value head
// h / (heads / kv_heads).
#pragma once
#include "kernels/local/attention_backward.h"
#include "kernels/local/attention_tiles.h"
#include "tile/row_sum.h"

namespace tw {
template <class A>
TW_DEV void attention_forward(const TwLocal& l) {
  const Tiles<A> tiles(l.head_size);
  const float scale = mx::bits_f32(l.value);
  const uint32_t lane = mx::thread() % kRowLanes;
  for (uint32_t item = mx::block(); item < TileItem::count(l, l.heads); item += mx::grid()) {
    const QueryItem at(l, item);
    const Head<A> q = head_of<A>(l, TW_ATTENTION_Q, at.sequence, at.head);
    const Head<A> k = head_of<A>(l, TW_ATTENTION_K, at.sequence, at.kv_head);
    const Head<A> v = head_of<A>(l, TW_ATTENTION_V, at.sequence, at.kv_head);
    const Head<A> o = head_of<A>(l, TW_ATTENTION_O, at.sequence, at.head);
    const uint32_t row = at.tile + mx::thread() / kRowLanes;
    float most = -fn::infinity(), sum = 0.f;
    Sums sums = {};
    for (uint32_t keys = 0; keys <= at.tile; keys += kTileRows) {
      float s[kOthers];
      tiles.dot(q, at.tile, k, keys, s);
      TW_UNROLL
      for (uint32_t i = 0; i < kOthers; ++i) s[i] = keys + lane + i * kRowLanes <= row ? mx::mul(s[i], scale) : -fn::infinity();
      float now = fn::larger(fn::larger(s[0], s[1]), fn::larger(s[2], s[3]));
      for (uint32_t mask = 1; mask < kRowLanes; mask *= 2) {
        now = fn::larger(now, mx::bits_f32(mx::shfl_xor(mx::f32_bits(now), mask)));
      }
      now = fn::larger(most, now);
      const float keep = fn::exp(mx::add(most, -now));
      TW_UNROLL
      for (uint32_t i = 0; i < kOthers; ++i) s[i] = fn::exp(mx::add(s[i], -now));
      sum = mx::fma(sum, keep, fold_lanes(mx::add(mx::add(s[0], s[1]), mx::add(s[2], s[3])), kRowLanes));
      most = now;
      tiles.weigh(0, s);
      mx::warp_sync();
      sums.scale(keep);
      tiles.spread(0, v, keys, at.first_chunk, sums);
    }
    sums.scale(mx::div(1.f, sum));
    tiles.store(o, at.tile, at.first_chunk, sums);
    // One of the eight lanes that a row has.
    const TwMat& lse = l.mat[TW_ATTENTION_LSE];
    const bool tells = lse.at && lane == 0 && at.first_chunk == 0 && row < l.seq;
    if (tells) store_f32(lse, at.sequence * l.seq + row, at.head, mx::add(most, fn::log(sum)));
  }
}

template <class A>
TW_DEV void attention(const TwLocal& l) {
  if (l.what == TW_ATTENTION_DQ) return attention_dq<A>(l);
  if (l.what == TW_ATTENTION_DKV) return attention_dkv<A>(l);
  attention_forward<A>(l);
}
}  // namespace tw
