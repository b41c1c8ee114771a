// Octets: eight values of one output row that one thread holds, the unit of rounding, pushing, reducing and storing.
// Pair j of an octet is two neighbouring columns; where the pairs stand is the tile's business. On the wire an octet of a
// 16-bit type is one 16-byte vector, of f32 two.
#pragma once
#include "abi.h"
#include "machine/team.h"

namespace tw {
using mx::gaddr;
using mx::saddr;
using mx::Site;
using mx::vec4;

struct Octet {
  float f[8];
};

// Shared memory of a tail (kernels/tail.h), which lies at a tile's kTailAt.
constexpr uint32_t kTailBytes = 64;

template <class T>
struct Element;  // size in bytes; pack and unpack of one 16-byte vector's worth
template <class T>
struct Element16 {
  static constexpr uint32_t kSize = 2;
  static TW_DEV vec4 pack(const Octet& o) {
    return {{mx::pack2<T>(o.f[0], o.f[1]), mx::pack2<T>(o.f[2], o.f[3]), mx::pack2<T>(o.f[4], o.f[5]),
             mx::pack2<T>(o.f[6], o.f[7])}};
  }
  static TW_DEV void unpack(const vec4& v, Octet& o) {
    TW_UNROLL
    for (int j = 0; j < 4; ++j) {
      o.f[2 * j] = mx::unpack_lo<T>(v.v[j]);
      o.f[2 * j + 1] = mx::unpack_hi<T>(v.v[j]);
    }
  }
};
template <>
struct Element<mx::bf16> : Element16<mx::bf16> {};
template <>
struct Element<mx::f16> : Element16<mx::f16> {};
template <>
struct Element<float> {
  static constexpr uint32_t kSize = 4;
};

TW_DEV vec4 f32_half(const Octet& o, int half) {
  return {{mx::f32_bits(o.f[4 * half]), mx::f32_bits(o.f[4 * half + 1]), mx::f32_bits(o.f[4 * half + 2]),
           mx::f32_bits(o.f[4 * half + 3])}};
}
TW_DEV void f32_half(const vec4& v, Octet& o, int half) {
  TW_UNROLL
  for (int j = 0; j < 4; ++j) o.f[4 * half + j] = mx::bits_f32(v.v[j]);
}

// How octets of an operation with element type T travel: as T, or as f32. `count` of an octet's values exist.
template <class T>
struct WireFormat {
  bool wide;  // f32
  TW_DEV explicit WireFormat(uint32_t wire) : wide(Element<T>::kSize == 4 || wire == TW_F32) {}
  TW_DEV uint32_t element_bytes() const { return wide ? 4 : 2; }
  TW_DEV uint32_t octet_bytes() const { return wide ? 32 : 16; }
  // The octet's vectors; a 16-bit octet has only the first.
  TW_DEV vec4 vector(const Octet& o, int i) const {
    if constexpr (Element<T>::kSize == 2) {
      if (!wide) return Element<T>::pack(o);
    }
    return f32_half(o, i);
  }
  TW_DEV void set(Octet& o, const vec4& v, int i) const {
    if constexpr (Element<T>::kSize == 2) {
      if (!wide) {
        Element<T>::unpack(v, o);
        return;
      }
    }
    f32_half(v, o, i);
  }
  // If an octet crosses a link its vectors travel whole; what does not exist of vector i is not payload.
  TW_DEV void announce(uint32_t count, uint32_t i) const {
    const uint32_t payload = count * element_bytes();
    if (payload < 16 * (i + 1)) mx::payload(payload > 16 * i ? payload - 16 * i : 0);
  }
  // Stores to a peer, or on this rank.
  TW_DEV void store(gaddr at, const Octet& o, uint32_t count = 8) const {
    announce(count, 0);
    mx::st_global_v4(at, vector(o, 0));
    if (wide) {
      announce(count, 1);
      mx::st_global_v4(at + 16, vector(o, 1));
    }
  }
  // Loads from a peer, or on this rank.
  TW_DEV Octet load(gaddr at, uint32_t count = 8) const {
    Octet o;
    announce(count, 0);
    set(o, mx::ld_global_v4(at), 0);
    if (wide) {
      announce(count, 1);
      set(o, mx::ld_global_v4(at + 16), 1);
    }
    return o;
  }
  // The same two through the switch, which adds up what it loads, and stores to all.
  TW_DEV void store_to_all([[maybe_unused]] gaddr at, [[maybe_unused]] const Octet& o, [[maybe_unused]] uint32_t count) const {
    if constexpr (mx::kMulticast) {
      announce(count, 0);
      mx::multimem_st_v4(at, vector(o, 0));
      if (wide) {
        announce(count, 1);
        mx::multimem_st_v4(at + 16, vector(o, 1));
      }
    }
  }
  TW_DEV Octet load_sum([[maybe_unused]] gaddr at, [[maybe_unused]] uint32_t count) const {
    Octet o = {};
    if constexpr (mx::kMulticast) {
      announce(count, 0);
      set(o, wide ? mx::multimem_ld_reduce_v4<float>(at) : mx::multimem_ld_reduce_v4<T>(at), 0);
      if (wide) {
        announce(count, 1);
        set(o, mx::multimem_ld_reduce_v4<float>(at + 16), 1);
      }
    }
    return o;
  }
  // The values as the other side will see them.
  TW_DEV void round(Octet& o) const {
    if constexpr (Element<T>::kSize == 2) {
      if (!wide) Element<T>::unpack(Element<T>::pack(o), o);
    }
  }
};

TW_DEV void add_to(Octet& sum, const Octet& x) {
  TW_UNROLL
  for (int i = 0; i < 8; ++i) sum.f[i] = mx::add(sum.f[i], x.f[i]);
}

TW_DEV Octet nan_octet() {
  Octet o;
  TW_UNROLL
  for (int i = 0; i < 8; ++i) o.f[i] = mx::bits_f32(0x7fffffffu);
  return o;
}
}  // namespace tw
