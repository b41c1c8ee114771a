//! How many parts K is cut into (split-K), so that a GEMM of few rows keeps a whole GPU busy.
//!
//! Decode has at most 128 rows: one or two rows of blocks, often fewer blocks than there are SMs, each of which would
//! stream its share of the weights alone. So K is cut, too, and CTAs compute items (block, range of K) whose products
//! are added in the order of the ranges (`csrc/kernels/split_k.h`; the cut itself is `csrc/schedule/split.h`).
//!
//! The number of splits decides in which order a sum is added, hence its bits. So it is a function of M, N, K and the type
//! alone: never of the route, the number of SMs, a budget, a heap or a machine. The constants are chosen with an H100 or
//! H200 in mind (132 SMs) and are part of the numerics contract (`docs/numerics.md`): changing one changes bits.

use super::tiling::Tiling;
use crate::abi;
use crate::dtype::DType;

/// The most rows of a GEMM that is split. Above, there are blocks enough, and large tiles take over soon.
const MAX_M: u64 = 128;
/// The block that items are counted in, whatever tile computes them.
const BLOCK: u64 = 64;
/// The most items: two of 64 x 64 on each of 132 SMs, which is what they keep resident of the small tile, or one of 64 x
/// 128. One more and some SM would take a second turn.
const MAX_ITEMS: u64 = 264;
/// The least of K in a split, in bytes of one row: 256 values of 16 bits, 128 of f32. A shorter range would spend more time on
/// filling the pipeline, and on writing and reading its f32 product, than on its operands.
const LEAST_BYTES: u64 = 512;
/// The most splits: the last CTA of a block reads the products of all of them.
const MAX_SPLITS: u64 = 16;
/// K is cut at multiples of this (`csrc/schedule/split.h`).
const STEP: u64 = 64;

/// The number of splits of an `m` x `n` x `k` GEMM of one rank. It never grows with `m`, on which plans count.
pub(crate) fn splits(m: u64, n: u64, k: u64, dtype: DType) -> u32 {
    // No rows count as one, so that it falls from there on.
    let blocks = m.max(1).div_ceil(BLOCK) * n.div_ceil(BLOCK);
    if m > MAX_M || blocks == 0 {
        return 1;
    }
    let most = (MAX_ITEMS / blocks)
        .min(k * dtype.size() as u64 / LEAST_BYTES)
        .min(MAX_SPLITS);
    if most < 2 {
        return 1;
    }
    // Ranges differ by up to a step. The longest decides how long it takes: no more of them than keep it as short.
    let steps = k.div_ceil(STEP);
    steps.div_ceil(steps.div_ceil(most)) as u32
}

/// Bytes of the f32 products of all items, where several CTAs share a block; 0 where none do.
pub(crate) fn product_bytes(on: Tiling, splits: u32) -> u64 {
    if splits < 2 {
        return 0;
    }
    on.tiles() * splits as u64 * on.tile.0 * on.tile.1 * DType::F32.size() as u64
}

/// Bytes of the counters before them.
pub(crate) const COUNTER_BYTES: u64 = abi::TW_SPLIT_BLOCKS as u64 * 8;

#[cfg(test)]
mod tests {
    use super::*;

    const BF16: DType = DType::Bf16;

    #[test]
    fn shapes_of_models() {
        // [N, K] of Llama-3-70B and GPT-3-175B on 8 ranks: items on 264 places.
        let items = |m: u64, n: u64, k| splits(m, n, k, BF16) as u64 * m.div_ceil(64) * n.div_ceil(64);
        let shapes = [
            (1280, 8192, 260, 240),
            (8192, 1024, 256, 256),
            (7168, 8192, 224, 224),
            (8192, 3584, 256, 256),
            (4608, 12288, 216, 144),
            (12288, 1536, 192, 384),
            (6144, 12288, 192, 192),
            (12288, 6144, 192, 384),
        ];
        for (n, k, to_64, to_128) in shapes {
            assert_eq!((items(1, n, k), items(64, n, k)), (to_64, to_64), "{n} {k}");
            assert_eq!((items(65, n, k), items(128, n, k)), (to_128, to_128), "{n} {k}");
        }
    }

    #[test]
    fn edges() {
        let of = |m, n, k| splits(m, n, k, BF16);
        assert_eq!(
            (of(1, 64, 511), of(1, 64, 512), of(1, 64, 767), of(1, 64, 768)),
            (1, 2, 2, 3)
        );
        assert_eq!((splits(1, 64, 255, DType::F32), splits(1, 64, 256, DType::F32)), (1, 2));
        assert_eq!((of(128, 64, 1 << 20), of(129, 64, 1 << 20)), (16, 1));
        assert_eq!((of(64, 132 * 64, 4096), of(64, 132 * 64 + 1, 4096)), (2, 1));
        assert_eq!((of(0, 64, 512), of(5, 0, 512), of(5, 64, 0), of(0, 0, 0)), (2, 1, 1, 1));
        assert_eq!(of(1, (1 << 31) - 1, (1 << 31) - 1), 1);
        // 17 steps: 7 splits would be of up to 3 steps, and so are 6.
        assert_eq!((of(1, 64 * 37, 17 * 64), of(1, 64 * 60, 17 * 64)), (4, 4));
        assert_eq!(splits(1, 64 * 37, 17 * 64, DType::F32), 6);
    }

    /// What plans, heaps and kernels count on, for shapes of all sizes.
    #[test]
    fn promises() {
        let mut split = 0;
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            for n in (1..9000).step_by(61) {
                for k in [1, 64, 255, 256, 512, 513, 1000, 1100, 1536, 4100, 8192, 28672] {
                    let mut last = u32::MAX;
                    for m in [0, 1, 2, 63, 64, 65, 127, 128, 129, 4096] {
                        let s = splits(m, n, k, dtype);
                        assert!((1..=last).contains(&s), "{m} {n} {k}: {s} after {last}");
                        last = s;
                        if s == 1 {
                            continue;
                        }
                        split += 1;
                        let blocks = m.max(1).div_ceil(64) * n.div_ceil(64);
                        assert!(blocks * s as u64 <= 264 && blocks <= abi::TW_SPLIT_BLOCKS as u64);
                        // No range is shorter than the least: the shortest has that many steps, the last one all but a step.
                        let steps = k.div_ceil(64);
                        let begin = steps * (s as u64 - 1) / s as u64 * 64;
                        let least = 512 / dtype.size() as u64;
                        assert!(steps / s as u64 * 64 >= least && k - begin >= least, "{m} {n} {k}: {s}");
                        // The bound of a sum counts on it: the longest chain and the additions are at most K terms.
                        assert!(steps.div_ceil(s as u64) * 64 + s as u64 - 1 <= k);
                        let kernel_tile = |tile| Tiling {
                            rows: m,
                            cols: n,
                            tile,
                            cluster: 1,
                        };
                        assert!(product_bytes(kernel_tile((64, 64)), s) <= 264 * 16384);
                    }
                }
            }
        }
        assert!(split > 10000, "{split}");
    }
}
