// Tiles of rows of 128 bytes, swizzled: as TMA writes them and wgmma reads them. In each row the eight 16-byte chunks
// are permuted by the row's place among its eight, so that a column of chunks, which is what the tensor core fetches at
// once, lies in all 32 banks. Tiles stand at multiples of 1024: the hardware takes the row from the address's bits.
#pragma once
#include "machine.h"

namespace tw {
constexpr mx::u32 kSwizzleRow = 128;    // bytes of a row
constexpr mx::u32 kSwizzleAtom = 1024;  // eight rows; to a multiple of it tiles are aligned

// Where 16-byte chunk `chunk` (0..7) of row `row` lies, in bytes from the tile's start.
constexpr mx::u32 swizzled(mx::u32 row, mx::u32 chunk) { return row * kSwizzleRow + (chunk ^ row % 8) * 16; }

// wgmma's descriptor of such a tile as a K-major operand (PTX ISA, matrix descriptor): the address and the step from
// eight rows to the next in units of 16 bytes; the leading step, which swizzled K-major operands have no use for, is 1;
// swizzle mode 1 is 128 bytes. The row permutation starts at 0, as tiles are aligned.
constexpr mx::u64 wgmma_descriptor(mx::saddr tile) {
  return mx::u64(tile >> 4 & 0x3fff) | mx::u64(1) << 16 | mx::u64(kSwizzleAtom >> 4) << 32 | mx::u64(1) << 62;
}

// Added to a descriptor: 16 elements of 16 bits further along K. The swizzle is of addresses, so plain addition is
// right within a row.
constexpr mx::u64 kWgmmaStep = 32 >> 4;
}  // namespace tw
