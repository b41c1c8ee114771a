// One entry point for all types.
#pragma once
#include "tile/octet.h"

namespace tw {
// body(T{}) for the operation's T. Types are tags, or a float that nobody looks at.
template <class Body>
TW_DEV void by_type(const TwParams& p, const Body& body) {
  if (p.desc.dtype == TW_BF16) return body(mx::bf16{});
  if (p.desc.dtype == TW_F16) return body(mx::f16{});
  body(0.0f);
}
// For those who copy elements, and look only at their size.
template <class Body>
TW_DEV void by_size(const TwParams& p, const Body& body) {
  static_assert(Element<mx::bf16>::kSize == Element<mx::f16>::kSize, "two types, one body");
  if (p.desc.dtype != TW_F32) return body(mx::bf16{});
  body(0.0f);
}
}  // namespace tw
