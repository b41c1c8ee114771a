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

/// The columns of vector `quad` of the threads with `lane % 4 == t`, in the vector's order.
pub(super) fn columns(t: usize, quad: usize) -> [usize; 8] {
    std::array::from_fn(|i| 8 * (4 * quad + [0, 2, 1, 3][i / 2]) + 2 * t + i % 2)
}

pub(super) struct Product<'a> {
    /// By eight rows, then by eight k: rows of k.
    pub a: &'a [Block],
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
    /// Rows of A as the kernel reads them: where row g (+ 8) of pair `p` begins.
    fn row(&self, p: usize, upper: usize) -> usize {
        (2 * (p / 8) + upper) * self.k_blocks
    }

    /// # Safety
    /// Each of `d` is valid for reads and writes of N / 2 floats, and used by nobody else meanwhile.
    pub unsafe fn run(&self, fused: bool) {
        debug_assert!(self.n.is_multiple_of(64) && self.a.len() == 8 * self.k_blocks);
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
                        let a = &self.a[self.row(p, upper)..][..self.k_blocks];
                        let place: [usize; 8] =
                            std::array::from_fn(|i| 16 * quad + 4 * [0, 2, 1, 3][i / 2] + 2 * upper + i % 2);
                        let d = self.d[4 * p + t];
                        // SAFETY: places are below 16 * quads, which is N / 2.
                        let mut sums = place.map(|at| if self.add { unsafe { *d.add(at) } } else { 0.0 });
                        for (a, b) in a.iter().zip(b) {
                            for (a, b) in a[p % 8].iter().zip(b) {
                                for (sum, b) in sums.iter_mut().zip(b) {
                                    *sum = a.mul_add(*b, *sum);
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
    unsafe fn block_avx2<const P: usize, const R: usize>(&self, t: usize, quad: usize, p: usize) {
        use std::arch::x86_64::{
            __m256, _CMP_UNORD_Q, _mm256_blendv_ps, _mm256_broadcast_ss, _mm256_castpd_ps, _mm256_castps_pd,
            _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_epi32, _mm256_setzero_ps,
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
        let d: [*mut f32; P] = std::array::from_fn(|i| self.d[4 * (p + i) + t].wrapping_add(16 * quad));
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
        let a: [&[Block]; R] = std::array::from_fn(|r| &self.a[self.row(p + r / 2, r % 2)..][..self.k_blocks]);
        let g: [usize; R] = std::array::from_fn(|r| (p + r / 2) % 8);
        let b = &self.b[(t * quads + quad) * self.k_blocks..][..2 * self.k_blocks];
        let (b0, b1) = b.split_at(self.k_blocks);
        for q in 0..self.k_blocks {
            // SAFETY: `q` is below the length of each slice; a row of a block is eight floats.
            unsafe {
                let rows: [*const f32; R] = std::array::from_fn(|r| a[r].get_unchecked(q)[g[r]].as_ptr());
                let (b0, b1) = (b0.get_unchecked(q), b1.get_unchecked(q));
                for k in 0..8 {
                    let (x, y) = (_mm256_loadu_ps(b0[k].as_ptr()), _mm256_loadu_ps(b1[k].as_ptr()));
                    for r in 0..R {
                        let a = _mm256_broadcast_ss(&*rows[r].add(k));
                        sums[r][0] = _mm256_fmadd_ps(a, x, sums[r][0]);
                        sums[r][1] = _mm256_fmadd_ps(a, y, sums[r][1]);
                    }
                }
            }
        }
        let canonical = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
        for sum in sums.iter_mut().flatten() {
            *sum = _mm256_blendv_ps(*sum, canonical, _mm256_cmp_ps::<_CMP_UNORD_Q>(*sum, *sum));
        }
        for i in 0..P {
            for v in 0..2 {
                // Unpacking is its own inverse.
                let (low, high) = unpack(sums[2 * i][v], sums[2 * i + 1][v]);
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
