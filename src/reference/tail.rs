//! What follows an all-reduce in the same kernel: residual and RMSNorm. Derivation of the bound: `docs/numerics.md`.
//!
//! ```text
//! h      y + residual, in f32, rounded once       e_h = e_y + u32 (|h| + e_y), and the rounding
//! S      mean of a row's h^2, plus eps            between those of all |h| - e_h and of all |h| + e_h
//! out    h / sqrt(S) * gamma, in f32, rounded     the farthest that h and S may carry it
//! ```

use super::bound::{SLACK, U32, rounding};
use super::values::{decode, encode, overflow, underflow};
use super::{DType, Expected};

/// Chains that a row's squares are added in: column c goes into chain `c % CHAINS`.
const CHAINS: usize = 2048;
/// Additions between a chain's sum and the row's.
const FOLDS: usize = CHAINS.trailing_zeros() as usize;

/// What a tail leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalised {
    /// The updated residual.
    pub residual: Expected,
    /// The normalised rows.
    pub out: Expected,
}

/// One element of h on its way.
struct Term {
    value: f64,
    error: f64,
    /// The computed one may be any infinity or NaN.
    free: bool,
}

impl Expected {
    /// What residual `[rows, cols]` and RMSNorm with `gamma` `[cols]` make of a result of this kind.
    pub fn rms_norm(&self, residual: &[f64], gamma: &[f64], eps: f32) -> Normalised {
        let empty = || Expected::zeros(self.rows, self.cols, self.dtype);
        let mut all = Normalised {
            residual: empty(),
            out: empty(),
        };
        for first in (0..self.rows).map(|row| row * self.cols) {
            let terms: Vec<Term> = (first..first + self.cols).map(|i| self.term(i, residual[i])).collect();
            for (i, term) in (first..).zip(&terms) {
                all.residual.value[i] = term.value;
                all.residual.bound[i] = if term.free { f64::INFINITY } else { SLACK * term.error };
            }
            let scale = Scale::of(&terms, f64::from(eps));
            for ((i, term), gamma) in (first..).zip(&terms).zip(gamma) {
                (all.out.value[i], all.out.bound[i]) = scale.apply(term, *gamma, self.dtype);
            }
        }
        all
    }

    fn term(&self, i: usize, residual: f64) -> Term {
        let (y, e) = (self.value[i], self.bound[i]);
        let value = y + residual;
        if !value.is_finite() {
            // As it comes from the data; but y itself may be anything where the contract leaves it free.
            let free = e.is_infinite();
            return Term {
                value,
                error: 0.0,
                free,
            };
        }
        let mut error = e + U32 * (value.abs() + e);
        let mut free = e.is_infinite() || y.abs() + e >= overflow(self.dtype);
        free |= value.abs() + error >= overflow(self.dtype);
        error += rounding(Some(self.dtype), value.abs() + error);
        Term { value, error, free }
    }
}

/// A row's 1 / sqrt(S), and between which it is computed.
struct Scale {
    value: f64,
    low: f64,
    high: f64,
    free: bool,
}

impl Scale {
    fn of(terms: &[Term], eps: f64) -> Scale {
        let n = terms.len() as f64;
        let sum = |square: fn(&Term) -> f64| terms.iter().map(square).sum::<f64>();
        let value = 1.0 / (sum(|t| t.value * t.value) / n + eps).sqrt();
        if value.is_nan() || !sum(|t| t.value * t.value).is_finite() {
            // NaN in the data makes NaN of the row, infinities make 0 of what is finite: no error matters.
            let free = terms.iter().any(|t| t.free) && !value.is_nan();
            return Scale {
                value,
                low: value,
                high: value,
                free,
            };
        }
        // An fma a term, the folds; the division by n (rounded, too), the sum with eps.
        let steps = (terms.len().div_ceil(CHAINS) + FOLDS + 4) as f64 * U32 * SLACK;
        let lost = n * underflow(DType::F32);
        let most = sum(|t| (t.value.abs() + t.error).powi(2)) * (1.0 + steps) + lost;
        let least = sum(|t| (t.value.abs() - t.error).max(0.0).powi(2)) * (1.0 - steps) - lost;
        let s = |sum: f64, side: f64| (sum / n + eps) * (1.0 + side * 2.0 * U32) + side * 2.0 * underflow(DType::F32);
        let (least, most) = (s(least.max(0.0), -1.0), s(most, 1.0));
        let free = terms.iter().any(|t| t.free) || n * most >= overflow(DType::F32) || least <= 0.0;
        // The square root, and the division.
        let low = (1.0 - 3.0 * U32) / most.sqrt();
        let high = (1.0 + 3.0 * U32) / least.sqrt();
        Scale { value, low, high, free }
    }

    /// An element of the result, and its bound.
    fn apply(&self, term: &Term, gamma: f64, dtype: DType) -> (f64, f64) {
        let value = term.value * self.value * gamma;
        if self.free {
            return (value, f64::INFINITY);
        }
        if !gamma.is_finite() || !term.value.is_finite() || self.value.is_nan() || self.value == 0.0 {
            // The class is exact, unless a sign hangs on an error.
            let sure = gamma.is_finite() || gamma.is_nan() || term.value.abs() > term.error;
            return (value, if sure { 0.0 } else { f64::INFINITY });
        }
        let ends = [term.value - term.error, term.value + term.error].map(|h| [h * self.low, h * self.high]);
        let ends = ends.as_flattened();
        let largest = |of: &dyn Fn(f64) -> f64| ends.iter().map(|end| of(*end)).fold(0.0, f64::max);
        let scaled = largest(&|end| end.abs());
        let most = scaled * gamma.abs() * (1.0 + 3.0 * U32);
        if scaled.max(most) >= overflow(DType::F32) {
            return (value, f64::INFINITY);
        }
        let lost = underflow(DType::F32) * (1.0 + gamma.abs());
        let error = largest(&|end| (end * gamma - value).abs()) + 3.0 * U32 * most + lost;
        (value, SLACK * (error + rounding(Some(dtype), value.abs() + error)))
    }
}

/// The exact values that the contract promises for a tail, given the bits of `y` that the all-reduce alone leaves: nothing
/// in them is left to the kernel. The updated residual, then the normalised rows of `cols` columns. NaNs are equal to each
/// other.
pub fn rms_norm_exactly(
    y: &[f64],
    residual: &[f64],
    gamma: &[f64],
    eps: f32,
    cols: usize,
    dtype: DType,
) -> (Vec<f64>, Vec<f64>) {
    let round = |values: Vec<f64>| decode(dtype, &encode(dtype, &values));
    let sum = |(y, r): (&f64, &f64)| f64::from(*y as f32 + *r as f32);
    let h = round(y.iter().zip(residual).map(sum).collect());
    let mut out = Vec::with_capacity(h.len());
    for row in h.chunks(cols.max(1)) {
        let mut sums = [0f32; CHAINS];
        for (column, h) in row.iter().enumerate() {
            let (h, chain) = (*h as f32, &mut sums[column % CHAINS]);
            *chain = h.mul_add(h, *chain);
        }
        let mut count = CHAINS;
        while count > 1 {
            count /= 2;
            (0..count).for_each(|i| sums[i] = sums[2 * i] + sums[2 * i + 1]);
        }
        let scale = 1.0 / (sums[0] / cols as f32 + eps).sqrt();
        out.extend(
            row.iter()
                .zip(gamma)
                .map(|(h, g)| f64::from(*h as f32 * scale * *g as f32)),
        );
    }
    (h, round(out))
}
