// f32 arithmetic with one rounding each, and the 16-bit types. NaN results are canonical: 0x7fffffff, packed 0x7fff.
#pragma once
#include "types.h"

namespace mx {
TW_DEV float fma(float a, float b, float c) {
  float d;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}
TW_DEV float add(float a, float b) {
  float d;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}
TW_DEV float mul(float a, float b) {
  float d;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}
TW_DEV float div(float a, float b) {
  float d;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}
TW_DEV float sqrt(float a) {
  float d;
  asm("sqrt.rn.f32 %0, %1;" : "=f"(d) : "f"(a));
  return d;
}
TW_DEV u32 f32_bits(float x) { return __float_as_uint(x); }
TW_DEV float bits_f32(u32 x) { return __uint_as_float(x); }

// The instruction takes the upper half first.
template <class T>
TW_DEV u32 pack2(float lo, float hi);
template <>
TW_DEV u32 pack2<bf16>(float lo, float hi) {
  u32 x;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(hi), "f"(lo));
  return x;
}
template <>
TW_DEV u32 pack2<f16>(float lo, float hi) {
  u32 x;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(hi), "f"(lo));
  return x;
}

template <class T>
TW_DEV float unpack_lo(u32 x);
template <class T>
TW_DEV float unpack_hi(u32 x);
template <>
TW_DEV float unpack_lo<bf16>(u32 x) {
  return bits_f32(x << 16);
}
template <>
TW_DEV float unpack_hi<bf16>(u32 x) {
  return bits_f32(x & 0xffff0000u);
}
template <>
TW_DEV float unpack_lo<f16>(u32 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(uint16_t(x)));
  return y;
}
template <>
TW_DEV float unpack_hi<f16>(u32 x) {
  return unpack_lo<f16>(x >> 16);
}

template <class T>
TW_DEV float round_f32(float x) {
  return unpack_lo<T>(pack2<T>(x, x));
}
template <>
TW_DEV float round_f32<float>(float x) {
  return x;
}
}  // namespace mx
