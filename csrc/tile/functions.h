// Functions of one f32, the same bits on every machine: polynomials over mx::fma, add, mul and div, and integer work on
// exponents. No GPU approximation is used (ex2.approx differs from any host), and no libm. Largest errors, over all that a
// test samples (tests/conformance/functions.rs), in units in the last place of the exact value:
//
//   exp        1.1   subnormal results included; above 88.73 infinity, below -104 zero
//   log        1.0   subnormal arguments included; of 0 -infinity, of less NaN
//   gauss      1.5   exp(-x^2 / 2)
//   normal     5.5   the standard normal distribution up to x, both tails; below -14.2 zero
//   sigmoid    2.5   1 / (1 + exp(-x))
//   gelu       6.0   x normal(x); where normal(x) is subnormal, half a subnormal unit times |x| more
//   silu       3.0   x sigmoid(x); the same
//   gelu_slope, silu_slope: |error| <= 2^-22: both have a zero, about which nothing holds relative to their value.
//
// NaN gives NaN. gelu and silu of -infinity are NaN, as their formulas are. Choices between values are made by `?:`, never by
// control flow.
#pragma once
#include "machine.h"

namespace tw {
namespace fn {
// c[0] + c[1] x + ..., by Horner.
template <int kCount>
TW_DEV float polynomial(float x, const float (&c)[kCount]) {
  float y = c[kCount - 1];
  TW_UNROLL
  for (int i = kCount - 2; i >= 0; --i) y = mx::fma(y, x, c[i]);
  return y;
}
// 2^n of a normal number.
TW_DEV float power_of_two(int32_t n) { return mx::bits_f32(uint32_t(n + 127) << 23); }
TW_DEV float magnitude(float x) { return mx::bits_f32(mx::f32_bits(x) & 0x7fffffffu); }
// The larger of the two; NaN where either is NaN.
TW_DEV float larger(float a, float b) {
  const float most = a > b ? a : b;
  return a == a ? most : a;
}
TW_DEV float infinity() { return mx::bits_f32(0x7f800000u); }
TW_DEV float nan() { return mx::bits_f32(0x7fffffffu); }

// ln 2 in two parts: 10 bits, of which a multiple below 2^14 is exact, and the rest.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 q(r); times 2^n in two steps, so that what becomes subnormal is
// rounded once.
TW_DEV float exp(float x) {
  constexpr float kMagic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const float q[] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.123a2p-7f, 0x1.6a23e8p-10f};
  const float least = x < -104.f ? -104.f : x, c = least > 89.f ? 89.f : least;
  const float shifted = mx::fma(c, 0x1.715476p+0f, kMagic), k = mx::add(shifted, -kMagic);
  const int32_t n = int32_t(mx::f32_bits(shifted) - 0x4b400000u), half = n >> 1;
  const float r = mx::fma(k, -kLn2Low, mx::fma(k, -kLn2High, c));
  const float y = mx::add(mx::fma(mx::mul(r, r), polynomial(r, q), r), 1.f);
  return mx::mul(mx::mul(y, power_of_two(half)), power_of_two(n - half));
}

// x = m 2^n with m from sqrt(1/2) to sqrt(2); log(1 + f) = f - f^2 / 2 + f^3 p(f).
TW_DEV float log(float x) {
  const float p[] = {0x1.555548p-2f,  -0x1.000006p-2f, 0x1.99a4b6p-3f,  -0x1.555c4ep-3f, 0x1.233768p-3f,
                     -0x1.fc2208p-4f, 0x1.e6f06ap-4f,  -0x1.de3c14p-4f, 0x1.1457a6p-4f};
  const bool subnormal = x < 0x1p-126f;
  const uint32_t bits = mx::f32_bits(subnormal ? mx::mul(x, 0x1p23f) : x);
  const int32_t n = int32_t(bits - 0x3f3504f3u) >> 23;
  const float f = mx::add(mx::bits_f32(bits - (uint32_t(n) << 23)), -1.f), k = float(n - (subnormal ? 23 : 0));
  const float square = mx::mul(f, f);
  float rest = mx::mul(mx::mul(square, f), polynomial(f, p));
  rest = mx::fma(-0.5f, square, mx::fma(k, kLn2Low, rest));
  const float y = mx::fma(k, kLn2High, mx::add(f, rest));
  const float at_edges = x == 0.f ? -infinity() : x > 0.f ? x : nan();
  return x > 0.f && x < infinity() ? y : at_edges;
}

// exp(-x^2 / 2). What rounding x^2 loses would be magnified by x^2: it is put back.
TW_DEV float gauss(float x) {
  const float square = mx::mul(x, x), lost = mx::fma(x, x, -square), y = exp(mx::mul(-0.5f, square));
  return square < 256.f ? mx::fma(y, mx::mul(-0.5f, lost), y) : y;
}

// For a = |x|: normal(-a) = G(t) / (a + 3) gauss(a), where t = (a - 3) / (a + 3) and G is smooth up to infinity (Shepherd and
// Laframboise, Chebyshev approximation of (1 + 2x) exp(x^2) erfc x, Math. Comp. 36, 1981). Above 0 it is what lacks to 1.
TW_DEV float normal(float x, float gauss_of_x) {
  const float g[] = {0x1.754a76p-1f, -0x1.04c72ap-1f, 0x1.d71386p-3f,  -0x1.832d0ap-5f, -0x1.56d5fcp-7f, 0x1.c8bd7ep-8f,
                     0x1.0ca418p-10f, -0x1.0eab88p-10f, -0x1.00a4d4p-12f, 0x1.13427ap-13f, 0x1.c8cd88p-15f};
  const float any = magnitude(x), a = any > 15.f ? 15.f : any;
  const float by = mx::div(1.f, mx::add(a, 3.f)), t = mx::mul(mx::add(a, -3.f), by);
  const float below = mx::mul(mx::mul(polynomial(t, g), by), gauss_of_x);
  return x < 0.f ? below : mx::add(1.f, -below);
}
TW_DEV float normal(float x) { return normal(x, gauss(x)); }

// By exp(-|x|), which overflows nowhere.
TW_DEV float sigmoid(float x) {
  const float e = exp(-magnitude(x));
  return mx::div(x < 0.f ? e : 1.f, mx::add(1.f, e));
}

TW_DEV float gelu(float x) { return mx::mul(x, normal(x)); }
// normal(x) + x gauss(x) / sqrt(2 pi)
TW_DEV float gelu_slope(float x) {
  const float e = gauss(x);
  return mx::fma(mx::mul(x, e), 0x1.988454p-2f, normal(x, e));
}

TW_DEV float silu(float x) {
  const float e = exp(-magnitude(x));
  return mx::div(x < 0.f ? mx::mul(x, e) : x, mx::add(1.f, e));
}
// s (1 + x (1 - s)) with s = sigmoid(x); 1 - s is computed as what it is, sigmoid(-x).
TW_DEV float silu_slope(float x) {
  const float e = exp(-magnitude(x)), all = mx::add(1.f, e);
  const float s = mx::div(x < 0.f ? e : 1.f, all), rest = mx::div(x < 0.f ? 1.f : e, all);
  return mx::mul(s, mx::fma(x, rest, 1.f));
}
}  // namespace fn
}  // namespace tw
