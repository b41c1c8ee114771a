//! The tensor core's arithmetic: `d[16][8] += a[16][16] b[16][8]` in f32, k ascending, each product exact and one rounding
//! a sum: a fused multiply-add. The AVX2 path does the same operations eight columns at a time, so both give the same bits.

/// A 16x8 block of accumulators, by rows.
pub(super) type Acc = [[f32; 8]; 16];
/// An 8x8 block of an operand, widened to f32.
pub(super) type Block = [[f32; 8]; 8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Bf16,
    F16,
}

/// Widens an 8x8 matrix of 16-bit values as ldmatrix reads it: eight rows of eight; for B turned round, to rows of one k.
#[inline(always)]
fn widen_body(raw: &[u32; 32], element: Element, turn: bool, block: &mut Block) {
    for (i, pair) in raw.iter().enumerate() {
        for (h, bits) in [*pair as u16, (*pair >> 16) as u16].into_iter().enumerate() {
            let value = match element {
                Element::Bf16 => f32::from_bits(u32::from(bits) << 16),
                Element::F16 => half::f16::from_bits(bits).to_f32(),
            };
            let (row, col) = (i / 4, i % 4 * 2 + h);
            block[if turn { col } else { row }][if turn { row } else { col }] = value;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn widen_avx2(raw: &[u32; 32], element: Element, turn: bool, block: &mut Block) {
    use std::arch::x86_64::{
        __m128i, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_permute2f128_ps,
        _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    let mut rows = [_mm256_setzero_ps(); 8];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: four u32 of the 32, 16 bytes.
        let raw = unsafe { _mm_loadu_si128(raw[4 * r..4 * r + 4].as_ptr().cast::<__m128i>()) };
        *row = match element {
            Element::Bf16 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(raw))),
            Element::F16 => _mm256_cvtph_ps(raw),
        };
    }
    if turn {
        // Pairs of rows, then of pairs, then of halves.
        let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
        let (a, b) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (c, d) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (e, f) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (g, h) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        let low = [
            _mm256_shuffle_ps::<0x44>(a, c),
            _mm256_shuffle_ps::<0xee>(a, c),
            _mm256_shuffle_ps::<0x44>(b, d),
            _mm256_shuffle_ps::<0xee>(b, d),
        ];
        let high = [
            _mm256_shuffle_ps::<0x44>(e, g),
            _mm256_shuffle_ps::<0xee>(e, g),
            _mm256_shuffle_ps::<0x44>(f, h),
            _mm256_shuffle_ps::<0xee>(f, h),
        ];
        for i in 0..4 {
            rows[i] = _mm256_permute2f128_ps::<0x20>(low[i], high[i]);
            rows[i + 4] = _mm256_permute2f128_ps::<0x31>(low[i], high[i]);
        }
    }
    for (row, to) in rows.iter().zip(block) {
        // SAFETY: a row of eight f32.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), *row) };
    }
}

/// `a`: the four blocks of the A fragment (rows 0-7 and 8-15 of k 0-7, then of k 8-15); `b`: k 0-7 and 8-15, by k.
#[inline(always)]
fn mma_body(d: &mut Acc, a: [&Block; 4], b: [&Block; 2]) {
    for half in 0..2 {
        let rows = &mut d[8 * half..8 * half + 8];
        let mut sums: [[f32; 8]; 8] = std::array::from_fn(|r| rows[r]);
        for k in 0..16 {
            let (a, b) = (a[half + 2 * (k / 8)], &b[k / 8][k % 8]);
            for (sum, a) in sums.iter_mut().zip(a) {
                for j in 0..8 {
                    sum[j] = a[k % 8].mul_add(b[j], sum[j]);
                }
            }
        }
        for (row, sum) in rows.iter_mut().zip(&sums) {
            for j in 0..8 {
                row[j] = if sum[j].is_nan() {
                    f32::from_bits(0x7fff_ffff)
                } else {
                    sum[j]
                };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn mma_avx2(d: &mut Acc, a: [&Block; 4], b: [&Block; 2]) {
    use std::arch::x86_64::{
        _CMP_UNORD_Q, _mm256_blendv_ps, _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_fmadd_ps,
        _mm256_loadu_ps, _mm256_set1_epi32, _mm256_storeu_ps,
    };
    let canonical = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    for half in 0..2 {
        // SAFETY: every load and store is of one row of eight f32 inside the blocks.
        unsafe {
            let mut sums: [_; 8] = std::array::from_fn(|r| _mm256_loadu_ps(d[8 * half + r].as_ptr()));
            for q in 0..2 {
                let a = a[half + 2 * q];
                for k in 0..8 {
                    let row = _mm256_loadu_ps(b[q][k].as_ptr());
                    for r in 0..8 {
                        sums[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r][k]), row, sums[r]);
                    }
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                let clean = _mm256_blendv_ps(*sum, canonical, _mm256_cmp_ps::<_CMP_UNORD_Q>(*sum, *sum));
                _mm256_storeu_ps(d[8 * half + r].as_mut_ptr(), clean);
            }
        }
    }
}

/// The arithmetic, by what the CPU can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Math {
    avx2: bool,
}

impl Math {
    pub fn new() -> Math {
        #[cfg(target_arch = "x86_64")]
        let avx2 = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c");
        #[cfg(not(target_arch = "x86_64"))]
        let avx2 = false;
        Math { avx2 }
    }

    #[cfg(test)]
    fn portable() -> Math {
        Math { avx2: false }
    }

    /// Whether the CPU has AVX2 and FMA, and this uses them.
    pub fn fused(self) -> bool {
        self.avx2
    }

    /// An operand's 8x8 block from the warp's register: A by rows, B (`turn`) by k.
    pub fn widen(self, raw: &[u32; 32], element: Element, turn: bool, block: &mut Block) {
        #[cfg(target_arch = "x86_64")]
        if self.avx2 {
            // SAFETY: the CPU has AVX2 and F16C; it was asked.
            return unsafe { widen_avx2(raw, element, turn, block) };
        }
        widen_body(raw, element, turn, block);
    }

    /// The multiply-add of one mma.sync.m16n8k16.
    pub fn mma(self, d: &mut Acc, a: [&Block; 4], b: [&Block; 2]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx2 {
            // SAFETY: the CPU has AVX2 and FMA; it was asked.
            return unsafe { mma_avx2(d, a, b) };
        }
        mma_body(d, a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    #[test]
    fn both_paths_give_the_same_bits() {
        let mut rng = Rng::new(7);
        for round in 0..200 {
            let mut block = || -> Block {
                std::array::from_fn(|_| {
                    std::array::from_fn(|_| {
                        let bits = rng.next() as u32;
                        match round % 4 {
                            0 => f32::from_bits(bits & 0xffff_0000), // NaN, infinity, subnormals
                            _ => (bits >> 16) as f32 / 1024.0 - 20.0,
                        }
                    })
                })
            };
            let (a, b): ([Block; 4], [Block; 2]) = (std::array::from_fn(|_| block()), std::array::from_fn(|_| block()));
            let mut d = [[0.0; 8]; 16];
            d[..8].copy_from_slice(&block());
            let (mut fast, mut plain) = (d, d);
            let (a, b) = ([&a[0], &a[1], &a[2], &a[3]], [&b[0], &b[1]]);
            Math::new().mma(&mut fast, a, b);
            Math::portable().mma(&mut plain, a, b);
            let bits = |d: &Acc| d.map(|r| r.map(f32::to_bits));
            assert_eq!(bits(&fast), bits(&plain), "round {round}");
        }
    }

    #[test]
    fn both_paths_widen_alike() {
        let mut rng = Rng::new(3);
        for element in [Element::Bf16, Element::F16] {
            for turn in [false, true] {
                // NaN payloads may differ: no sum shows them.
                let raw: [u32; 32] = std::array::from_fn(|_| rng.next() as u32 & 0xbfff_bfff);
                let (mut fast, mut plain) = ([[0.0; 8]; 8], [[1.0; 8]; 8]);
                Math::new().widen(&raw, element, turn, &mut fast);
                Math::portable().widen(&raw, element, turn, &mut plain);
                assert_eq!(fast.map(|r| r.map(f32::to_bits)), plain.map(|r| r.map(f32::to_bits)));
                let lo = half::bf16::from_bits(raw[13] as u16).to_f32();
                let [row, col] = if turn { [2, 3] } else { [3, 2] };
                assert!(element == Element::F16 || plain[row][col].to_bits() == lo.to_bits());
            }
        }
    }
}
