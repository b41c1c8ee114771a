// Causal softmax attention, backward (FlashAttention, algorithm 4), in two launches that compute the scores anew, each of which
// owns what it writes: no atomics, so every sum has one order.
//
//   p = exp(scale q k^T - lse)      delta = sum over a head's columns of do o
//   ds = p (do v^T - delta) scale   dq = ds k          a CTA: 32 queries of a head, keys upwards; leaves delta for the other
//   dv = p^T do                     dk = ds^T q        a CTA: 32 keys of a head; its query heads upwards, then queries upwards
#pragma once
#include "kernels/local/attention_tiles.h"
#include "tile/row_sum.h"

namespace tw {
TW_DEV uint32_t sequence_tiles(const TwLocal& l) { return (l.seq + kTileRows - 1) / kTileRows; }
TW_DEV uint32_t query_items(const TwLocal& l) { return sequence_tiles(l) * (l.rows / l.seq) * l.heads; }
TW_DEV uint32_t key_items(const TwLocal& l) { return sequence_tiles(l) * (l.rows / l.seq) * l.kv_heads; }

// A tile of queries: the last of all sequences first, which have the most keys.
struct QueryItem {
  uint32_t tile, sequence, head, kv_head;
  TW_DEV QueryItem(const TwLocal& l, uint32_t item) {
    const uint32_t alike = l.rows / l.seq * l.heads;
    tile = (sequence_tiles(l) - 1 - item / alike) * kTileRows;
    sequence = item % alike / l.heads;
    head = item % l.heads;
    kv_head = head / (l.heads / l.kv_heads);
  }
};

template <class A>
TW_DEV void attention_dq(const TwLocal& l) {
  const Tiles<A> tiles(l.head_size);
  const float scale = mx::bits_f32(l.value);
  const uint32_t lane = mx::thread() % kRowLanes;
  for (uint32_t item = mx::block(); item < query_items(l); item += mx::grid()) {
    const QueryItem at(l, item);
    const Head<A> q = head_of<A>(l, TW_ATTENTION_Q, at.sequence, at.head), k = head_of<A>(l, TW_ATTENTION_K, at.sequence, at.kv_head);
    const Head<A> v = head_of<A>(l, TW_ATTENTION_V, at.sequence, at.kv_head), o = head_of<A>(l, TW_ATTENTION_O, at.sequence, at.head);
    const Head<A> d = head_of<A>(l, TW_ATTENTION_DO, at.sequence, at.head), dq = head_of<A>(l, TW_ATTENTION_DQ_OUT, at.sequence, at.head);
    const uint32_t row = at.tile + mx::thread() / kRowLanes, in_all = at.sequence * l.seq + row;
    float delta = 0.f;
    for (uint32_t c = 0; c * kChunkColumns < l.head_size; ++c) {
      const Octet os = o.load(at.tile, c), ds = d.load(at.tile, c);
      TW_UNROLL
      for (int j = 0; j < 8; ++j) delta = mx::fma(ds.f[j], os.f[j], delta);
    }
    delta = fold_lanes(delta, kRowLanes);
    float lse = 0.f;
    if (row < l.seq) {
      lse = load_f32(l.mat[TW_ATTENTION_LSE], in_all, at.head);
      if (lane == 0) store_f32(l.mat[TW_ATTENTION_DELTA], in_all, at.head, delta);
    }
    Sums sums = {};
    for (uint32_t keys = 0; keys <= at.tile; keys += kTileRows) {
      float s[kOthers], dp[kOthers];
      tiles.dot(q, at.tile, k, keys, s);
      tiles.dot(d, at.tile, v, keys, dp);
      TW_UNROLL
      for (uint32_t i = 0; i < kOthers; ++i) {
        const float p = fn::exp(mx::add(mx::mul(s[i], scale), -lse));
        const float ds = mx::mul(mx::mul(p, mx::add(dp[i], -delta)), scale);
        s[i] = keys + lane + i * kRowLanes <= row ? ds : 0.f;
      }
      tiles.weigh(0, s);
      mx::warp_sync();
      tiles.spread(0, k, keys, sums);
    }
    tiles.store(dq, at.tile, sums);
  }
}

template <class A>
TW_DEV void attention_dkv(const TwLocal& l) {
  const Tiles<A> tiles(l.head_size);
  const float scale = mx::bits_f32(l.value);
  const uint32_t alike = l.rows / l.seq * l.kv_heads, group = l.heads / l.kv_heads;
  for (uint32_t item = mx::block(); item < key_items(l); item += mx::grid()) {
    // The first keys have the most queries.
    const uint32_t tile = item / alike * kTileRows, sequence = item % alike / l.kv_heads, kv_head = item % l.kv_heads;
    const Head<A> k = head_of<A>(l, TW_ATTENTION_K, sequence, kv_head), v = head_of<A>(l, TW_ATTENTION_V, sequence, kv_head);
    const uint32_t row = tile + mx::thread() / kRowLanes;
    Sums dk = {}, dv = {};
    for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const Head<A> q = head_of<A>(l, TW_ATTENTION_Q, sequence, head), d = head_of<A>(l, TW_ATTENTION_DO, sequence, head);
      for (uint32_t queries = tile; queries < l.seq; queries += kTileRows) {
        float s[kOthers], dp[kOthers];
        tiles.dot(k, tile, q, queries, s);
        tiles.dot(v, tile, d, queries, dp);
        TW_UNROLL
        for (uint32_t i = 0; i < kOthers; ++i) {
          const uint32_t query = queries + mx::thread() % kRowLanes + i * kRowLanes;
          const bool sees = row <= query && query < l.seq;
          const uint64_t in_all = uint64_t(sequence) * l.seq + (query < l.seq ? query : 0);
          const float lse = load_f32(l.mat[TW_ATTENTION_LSE], in_all, head), delta = load_f32(l.mat[TW_ATTENTION_DELTA], in_all, head);
          const float p = fn::exp(mx::add(mx::mul(s[i], scale), -lse));
          const float ds = mx::mul(mx::mul(p, mx::add(dp[i], -delta)), scale);
          s[i] = sees ? p : 0.f;
          dp[i] = sees ? ds : 0.f;
        }
        tiles.weigh(0, s);
        tiles.weigh(1, dp);
        mx::warp_sync();
        tiles.spread(0, d, queries, dv);
        tiles.spread(1, q, queries, dk);
      }
    }
    tiles.store(head_of<A>(l, TW_ATTENTION_DK_OUT, sequence, kv_head), tile, dk);
    tiles.store(head_of<A>(l, TW_ATTENTION_DV_OUT, sequence, kv_head), tile, dv);
  }
}
}  // namespace tw
