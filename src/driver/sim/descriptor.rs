//! What the 64 bits of a wgmma's descriptor say of an operand in shared memory, and where its 16-byte chunks lie.
//!
//! The machine takes one layout (docs/machine.md, "Hopper"): K-major rows of 128 bytes in patterns of eight rows, 1024
//! bytes, swizzled by 128 bytes. As on hardware the swizzle works on addresses: bits 4..6 are XORed with bits 7..9. So an
//! operand may begin 32, 64 or 96 bytes into its first row: the next steps in K.

/// Bytes of a pattern of eight rows.
const PATTERN: u32 = 1024;
const ROW: u32 = 128;
const CHUNK: u32 = 16;

/// The part of a descriptor that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Start,
    Leading,
    Stride,
    Base,
    Swizzle,
    Stray,
    /// Of no field: rows lie behind the window's end.
    Range,
}

impl Field {
    /// Its name and what would be right.
    pub fn expected(self) -> (&'static str, &'static str) {
        match self {
            Field::Start => (
                "the start address (bits 0..13, in 16 bytes)",
                "a tile at a multiple of 1024 bytes, plus 0, 32, 64 or 96 for the step in K",
            ),
            Field::Leading => ("the leading byte offset (bits 16..29, in 16 bytes)", "1"),
            Field::Stride => (
                "the stride byte offset (bits 32..45, in 16 bytes)",
                "64, or another multiple of it: eight rows are 1024 bytes",
            ),
            Field::Base => ("the base offset (bits 49..51)", "0"),
            Field::Swizzle => ("the swizzle mode (bits 62..63)", "1: 128 bytes"),
            Field::Stray => ("the unused bits (14, 15, 30, 31, 46..48, 52..61)", "0"),
            Field::Range => ("the end of the last row, in bytes", "inside the CTA's shared memory"),
        }
    }
}

/// An operand: its first row's chunk of this step in K, and the distance from eight rows to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operand {
    start: u32,
    stride: u32,
    rows: u32,
}

/// Decodes a descriptor of `rows` rows in a window of so many bytes; else the wrong field and its value.
pub(super) fn decode(bits: u64, rows: u32, window: u32) -> Result<Operand, (Field, u64)> {
    let field = |low: u32, width: u32| bits >> low & ((1 << width) - 1);
    let stray = bits & (0x3 << 14 | 0x3 << 30 | 0x7 << 46 | 0x3ff << 52);
    let (start, stride) = (field(0, 14) as u32 * 16, field(32, 14) as u32 * 16);
    let end = u64::from(start / PATTERN * PATTERN) + u64::from(rows / 8 - 1) * u64::from(stride) + u64::from(PATTERN);
    let wrong = [
        (Field::Swizzle, field(62, 2), field(62, 2) != 1),
        (Field::Base, field(49, 3), field(49, 3) != 0),
        (Field::Stray, stray, stray != 0),
        (Field::Leading, field(16, 14), field(16, 14) != 1),
        (
            Field::Stride,
            field(32, 14),
            stride == 0 || !stride.is_multiple_of(PATTERN),
        ),
        (
            Field::Start,
            field(0, 14),
            !start.is_multiple_of(32) || start % PATTERN >= ROW,
        ),
        (Field::Range, end, end > u64::from(window)),
    ];
    match wrong.into_iter().find(|w| w.2) {
        Some((field, value, _)) => Err((field, value)),
        None => Ok(Operand { start, stride, rows }),
    }
}

impl Operand {
    /// The shared address of a row's 16-byte chunk of k 0..7. That of k 8..15 is the other chunk of the same 32 bytes: a step
    /// in K begins at an even chunk, and the swizzle leaves pairs together.
    #[inline(always)]
    pub fn chunk(self, row: u32) -> u32 {
        let plain = self.start + row / 8 * self.stride + row % 8 * ROW;
        plain ^ (plain >> 7 & 7) << 4
    }

    /// Whether this operand reads any of `bytes` at `addr`.
    pub fn reads(self, addr: u32, bytes: u32) -> bool {
        let (begin, end) = (addr / CHUNK * CHUNK, addr.saturating_add(bytes));
        let base = self.start / PATTERN * PATTERN;
        // Most that is asked about lies in none of its patterns: output chunks, flags.
        if end <= base || begin >= base + (self.rows / 8).saturating_sub(1) * self.stride + PATTERN {
            return false;
        }
        (0..self.rows / 8).any(|eight| {
            let pattern = base + eight * self.stride;
            let common = begin.max(pattern)..end.min(pattern + PATTERN);
            // So many chunks hold a whole row, which holds two that are read.
            common.step_by(CHUNK as usize).take(15).any(|at| {
                let plain = at ^ (at >> 7 & 7) << 4;
                plain % ROW / 32 == self.start % ROW / 32
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: u64 = 1 << 62 | 64 << 32 | 1 << 16;

    #[test]
    fn chunks_lie_as_swizzled() {
        for step in 0..4u32 {
            let operand = decode(GOOD | u64::from(2048 + 32 * step) >> 4, 256, 64 << 10).unwrap();
            for row in 0..256 {
                for chunk in 0..2 {
                    // docs/machine.md: chunk c of row r stands at chunk c ^ (r % 8).
                    let c = 2 * step + chunk;
                    assert_eq!(
                        operand.chunk(row) ^ (16 * chunk),
                        2048 + row * 128 + (c ^ (row % 8)) * 16
                    );
                }
            }
        }
    }

    #[test]
    fn reads_what_its_chunks_are() {
        for (step, stride) in [(0u32, 1024u32), (3, 1024), (2, 3072)] {
            let bits = 1u64 << 62 | u64::from(stride / 16) << 32 | 1 << 16 | u64::from(1024 + 32 * step) >> 4;
            let operand = decode(bits, 64, 64 << 10).unwrap();
            let mut read = vec![false; (64 << 10) / 16];
            for row in 0..64 {
                for chunk in 0..2 {
                    read[(operand.chunk(row) ^ (16 * chunk)) as usize / 16] = true;
                }
            }
            for (granule, read) in read.iter().enumerate() {
                assert_eq!(operand.reads(granule as u32 * 16, 16), *read, "granule {granule}");
                assert_eq!(operand.reads(granule as u32 * 16 + 3, 2), *read, "granule {granule}");
            }
            for first in (0..read.len() - 300).step_by(7) {
                for n in [2, 5, 64, 300] {
                    let any = read[first..first + n].contains(&true);
                    assert_eq!(operand.reads(first as u32 * 16, n as u32 * 16), any, "{first}, {n}");
                }
            }
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let window = 16 << 10;
        let field = |bits: u64| decode(bits, 64, window).map_err(|(field, _)| field);
        assert!(field(GOOD).is_ok() && field(GOOD | 6).is_ok());
        for (bits, wrong) in [
            (GOOD & !(3 << 62), Field::Swizzle),
            (GOOD ^ 3 << 62, Field::Swizzle),
            (GOOD | 1 << 49, Field::Base),
            (GOOD | 7 << 49, Field::Base),
            (GOOD | 1 << 14, Field::Stray),
            (GOOD | 1 << 31, Field::Stray),
            (GOOD | 1 << 46, Field::Stray),
            (GOOD | 1 << 61, Field::Stray),
            (GOOD ^ 3 << 16, Field::Leading),
            (GOOD ^ 64 << 32, Field::Stride),
            (GOOD | 1 << 32, Field::Stride),
            (GOOD | 1, Field::Start),
            (GOOD | 8, Field::Start),
            (GOOD | 32, Field::Start),
            (GOOD | (16 << 10) >> 4, Field::Range),
            (GOOD | (9 << 10) >> 4, Field::Range),
            (GOOD ^ 64 << 32 | 192 << 32, Field::Range),
        ] {
            assert_eq!(field(bits), Err(wrong), "{bits:#x}");
        }
        assert!(field(GOOD | (8 << 10) >> 4).is_ok());
    }
}
