// Activations, forward and backward, on what was rounded to the operands' type. SwiGLU's gate and up are neighbours: columns 2j
// and 2j + 1 of x make column j of y = silu(gate) up.
#pragma once
#include "kernels/local/walk.h"
#include "tile/functions.h"

namespace tw {
template <class A>
TW_DEV void gelu(const TwLocal& l) {
  const auto x = A::mat(l, TW_ACTIVATE_X), y = A::mat(l, TW_ACTIVATE_Y);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    Octet o = A::load(x, row, c);
    TW_UNROLL
    for (int j = 0; j < 8; ++j) o.f[j] = fn::gelu(o.f[j]);
    A::store(y, row, c, o);
  });
}

template <class A>
TW_DEV void gelu_backward(const TwLocal& l) {
  const auto x = A::mat(l, TW_ACTIVATE_X), dy = A::mat(l, TW_ACTIVATE_DY), dx = A::mat(l, TW_ACTIVATE_DX);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    Octet o = A::load(x, row, c);
    const Octet d = A::load(dy, row, c);
    TW_UNROLL
    for (int j = 0; j < 8; ++j) o.f[j] = mx::mul(d.f[j], fn::gelu_slope(o.f[j]));
    A::store(dx, row, c, o);
  });
}

// The columns of x that half `half` of an octet of y is made of.
TW_DEV Columns pairs_of(const Columns& c, int half) { return {2 * c.col + 8 * half, 2, 2 * c.end}; }

template <class A>
TW_DEV void swiglu(const TwLocal& l) {
  const auto x = A::mat(l, TW_ACTIVATE_X), y = A::mat(l, TW_ACTIVATE_Y);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    const Octet pairs[2] = {A::load(x, row, pairs_of(c, 0)), A::load(x, row, pairs_of(c, 1))};
    Octet o;
    TW_UNROLL
    for (int j = 0; j < 8; ++j) o.f[j] = mx::mul(fn::silu(pairs[j / 4].f[j % 4 * 2]), pairs[j / 4].f[j % 4 * 2 + 1]);
    A::store(y, row, c, o);
  });
}

// dgate = dy up silu'(gate), dup = dy silu(gate)
template <class A>
TW_DEV void swiglu_backward(const TwLocal& l) {
  const auto x = A::mat(l, TW_ACTIVATE_X), dy = A::mat(l, TW_ACTIVATE_DY), dx = A::mat(l, TW_ACTIVATE_DX);
  for_each_octet(l, [&](uint32_t row, const Columns& c) {
    Octet pairs[2] = {A::load(x, row, pairs_of(c, 0)), A::load(x, row, pairs_of(c, 1))};
    const Octet d = A::load(dy, row, c);
    TW_UNROLL
    for (int j = 0; j < 8; ++j) {
      float &gate = pairs[j / 4].f[j % 4 * 2], &up = pairs[j / 4].f[j % 4 * 2 + 1];
      const float dgate = mx::mul(mx::mul(d.f[j], up), fn::silu_slope(gate));
      up = mx::mul(d.f[j], fn::silu(gate));
      gate = dgate;
    }
    A::store(dx, row, pairs_of(c, 0), pairs[0]);
    A::store(dx, row, pairs_of(c, 1), pairs[1]);
  });
}

template <class A>
TW_DEV void activate(const TwLocal& l) {
  if (l.what == TW_GELU) return gelu<A>(l);
  if (l.what == TW_SWIGLU) return swiglu<A>(l);
  if (l.what == TW_GELU_BACKWARD) return gelu_backward<A>(l);
  swiglu_backward<A>(l);
}
}  // namespace tw
