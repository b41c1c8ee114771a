// The f32 tile: the same ring of stages, one fused multiply-add a product (FFMA), K upwards. Exact in the sense that every
// product enters its f32 sum unrounded; no TF32 anywhere.
//
// Thread (u, t) = (thread / 8, thread % 8) of 128 holds rows 4u .. 4u+3 and, of each, the pairs of columns 16j + 2t:
// one octet a row.
#pragma once
#include "tile/stage.h"

namespace tw {

struct FfmaTile {
  using Type = float;
  using Team = Cta;
  static constexpr uint32_t kM = 64, kN = 64, kThreads = 128, kStages = 2;
  static constexpr uint32_t kOctets = 4;
  static constexpr uint32_t kShared = kStages * (kM + kN) * kStageRowBytes;
  static constexpr uint32_t kTailAt = 0;  // the ring is at rest by then

  struct Values {
    float d[kOctets][8];
    TW_DEV Octet octet(uint32_t v) const {
      Octet o;
      TW_UNROLL
      for (int e = 0; e < 8; ++e) o.f[e] = d[v][e];
      return o;
    }
    TW_DEV void add(const Values& x) {
      TW_UNROLL
      for (uint32_t v = 0; v < kOctets; ++v) {
        TW_UNROLL
        for (int e = 0; e < 8; ++e) d[v][e] = mx::add(d[v][e], x.d[v][e]);
      }
    }
  };

  static TW_DEV uint32_t row_of(uint32_t v) { return mx::thread() / 8 * 4 + v; }
  static TW_DEV Columns columns_of(uint32_t, uint32_t end) { return {mx::thread() % 8 * 2, 16, end}; }

  // Vectors of neighbouring threads are neighbours.
  static TW_DEV uint32_t place(uint32_t v) { return v * kThreads + mx::thread(); }

  static TW_DEV uint32_t ordinal(uint32_t col) { return col / 64 * 8 + col % 64 / 2; }

  static TW_DEV void multiply(const Operand<float>& x, uint32_t row0, const Operand<float>& w, uint32_t col0, Values& acc) {
    TW_UNROLL
    for (uint32_t v = 0; v < kOctets; ++v) {
      TW_UNROLL
      for (int e = 0; e < 8; ++e) acc.d[v][e] = 0.f;
    }
    Ring<FfmaTile>::multiply(x, row0, w, col0, acc);
  }

  template <bool kXByK, bool kWByK>
  static TW_DEV void multiply_stage(saddr x_stage, saddr w_stage, Values& acc) {
    for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      vec4 a[kOctets], b[8];  // four of K of each row, of each column
      if (kXByK) {
        TW_UNROLL
        for (uint32_t k = 0; k < 4; ++k) {
          const vec4 rows = mx::ld_shared_v4(panel_chunk<4>(x_stage, row_of(0), 4 * chunk + k));
          TW_UNROLL
          for (uint32_t v = 0; v < kOctets; ++v) a[v].v[k] = rows.v[v];
        }
      } else {
        TW_UNROLL
        for (uint32_t v = 0; v < kOctets; ++v) a[v] = mx::ld_shared_v4(stage_chunk(x_stage, row_of(v), chunk));
      }
      if (kWByK) {
        const uint32_t t = mx::thread() % 8;
        TW_UNROLL
        for (uint32_t k = 0; k < 4; ++k) {
          TW_UNROLL
          for (uint32_t j = 0; j < 4; ++j) {
            const vec4 columns = mx::ld_shared_v4(panel_chunk<4>(w_stage, j * 16 + t / 2 * 4, 4 * chunk + k));
            b[2 * j].v[k] = t % 2 ? columns.v[2] : columns.v[0];
            b[2 * j + 1].v[k] = t % 2 ? columns.v[3] : columns.v[1];
          }
        }
      } else {
        TW_UNROLL
        for (int e = 0; e < 8; ++e) {
          b[e] = mx::ld_shared_v4(stage_chunk(w_stage, e / 2 * 16 + mx::thread() % 8 * 2 + e % 2, chunk));
        }
      }
      TW_UNROLL
      for (int k = 0; k < 4; ++k) {
        TW_UNROLL
        for (uint32_t v = 0; v < kOctets; ++v) {
          TW_UNROLL
          for (int e = 0; e < 8; ++e) {
            acc.d[v][e] = mx::fma(mx::bits_f32(a[v].v[k]), mx::bits_f32(b[e].v[k]), acc.d[v][e]);
          }
        }
      }
    }
  }
};
}  // namespace tw
