//! Random input: the same numbers for the same seed on every machine.
//!
//! An element is a function of (seed, tensor, index) alone: the sum of twelve uniform numbers, less six (mean 0, variance
//! 1, close to normal). Only sums and a square root are taken, which IEEE arithmetic fixes to the last bit.

use tileweave::DType;
use tileweave::reference::encode;

/// What a tensor's numbers are drawn for.
#[derive(Clone, Copy)]
pub enum Tensor {
    X = 1,
    Weight = 2,
    Bias = 3,
    Addend = 4,
    Residual = 5,
    Gamma = 6,
}

/// `count` elements, scaled, as little-endian bytes.
pub fn normal(dtype: DType, seed: u64, tensor: Tensor, count: usize, scale: f64) -> Vec<u8> {
    const BLOCK: usize = 4096; // bounds the f64 copy
    let stream = mix(mix(seed) ^ tensor as u64);
    let mut bytes = Vec::with_capacity(count * dtype.size());
    let mut block = Vec::with_capacity(BLOCK);
    for start in (0..count).step_by(BLOCK) {
        block.clear();
        block.extend((start..count.min(start + BLOCK)).map(|index| scale * standard(stream, index as u64)));
        bytes.extend_from_slice(&encode(dtype, &block));
    }
    bytes
}

/// `count` elements of a tensor of this name, about standard normal.
pub fn named(seed: u64, name: &str, count: usize) -> impl Iterator<Item = f64> {
    // Away from the numbered tensors' streams.
    let letters = name.bytes().fold(u64::MAX, |hash, byte| mix(hash ^ u64::from(byte)));
    let stream = mix(mix(seed) ^ letters);
    (0..count as u64).map(move |index| standard(stream, index))
}

/// Four words of three 21-bit uniform numbers each.
fn standard(stream: u64, index: u64) -> f64 {
    const PART: u64 = (1 << 21) - 1;
    let sum: u64 = (0..4)
        .map(|word| mix(stream.wrapping_add(4 * index + word)))
        .map(|word| (word & PART) + (word >> 21 & PART) + (word >> 42 & PART))
        .sum();
    sum as f64 / (PART + 1) as f64 - 6.0
}

/// splitmix64's step and finaliser (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tileweave::reference::decode;

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let count = 40_000;
        let values = decode(DType::F32, &normal(DType::F32, 7, Tensor::X, count, 1.0));
        let moment = |power| values.iter().map(|value: &f64| value.powi(power)).sum::<f64>() / count as f64;
        assert!(
            moment(1).abs() < 0.03 && (moment(2) - 1.0).abs() < 0.05,
            "{} {}",
            moment(1),
            moment(2)
        );
        assert!((2.6..3.1).contains(&moment(4)), "{}", moment(4)); // 2.9 for twelve uniform numbers
    }

    #[test]
    fn seed_and_tensor_matter_and_length_does_not() {
        let of = |seed, tensor, count| normal(DType::Bf16, seed, tensor, count, 1.0);
        assert_eq!(of(1, Tensor::X, 5000), of(1, Tensor::X, 9000)[..10_000]);
        assert_ne!(of(1, Tensor::X, 100), of(2, Tensor::X, 100));
        assert_ne!(of(1, Tensor::X, 100), of(1, Tensor::Weight, 100));
    }

    #[test]
    fn the_numbers_are_pinned() {
        // A digest printed by one machine means something on another.
        let first: Vec<f64> = (0..3).map(|index| standard(0, index)).collect();
        assert_eq!(first, PINNED);
    }
    const PINNED: [f64; 3] = [-1.6801080703735352, 1.4319186210632324, -0.7829117774963379];
}
