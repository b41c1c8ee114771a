//! Tensor maps: what TMA can address. One check stands above both drivers, so that they refuse alike. The limits are
//! those of `cuTensorMapEncodeTiled` in the CUDA driver API, and the one swizzle that the kernels use.

use super::DevicePtr;
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A matrix, or a stack of matrices, for TMA to copy boxes of: row-major, up to four dimensions, innermost first. What a
/// box covers beyond the dimensions is read as zero and not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of the first element, a multiple of 16.
    pub address: DevicePtr,
    /// Type of the elements.
    pub dtype: DType,
    /// Dimensions in use, 2 to 4.
    pub rank: usize,
    /// Elements of each dimension, 1 to 2^32.
    pub dims: [u64; 4],
    /// Bytes from one index to the next of dimensions 1, 2 and 3: multiples of 16 below 2^40.
    pub strides: [u64; 3],
    /// Elements of a box, each 1 to 256; the innermost has 128 bytes, which lie swizzled in shared memory (`docs/machine.md`).
    pub box_dims: [u32; 4],
}

/// Bytes of a box's innermost dimension: the width of the swizzle.
pub const BOX_BYTES: u32 = 128;

impl TensorMap {
    /// Whether TMA can address it.
    ///
    /// # Errors
    /// [`Error::BadArgument`] names the first limit that it breaks.
    pub fn check(&self) -> Result<()> {
        let bad = |name: &str, value: String, expected: String| Err(Error::bad_argument(name, value, expected));
        if !(2..=4).contains(&self.rank) {
            return bad("a tensor map's rank", self.rank.to_string(), "2 to 4".into());
        }
        if self.address == 0 || !self.address.is_multiple_of(16) {
            let value = format!("{:#x}", self.address);
            return bad("a tensor map's address", value, "a multiple of 16, not 0".into());
        }
        for (i, dim) in self.dims[..self.rank].iter().enumerate() {
            if !(1..=1 << 32).contains(dim) {
                let name = format!("dimension {i} of a tensor map");
                return bad(&name, dim.to_string(), "1 to 2^32 elements".into());
            }
        }
        for (i, stride) in self.strides[..self.rank - 1].iter().enumerate() {
            if !stride.is_multiple_of(16) || *stride >= 1 << 40 {
                let name = format!("the stride of dimension {} of a tensor map", i + 1);
                return bad(&name, stride.to_string(), "a multiple of 16 bytes below 2^40".into());
            }
        }
        for (i, elements) in self.box_dims[..self.rank].iter().enumerate() {
            if !(1..=256).contains(elements) {
                let name = format!("dimension {i} of a tensor map's box");
                return bad(&name, elements.to_string(), "1 to 256 elements".into());
            }
        }
        let inner = self.box_dims[0] * self.dtype.size() as u32;
        if inner != BOX_BYTES {
            let value = format!("{} of {} ({inner} bytes)", self.box_dims[0], self.dtype);
            let expected = format!("{BOX_BYTES} bytes, the width of the swizzle");
            return bad("dimension 0 of a tensor map's box", value, expected);
        }
        if self.end() > 1 << 64 {
            let value = format!("{:#x}", self.end());
            return bad(
                "the end of a tensor map",
                value,
                "in the address space of 64 bits".into(),
            );
        }
        Ok(())
    }

    /// The address behind the last element.
    fn end(&self) -> u128 {
        let outer = self.dims[1..self.rank].iter().zip(&self.strides);
        let last: u128 = outer
            .map(|(dim, stride)| u128::from(dim - 1) * u128::from(*stride))
            .sum();
        u128::from(self.address) + last + u128::from(self.dims[0]) * self.dtype.size() as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: TensorMap = TensorMap {
        address: 0x7000_0000_0010,
        dtype: DType::Bf16,
        rank: 4,
        dims: [1 << 32, 3, 1, 7],
        strides: [1 << 34, 16, (1 << 40) - 16],
        box_dims: [64, 256, 1, 1],
    };

    #[test]
    fn every_limit_is_named() {
        GOOD.check().unwrap();
        let box_of = |inner| [inner, 256, 1, 1];
        let bad = [
            (TensorMap { rank: 1, ..GOOD }, "rank is 1: expected 2 to 4"),
            (TensorMap { rank: 5, ..GOOD }, "rank is 5"),
            (TensorMap { address: 0, ..GOOD }, "address is 0x0"),
            (
                TensorMap {
                    address: 0x1008,
                    ..GOOD
                },
                "address is 0x1008: expected a multiple of 16",
            ),
            (
                TensorMap {
                    dims: [0, 3, 1, 7],
                    ..GOOD
                },
                "dimension 0 of a tensor map is 0",
            ),
            (
                TensorMap {
                    dims: [64, 3, (1 << 32) + 1, 7],
                    ..GOOD
                },
                "dimension 2 of a tensor map is 4294967297: expected 1 to 2^32",
            ),
            (
                TensorMap {
                    strides: [1 << 34, 8, 0],
                    ..GOOD
                },
                "stride of dimension 2 of a tensor map is 8",
            ),
            (
                TensorMap {
                    strides: [1 << 40, 16, 0],
                    ..GOOD
                },
                "stride of dimension 1 of a tensor map is 1099511627776",
            ),
            (
                TensorMap {
                    box_dims: [64, 257, 1, 1],
                    ..GOOD
                },
                "dimension 1 of a tensor map's box is 257",
            ),
            (
                TensorMap {
                    box_dims: [64, 256, 1, 0],
                    ..GOOD
                },
                "dimension 3 of a tensor map's box is 0",
            ),
            (
                TensorMap {
                    box_dims: box_of(32),
                    ..GOOD
                },
                "box is 32 of bf16 (64 bytes): expected 128 bytes",
            ),
            (
                TensorMap {
                    dtype: DType::F32,
                    ..GOOD
                },
                "box is 64 of f32 (256 bytes)",
            ),
            (
                TensorMap {
                    address: u64::MAX - 15,
                    ..GOOD
                },
                "end of a tensor map",
            ),
        ];
        for (map, text) in bad {
            let error = map.check().unwrap_err().to_string();
            assert!(error.contains(text), "{error}, not {text}");
        }
    }

    #[test]
    fn dimensions_out_of_use_do_not_matter() {
        let map = TensorMap {
            rank: 2,
            dims: [64, 1, 0, 0],
            strides: [16, 1, 1],
            box_dims: [32, 1, 0, 300],
            dtype: DType::F32,
            ..GOOD
        };
        map.check().unwrap();
        // Three dimensions: the third and its stride come into use.
        assert!(TensorMap { rank: 3, ..map }.check().is_err());
    }
}
