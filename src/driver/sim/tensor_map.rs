//! Tensor maps of the simulated node: 128 bytes with a magic word and a checksum, so that a kernel that passes anything
//! else than what [`encode`] made is told so. Limits are those of TMA's tiled mode, for boxes of 128-byte rows.

use crate::abi::TwTensorMap;
use crate::driver::TensorMap;
use crate::error::{Error, Result};

const MAGIC: u64 = 0x7477_2d74_6d61_7031;
/// Bytes of a box's rows, which lie swizzled in shared memory.
pub(super) const ROW: u32 = 128;

/// What a kernel's call sees of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Map {
    address: u64,
    /// Bytes of an element.
    size: u64,
    pub rank: u32,
    dims: [u64; 4],
    strides: [u64; 3],
    box_dims: [u32; 4],
}

/// Why a call cannot use a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadMap {
    /// Not at a multiple of 64.
    Misaligned,
    /// All zero.
    Absent,
    /// Not what this driver encoded.
    Foreign,
    /// It has another number of dimensions than the instruction.
    Rank { map: u32, call: u32 },
}

fn check(name: &str, value: u64, right: bool, expected: impl Into<String>) -> Result<()> {
    match right {
        true => Ok(()),
        false => Err(Error::bad_argument(format!("map.{name}"), value, expected)),
    }
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(MAGIC, |h, w| {
        (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

/// Encodes a map, or names the limit that it breaks.
pub(super) fn encode(map: &TensorMap) -> Result<TwTensorMap> {
    let (rank, size) = (map.rank, map.dtype.size() as u64);
    check("rank", rank as u64, (2..=4).contains(&rank), "2 to 4 dimensions")?;
    check(
        "address",
        map.address,
        map.address != 0 && map.address.is_multiple_of(16),
        "an address at a multiple of 16",
    )?;
    let (mut dims, mut strides, mut box_dims) = ([1; 4], [0; 3], [1; 4]);
    for i in 0..rank {
        dims[i] = map.dims[i];
        check(
            &format!("dims[{i}]"),
            dims[i],
            (1..=1 << 32).contains(&dims[i]),
            "1 to 2^32 elements",
        )?;
        box_dims[i] = map.box_dims[i];
        check(
            &format!("box_dims[{i}]"),
            box_dims[i].into(),
            (1..=256).contains(&box_dims[i]),
            "1 to 256 elements",
        )?;
    }
    check(
        "box_dims[0]",
        box_dims[0].into(),
        u64::from(box_dims[0]) * size == u64::from(ROW),
        format!(
            "{} elements of {}, rows of {ROW} bytes",
            u64::from(ROW) / size,
            map.dtype
        ),
    )?;
    strides[..rank - 1].copy_from_slice(&map.strides[..rank - 1]);
    for (i, stride) in strides.iter().enumerate() {
        let right = stride.is_multiple_of(16) && *stride < 1 << 40;
        check(&format!("strides[{i}]"), *stride, right, "a multiple of 16 below 2^40")?;
    }
    let mut opaque = [0; 16];
    opaque[0] = MAGIC;
    opaque[1] = map.address;
    opaque[2] = size | (rank as u64) << 8;
    opaque[3..7].copy_from_slice(&dims);
    opaque[7..10].copy_from_slice(&strides);
    opaque[10] = box_dims.iter().rev().fold(0, |w, b| w << 16 | u64::from(*b));
    opaque[15] = sum(&opaque[..15]);
    Ok(TwTensorMap { opaque })
}

/// The map at `at`, for an instruction of `rank` dimensions (0: any).
pub(super) fn decode(at: u64, words: &[u64; 16], rank: u32) -> Result<Map, BadMap> {
    if !at.is_multiple_of(64) {
        return Err(BadMap::Misaligned);
    }
    if words.iter().all(|w| *w == 0) {
        return Err(BadMap::Absent);
    }
    if words[0] != MAGIC || words[15] != sum(&words[..15]) {
        return Err(BadMap::Foreign);
    }
    let map = Map {
        address: words[1],
        size: words[2] & 0xff,
        rank: (words[2] >> 8) as u32,
        dims: [words[3], words[4], words[5], words[6]],
        strides: [words[7], words[8], words[9]],
        box_dims: std::array::from_fn(|i| (words[10] >> (16 * i)) as u32 & 0xffff),
    };
    if rank != 0 && map.rank != rank {
        return Err(BadMap::Rank {
            map: map.rank,
            call: rank,
        });
    }
    Ok(map)
}

impl Map {
    /// Rows of a box.
    pub fn rows(&self) -> u32 {
        self.box_dims[1] * self.box_dims[2] * self.box_dims[3]
    }

    /// Bytes of a box.
    pub fn bytes(&self) -> u32 {
        self.rows() * ROW
    }

    /// Bytes of the box at `at` that lie in the matrix.
    pub fn inside(&self, at: &[u32; 4]) -> u64 {
        let within = |i: usize| u64::from(self.box_dims[i]).min(self.dims[i].saturating_sub(at[i].into()));
        within(0) * self.size * within(1) * within(2) * within(3)
    }

    /// Where row `r` of the box at `at` begins, and how many of its bytes lie in the matrix; 0: it is outside.
    pub fn row(&self, at: &[u32; 4], r: u32) -> (u64, u64) {
        let within = [
            0,
            r % self.box_dims[1],
            r / self.box_dims[1] % self.box_dims[2],
            r / self.box_dims[1] / self.box_dims[2],
        ];
        let mut start = self.address + u64::from(at[0]) * self.size;
        for i in 1..4 {
            let x = u64::from(at[i]) + u64::from(within[i]);
            if x >= self.dims[i] {
                return (self.address, 0);
            }
            start += x * self.strides[i - 1];
        }
        let left = self.dims[0].saturating_sub(u64::from(at[0])) * self.size;
        (start, left.min(u64::from(ROW)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    const GOOD: TensorMap = TensorMap {
        address: 1 << 20,
        dtype: DType::Bf16,
        rank: 4,
        dims: [100, 5, 3, 2],
        strides: [256, 2048, 8192],
        box_dims: [64, 4, 2, 1],
    };

    #[test]
    fn rows_of_a_box_and_what_lies_outside() {
        let map = decode(64, &encode(&GOOD).unwrap().opaque, 4).unwrap();
        assert_eq!((map.rows(), map.bytes()), (8, 1024));
        assert_eq!(map.row(&[64, 0, 0, 0], 0), ((1 << 20) + 128, 72));
        assert_eq!(map.row(&[0, 2, 1, 1], 2), ((1 << 20) + 4 * 256 + 2048 + 8192, 128));
        assert_eq!(map.row(&[0, 2, 1, 1], 3).1, 0);
        assert_eq!(map.row(&[0, 0, 2, 1], 4).1, 0);
        assert_eq!(map.row(&[128, 0, 0, 0], 0).1, 0);
    }

    #[test]
    fn each_limit_is_named() {
        let refused = |change: fn(&mut TensorMap), name: &str| {
            let mut map = GOOD;
            change(&mut map);
            let text = encode(&map).unwrap_err().to_string();
            assert!(text.starts_with(&format!("map.{name} is")), "{name}: {text}");
        };
        refused(|m| m.rank = 1, "rank");
        refused(|m| m.rank = 5, "rank");
        refused(|m| m.address += 8, "address");
        refused(|m| m.address = 0, "address");
        refused(|m| m.dims[3] = 0, "dims[3]");
        refused(|m| m.dims[0] = (1 << 32) + 1, "dims[0]");
        refused(|m| m.strides[1] = 8, "strides[1]");
        refused(|m| m.strides[0] = 1 << 40, "strides[0]");
        refused(|m| m.box_dims[2] = 257, "box_dims[2]");
        refused(|m| m.box_dims[0] = 32, "box_dims[0]");
        refused(|m| m.dtype = DType::F32, "box_dims[0]");
        let mut two = GOOD;
        (two.rank, two.dims[3], two.strides[2]) = (2, 0, 1);
        assert!(encode(&two).is_ok());
    }

    #[test]
    fn only_what_was_encoded_is_a_map() {
        let good = encode(&GOOD).unwrap().opaque;
        assert!(decode(128, &good, 0).is_ok());
        assert_eq!(decode(136, &good, 4), Err(BadMap::Misaligned));
        assert_eq!(decode(64, &[0; 16], 4), Err(BadMap::Absent));
        assert_eq!(decode(64, &good, 2), Err(BadMap::Rank { map: 4, call: 2 }));
        for i in 0..16 {
            let mut words = good;
            words[i] ^= 1 << 17;
            assert_eq!(decode(64, &words, 4), Err(BadMap::Foreign), "word {i}");
        }
    }
}
