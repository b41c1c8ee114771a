// Arithmetic: an instruction or a few, and no value. What is made of a load's value is there when that is.
#pragma once
#include "calls.h"

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
TW_MACHINE u32 made(u32 instructions, u32 a, u32 b) {
  TwWarp* w = self();
  w->issue += instructions;
  return made_of(w, a, b);
}
TW_MACHINE float computed(u32 instructions, float a, float b) { return bits_f32(made(instructions, f32_bits(a), f32_bits(b))); }

TW_MACHINE float add(float a, float b) { return computed(1, a, b); }
TW_MACHINE float mul(float a, float b) { return computed(1, a, b); }
TW_MACHINE float fma(float a, float b, float c) { return computed(1, bits_f32(made(0, f32_bits(a), f32_bits(b))), c); }
TW_MACHINE float div(float a, float b) { return computed(8, a, b); }
TW_MACHINE float sqrt(float x) { return computed(8, x, x); }

// A conversion of two: half the rate of an addition.
template <class T>
TW_MACHINE u32 pack2(float lo, float hi) {
  return made(2, f32_bits(lo), f32_bits(hi));
}
template <class T>
TW_MACHINE float unpack_lo(u32 x) {
  return bits_f32(made(1, x, x));
}
template <class T>
TW_MACHINE float unpack_hi(u32 x) {
  return bits_f32(made(1, x, x));
}
template <class T>
TW_MACHINE float round_f32(float x) {
  return computed(3, x, x);
}
template <>
TW_MACHINE float round_f32<float>(float x) {
  return x;
}
}  // namespace mx
