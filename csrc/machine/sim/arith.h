// f32 arithmetic with one rounding each, and the 16-bit types. NaN results are canonical: 0x7fffffff, packed 0x7fff.
#pragma once
#include "types.h"

namespace mx {
TW_MACHINE u32 f32_bits(float x) {
  u32 b;
  memcpy(&b, &x, 4);
  return b;
}
TW_MACHINE float bits_f32(u32 b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}
TW_MACHINE float canonical(float x) { return x == x ? x : bits_f32(0x7fffffffu); }
TW_MACHINE float fma(float a, float b, float c) { return canonical(__builtin_fmaf(a, b, c)); }
TW_MACHINE float add(float a, float b) { return canonical(a + b); }
TW_MACHINE float mul(float a, float b) { return canonical(a * b); }
TW_MACHINE float div(float a, float b) { return canonical(a / b); }
TW_MACHINE float sqrt(float a) { return canonical(__builtin_sqrtf(a)); }

// Round to nearest even by adding half of the last kept bit, less one unless that bit is set; a carry out of the mantissa
// is the next binade, or infinity.
TW_MACHINE u32 round_bf16(float x) {
  const u32 b = f32_bits(x);
  return x == x ? (b + 0x7fffu + (b >> 16 & 1)) >> 16 : 0x7fffu;
}
TW_MACHINE u32 round_f16(float x) {
  const u32 b = f32_bits(x), sign = b >> 16 & 0x8000u, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return 0x7fffu;
  if (a >= 0x47800000u) return sign | 0x7c00u;  // 65536 and above, infinity too
  if (a < 0x38800000u) {                        // below 2^-14: subnormal, units of 2^-24
    // Adding 0.5 lines the value up so that the f32's last bit is 2^-24, and the addition rounds to nearest even.
    return sign | (f32_bits(bits_f32(a) + 0.5f) - f32_bits(0.5f));
  }
  return sign | ((a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13);
}
TW_MACHINE float widen_f16(u32 h) {
  const u32 sign = (h & 0x8000u) << 16, a = h & 0x7fffu;
  if (a >= 0x7c00u) return bits_f32(a == 0x7c00u ? sign | 0x7f800000u : 0x7fffffffu);
  // A subnormal is a * 2^-24: both factors and the product are exact.
  if (a < 0x400u) return bits_f32(f32_bits(float(a) * 0x1p-24f) | sign);
  return bits_f32(sign | ((a << 13) + 0x38000000u));
}

template <class T>
TW_MACHINE u32 pack2(float lo, float hi);
template <>
TW_MACHINE u32 pack2<bf16>(float lo, float hi) {
  return round_bf16(lo) | round_bf16(hi) << 16;
}
template <>
TW_MACHINE u32 pack2<f16>(float lo, float hi) {
  return round_f16(lo) | round_f16(hi) << 16;
}

template <class T>
TW_MACHINE float unpack_lo(u32 x);
template <class T>
TW_MACHINE float unpack_hi(u32 x);
template <>
TW_MACHINE float unpack_lo<bf16>(u32 x) {
  return bits_f32(x << 16);
}
template <>
TW_MACHINE float unpack_hi<bf16>(u32 x) {
  return bits_f32(x & 0xffff0000u);
}
template <>
TW_MACHINE float unpack_lo<f16>(u32 x) {
  return widen_f16(x & 0xffffu);
}
template <>
TW_MACHINE float unpack_hi<f16>(u32 x) {
  return widen_f16(x >> 16);
}

template <class T>
TW_MACHINE float round_f32(float x) {
  return unpack_lo<T>(pack2<T>(x, x));
}
template <>
TW_MACHINE float round_f32<float>(float x) {
  return x;
}
}  // namespace mx
