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
// A tile of rows of one of `heads` heads in a sequence, and the columns that are summed.
struct TileItem {
  uint32_t tile, sequence, head, first_chunk;
  static constexpr uint32_t kColumns = kSumChunks * kChunkColumns;
  static TW_DEV uint32_t parts(const TwLocal& l) { return (l.head_size + kColumns - 1) / kColumns; }
  static TW_DEV uint32_t tiles(const TwLocal& l) { return (l.seq + kTileRows - 1) / kTileRows; }
  // Of all sequences and heads, the tiles of one number: neighbours, which take as long.
  static TW_DEV uint32_t alike(const TwLocal& l, uint32_t heads) { return l.rows / l.seq * heads * parts(l); }
  static TW_DEV uint32_t count(const TwLocal& l, uint32_t heads) { return tiles(l) * alike(l, heads); }

  TW_DEV TileItem(const TwLocal& l, uint32_t item, uint32_t heads) {
    tile = item / alike(l, heads) * kTileRows;
    first_chunk = item % parts(l) * kSumChunks;
    const uint32_t rest = item % alike(l, heads) / parts(l);
    sequence = rest / heads;
    head = rest % heads;
  }
};

// Of queries: the last of all sequences first, which have the most keys.
struct QueryItem : TileItem {
  uint32_t kv_head;
  TW_DEV QueryItem(const TwLocal& l, uint32_t item) : TileItem(l, item, l.heads), kv_head(head / (l.heads / l.kv_heads)) {
    tile = (tiles(l) - 1) * kTileRows - tile;
  }
};

template <class A>
TW_DEV void attention_dq(const TwLocal& l) {
  const Tiles<A> tiles(l.head_size);
  const float scale = mx::bits_f32(l.value);
  const uint32_t lane = mx::thread() % kRowLanes;
  for (uint32_t item = mx::block(); item < TileItem::count(l, l.heads); item += mx::grid()) {
    const QueryItem at(l, item);
    const Head<A> q = head_of<A>(l, TW_ATTENTION_Q, at.sequence, at.head);
    const Head<A> k = head_of<A>(l, TW_ATTENTION_K, at.sequence, at.kv_head);
    const Head<A> v = head_of<A>(l, TW_ATTENTION_V, at.sequence, at.kv_head);
    const Head<A> o = head_of<A>(l, TW_ATTENTION_O, at.sequence, at.head);
    const Head<A> d = head_of<A>(l, TW_ATTENTION_DO, at.sequence, at.head);
    const Head<A> dq = head_of<A>(l, TW_ATTENTION_DQ_OUT, at.sequence, at.head);
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
      if (lane == 0 && at.first_chunk == 0) store_f32(l.mat[TW_ATTENTION_DELTA], in_all, at.head, delta);
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
      tiles.spread(0, k, keys, at.first_chunk, sums);
    }
    tiles.store(dq, at.tile, at.first_chunk, sums);
  }
}

template <class A>
TW_DEV void attention_dkv(const TwLocal& l) {
  const Tiles<A> tiles(l.head_size);
  const float scale = mx::bits_f32(l.value);
  const uint32_t group = l.heads / l.kv_heads;
  for (uint32_t item = mx::block(); item < TileItem::count(l, l.kv_heads); item += mx::grid()) {
    // The first keys have the most queries.
    const TileItem at(l, item, l.kv_heads);
    const Head<A> k = head_of<A>(l, TW_ATTENTION_K, at.sequence, at.head);
    const Head<A> v = head_of<A>(l, TW_ATTENTION_V, at.sequence, at.head);
    const uint32_t row = at.tile + mx::thread() / kRowLanes;
    Sums dk = {}, dv = {};
    for (uint32_t head = at.head * group; head < (at.head + 1) * group; ++head) {
      const Head<A> q = head_of<A>(l, TW_ATTENTION_Q, at.sequence, head), d = head_of<A>(l, TW_ATTENTION_DO, at.sequence, head);
      for (uint32_t queries = at.tile; queries < l.seq; queries += kTileRows) {
        float s[kOthers], dp[kOthers];
        tiles.dot(k, at.tile, q, queries, s);
        tiles.dot(v, at.tile, d, queries, dp);
        TW_UNROLL
        for (uint32_t i = 0; i < kOthers; ++i) {
          const uint32_t query = queries + mx::thread() % kRowLanes + i * kRowLanes;
          const bool sees = row <= query && query < l.seq;
          const uint64_t in_all = uint64_t(at.sequence) * l.seq + (query < l.seq ? query : 0);
          const float lse = load_f32(l.mat[TW_ATTENTION_LSE], in_all, head);
          const float delta = load_f32(l.mat[TW_ATTENTION_DELTA], in_all, head);
          const float p = fn::exp(mx::add(mx::mul(s[i], scale), -lse));
          const float ds = mx::mul(mx::mul(p, mx::add(dp[i], -delta)), scale);
          s[i] = sees ? p : 0.f;
          dp[i] = sees ? ds : 0.f;
        }
        tiles.weigh(0, s);
        tiles.weigh(1, dp);
        mx::warp_sync();
        tiles.spread(0, d, queries, at.first_chunk, dv);
        tiles.spread(1, q, queries, at.first_chunk, dk);
      }
    }
    tiles.store(head_of<A>(l, TW_ATTENTION_DK_OUT, at.sequence, at.head), at.tile, at.first_chunk, dk);
    tiles.store(head_of<A>(l, TW_ATTENTION_DV_OUT, at.sequence, at.head), at.tile, at.first_chunk, dv);
  }
}
}  // namespace tw
