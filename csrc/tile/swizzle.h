// The 128-byte swizzle of Hopper's shared-memory tiles, and the descriptor by which wgmma finds one (docs/machine.md).
#pragma once
#include <stdint.h>

namespace tw {

// Byte of 16-byte chunk `chunk` of row `row`, from the tile's first.
constexpr uint32_t swizzled(uint32_t row, uint32_t chunk) { return row * 128 + (chunk ^ (row % 8)) * 16; }

// Of a K-major operand tile at shared address `tile`: rows of 128 bytes, eight rows 1024 bytes apart.
constexpr uint64_t wgmma_descriptor(uint32_t tile) {
  return uint64_t(tile >> 4 & 0x3fff) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
}  // namespace tw
