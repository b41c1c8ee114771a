// Arithmetic: an instruction or a few, and no value. What it takes in is waited for.
#pragma once
#include "calls.h"

namespace mx {
// No float has a value here.
TW_MACHINE u32 f32_bits(float) { return 0; }
TW_MACHINE float bits_f32(u32 b) {
  need(self(), b);
  return 0.f;
}
TW_MACHINE float issued(u32 instructions) {
  self()->issue += instructions;
  return 0.f;
}
TW_MACHINE float fma(float, float, float) { return issued(1); }
TW_MACHINE float add(float, float) { return issued(1); }
TW_MACHINE float mul(float, float) { return issued(1); }
TW_MACHINE float div(float, float) { return issued(8); }
TW_MACHINE float sqrt(float) { return issued(8); }

// A conversion of two: half the rate of an addition.
template <class T>
TW_MACHINE u32 pack2(float, float) {
  issued(2);
  return 0;
}
template <class T>
TW_MACHINE float unpack_lo(u32 x) {
  need(self(), x);
  return issued(1);
}
template <class T>
TW_MACHINE float unpack_hi(u32 x) {
  need(self(), x);
  return issued(1);
}
template <class T>
TW_MACHINE float round_f32(float) {
  return issued(3);
}
template <>
TW_MACHINE float round_f32<float>(float x) {
  return x;
}
}  // namespace mx
