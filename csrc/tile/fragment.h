// How octets of a 16-bit GEMM's block lie in a slot of staging, whichever mainloop and however many warps made them: what
// one rank pushes from one tile another reduces in another.
//
// An octet is row (lane / 4) of an 8-row half `h` of a 16-row block, and of a group of 32 columns the pairs that lane % 4
// holds of four 8-column blocks: the layout of mma's and wgmma's accumulators. Slots are made of chunks: 64 rows by two groups
// (one, if octets are f32), 8 KiB; in a chunk the 128 octets of 64 rows' lanes lie next to each other.
#pragma once
#include "tile/matrix.h"

namespace tw {
constexpr uint32_t kGroupColumns = 32, kFragmentRows = 16, kChunkRows = 64;

// kGroups: groups of a block's row. `r`: the 16-row block.
template <uint32_t kGroups>
constexpr uint32_t fragment_place(uint32_t r, uint32_t h, uint32_t g, uint32_t lane) {
  static_assert(kGroups % 2 == 0, "fragment_place");
  return (((r / 4 * kGroups + g) * 2 + h) * 4 + r % 4) * 32 + lane;
}
}  // namespace tw
