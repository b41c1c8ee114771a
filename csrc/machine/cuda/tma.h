// Hopper: boxes of tensors between global and shared memory, by the tensor memory accelerator.
#pragma once
#include "types.h"

namespace mx {
// A map lies in the kernel's parameters, whose generic address is what the instructions take (PTX ISA: .param, .const
// or .global space). A `const __grid_constant__` parameter has an address without a copy in local memory being made.
TW_DEV u64 map_address(const TwTensorMap& map) { return reinterpret_cast<u64>(&map); }

TW_DEV void tma_prefetch(const TwTensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map_address(map)) : "memory");
}
TW_DEV void tma_load_2d(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, saddr bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(dst),
      "l"(map_address(map)), "r"(c0), "r"(c1), "r"(bar)
      : "memory");
}
TW_DEV void tma_load_2d_multicast(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, saddr bar, u32 ctas) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(dst),
      "l"(map_address(map)), "r"(c0), "r"(c1), "r"(bar), "h"(uint16_t(ctas))
      : "memory");
}
TW_DEV void tma_load_4d(saddr dst, const TwTensorMap& map, u32 c0, u32 c1, u32 c2, u32 c3, saddr bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(dst),
      "l"(map_address(map)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(bar)
      : "memory");
}
// Completes in the bulk group that `bulk_commit` closes (bulk.h).
TW_DEV void tma_store_2d(const TwTensorMap& map, saddr src, u32 c0, u32 c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map_address(map)),
               "r"(c0), "r"(c1), "r"(src)
               : "memory");
}
}  // namespace mx
