//! The product of a warpgroup: `d[64][N] (+)= a[64][K] b[N][K]` in f32, k ascending, each product exact and one rounding a
//! sum, as in `math.rs`; N is 64, 128 or 256, K a multiple of 16.
//!
//! `d` is worked on where it lies, in the stacks of 128 threads. Thread `4 g + t` of a warp holds, for each 8 columns, two
//! neighbouring ones of row g and two of row g + 8. So 16 floats of one thread are one vector of eight columns of either
//! row, if the columns are taken in the order that unpacking 64-bit halves gives; B is packed in that order. The kernel
//! takes three such pairs of rows (six rows) by two vectors: twelve sums in registers through all of K.

use super::math::Block;

/// Threads of a warpgroup.
pub(super) const THREADS: usize = 128;
/// Pairs of rows, g and g + 8: eight a warp.
const PAIRS: usize = 32;

/// The columns of a vector, from [`first_column`] on: pairs 0, 2, 1 and 3 of a thread's four.
pub(super) const COLUMNS: [usize; 8] = [0, 1, 16, 17, 8, 9, 24, 25];

/// The first column of vector `quad` of the threads with `lane % 4 == t`.
pub(super) fn first_column(t: usize, quad: usize) -> usize {
    32 * quad + 2 * t
}

/// Eight k of A: for each the 64 rows, pair by pair.
pub(super) type Slice = [[f32; 64]; 8];

/// Eight of the rows of a [`Slice`], from [`first_row`] on.
pub(super) const PAIRED: [usize; 8] = [0, 8, 1, 9, 2, 10, 3, 11];

/// The row of A that stands at `8 * eight` in a [`Slice`].
pub(super) fn first_row(eight: usize) -> usize {
    eight / 2 * 16 + eight % 2 * 4
}

pub(super) struct Product<'a> {
    /// By eight k.
    pub a: &'a [Slice],
    /// By vector (t, then quad), then by eight k: rows of columns.
    pub b: &'a [Block],
    pub n: usize,
    /// K / 8.
    pub k_blocks: usize,
    /// `d` is added to; else it is only written.
    pub add: bool,
    /// `d` in every thread: N / 2 floats.
    pub d: &'a [*mut f32; THREADS],
}

impl Product<'_> {
    /// # Safety
    /// Each of `d` is valid for reads and writes of N / 2 floats, and used by nobody else meanwhile.
    pub unsafe fn run(&self, fused: bool) {
        debug_assert!(self.n.is_multiple_of(64) && self.a.len() == self.k_blocks);
        debug_assert!(self.b.len() == self.n / 8 * self.k_blocks);
        #[cfg(target_arch = "x86_64")]
        if fused {
            // SAFETY: the CPU has AVX2 and FMA, as `fused` says; the rest is the caller's promise.
            return unsafe { self.run_avx2() };
        }
        let _ = fused;
        // SAFETY: the caller's promise.
        unsafe { self.run_portable() }
    }

    /// # Safety
    /// As [`Product::run`].
    unsafe fn run_portable(&self) {
        let quads = self.n / 32;
        for t in 0..4 {
            for quad in 0..quads {
                let b = &self.b[(t * quads + quad) * self.k_blocks..][..self.k_blocks];
                for p in 0..PAIRS {
                    for upper in 0..2 {
                        let place: [usize; 8] =
                            std::array::from_fn(|i| 16 * quad + 4 * [0, 2, 1, 3][i / 2] + 2 * upper + i % 2);
                        let d = self.d[4 * p + t];
                        // SAFETY: places are below 16 * quads, which is N / 2.
                        let mut sums = place.map(|at| if self.add { unsafe { *d.add(at) } } else { 0.0 });
                        for (a, b) in self.a.iter().zip(b) {
                            for (a, b) in a.iter().zip(b) {
                                for (sum, b) in sums.iter_mut().zip(b) {
                                    *sum = a[2 * p + upper].mul_add(*b, *sum);
                                }
                            }
                        }
                        for (at, sum) in place.into_iter().zip(sums) {
                            let clean = if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { sum };
                            // SAFETY: as above.
                            unsafe { *d.add(at) = clean };
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`Product::run`], on a CPU with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run_avx2(&self) {
        let quads = self.n / 32;
        for t in 0..4 {
            for quad in (0..quads).step_by(2) {
                let mut p = 0;
                // 10 times 3 pairs, and 2.
                while p + 3 <= PAIRS {
                    // SAFETY: the caller's promise.
                    unsafe { self.block_avx2::<3, 6>(t, quad, p) };
                    p += 3;
                }
                // SAFETY: as above.
                unsafe { self.block_avx2::<2, 4>(t, quad, p) };
            }
        }
    }

    /// `P` pairs of rows from `p`, `R` = 2 P rows, by the vectors `quad` and `quad + 1`.
    ///
    /// # Safety
    /// As [`Product::run`], on a CPU with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[expect(
        clippy::needless_range_loop,
        reason = "sums stay in registers where every index is a constant once unrolled"
    )]
    unsafe fn block_avx2<const P: usize, const R: usize>(&self, t: usize, quad: usize, p: usize) {
        use std::mem::transmute;

        use std::arch::x86_64::{
            __m256, _CMP_UNORD_Q, _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castsi256_ps,
            _mm256_cmp_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
            _mm256_storeu_ps, _mm256_unpackhi_pd, _mm256_unpacklo_pd,
        };
        const { assert!(R == 2 * P) };
        let unpack = |a: __m256, b: __m256| {
            let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
            (
                _mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)),
            )
        };
        let quads = self.n / 32;
        let mut d = [std::ptr::null_mut::<f32>(); P];
        for i in 0..P {
            d[i] = self.d[4 * (p + i) + t].wrapping_add(16 * quad);
        }
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        if self.add {
            for i in 0..P {
                for v in 0..2 {
                    // SAFETY: 16 floats of the thread's N / 2, from 16 * (quad + v).
                    let (low, high) = unsafe {
                        let at = d[i].add(16 * v);
                        (_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8)))
                    };
                    (sums[2 * i][v], sums[2 * i + 1][v]) = unpack(low, high);
                }
            }
        }
        let vectors = &self.b[(t * quads + quad) * self.k_blocks..][..2 * self.k_blocks];
        let (b0, b1) = vectors.split_at(self.k_blocks);
        for ((b0, b1), a) in b0.iter().zip(b1).zip(self.a) {
            for k in 0..8 {
                // SAFETY: eight floats are a vector.
                let (x, y) = unsafe {
                    (
                        transmute::<[f32; 8], __m256>(b0[k]),
                        transmute::<[f32; 8], __m256>(b1[k]),
                    )
                };
                let a = &a[k][2 * p..2 * p + R];
                for r in 0..R {
                    let a = _mm256_set1_ps(a[r]);
                    sums[r][0] = _mm256_fmadd_ps(a, x, sums[r][0]);
                    sums[r][1] = _mm256_fmadd_ps(a, y, sums[r][1]);
                }
            }
        }
        let canonical = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
        let clean = |sum| _mm256_blendv_ps(sum, canonical, _mm256_cmp_ps::<_CMP_UNORD_Q>(sum, sum));
        for i in 0..P {
            for v in 0..2 {
                // Unpacking is its own inverse.
                let (low, high) = unpack(clean(sums[2 * i][v]), clean(sums[2 * i + 1][v]));
                // SAFETY: as at the loads.
                unsafe {
                    let at = d[i].add(16 * v);
                    _mm256_storeu_ps(at, low);
                    _mm256_storeu_ps(at.add(8), high);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::math::Math;
    use super::super::rng::Rng;
    use super::*;

    /// Both paths on the same stacks, and the sums one by one.
    #[test]
    fn both_paths_give_the_sums_in_order() {
        let mut rng = Rng::new(11);
        for (round, (n, k_blocks)) in [(64, 2), (128, 8), (256, 4), (256, 16)].into_iter().enumerate() {
            let k = 8 * k_blocks;
            let mut random = |special: bool| {
                let bits = rng.next() as u32;
                match special {
                    true => f32::from_bits(bits & 0xffff_0000), // NaN, infinity, subnormals, huge
                    false => half::bf16::from_f32((bits >> 16) as f32 / 1024.0 - 20.0).to_f32(),
                }
            };
            let special = round % 2 == 0;
            let a: Vec<f32> = (0..64 * k).map(|_| random(special)).collect();
            let b: Vec<f32> = (0..n * k).map(|_| random(special)).collect();
            let d: Vec<f32> = (0..64 * n).map(|_| random(false)).collect();
            let slice = |q: usize| -> Slice {
                std::array::from_fn(|i| {
                    std::array::from_fn(|at| a[(first_row(at / 8) + PAIRED[at % 8]) * k + 8 * q + i])
                })
            };
            let quads = n / 32;
            let block = |at: usize| -> Block {
                let (vector, q) = (at / k_blocks, at % k_blocks);
                let first = first_column(vector / quads, vector % quads);
                std::array::from_fn(|i| std::array::from_fn(|c| b[(first + COLUMNS[c]) * k + 8 * q + i]))
            };
            let a_packed: Vec<Slice> = (0..k_blocks).map(slice).collect();
            let b_packed: Vec<Block> = (0..n / 8 * k_blocks).map(block).collect();
            // docs/machine.md: row and column of `d[at]` of a thread.
            let place = |thread: usize, at: usize| {
                let row = thread / 32 * 16 + at / 2 % 2 * 8 + thread % 32 / 4;
                (row, at / 4 * 8 + thread % 4 * 2 + at % 2)
            };
            for add in [false, true] {
                let run = |fused: bool| {
                    let of = |thread| {
                        (0..n / 2)
                            .map(move |at| place(thread, at))
                            .map(|(row, col)| d[row * n + col])
                    };
                    let mut stacks: Vec<Vec<f32>> = (0..THREADS).map(|thread| of(thread).collect()).collect();
                    let pointers: [*mut f32; THREADS] = std::array::from_fn(|i| stacks[i].as_mut_ptr());
                    let product = Product {
                        a: &a_packed,
                        b: &b_packed,
                        n,
                        k_blocks,
                        add,
                        d: &pointers,
                    };
                    // SAFETY: N / 2 floats each, of this test alone.
                    unsafe { product.run(fused) };
                    stacks
                };
                let (fast, plain) = (run(Math::new().fused()), run(false));
                for thread in 0..THREADS {
                    for at in 0..n / 2 {
                        let (row, col) = place(thread, at);
                        let first = if add { d[row * n + col] } else { 0.0 };
                        let sum = (0..k).fold(first, |sum, q| a[row * k + q].mul_add(b[col * k + q], sum));
                        let bits = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
                        let seen = (fast[thread][at].to_bits(), plain[thread][at].to_bits());
                        assert_eq!(seen, (bits, bits), "N {n}, K {k}, add {add}, row {row}, column {col}");
                    }
                }
            }
        }
    }
}
