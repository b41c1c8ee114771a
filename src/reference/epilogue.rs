//! What an activation makes of a product, and the bound of it. Derivation: `docs/numerics.md`.
//!
//! ```text
//! pre    rounded to the type                       within B of pre*, as without an activation
//! GELU   x normal(x) of it, in f32                 1.13 B, and 6 ulp of the value
//! SwiGLU silu(g) u of two of it, in f32            1.1 B_g (|u*| + B_u) + |silu(g*)| B_u, 3 ulp of silu, a rounding
//! out    rounded once                              e + u_out (|y| + e)
//! ```

use super::bound::{SLACK, U32, rounding};
use super::local::{normal_distribution, silu};
use super::values::overflow;
use super::{DType, Expected};

/// The largest slopes of GELU (at sqrt 2) and of x sigmoid(x), rounded up.
const GELU_SLOPE: f64 = 1.13;
const SILU_SLOPE: f64 = 1.1;
/// Errors of the kernels' functions in units in the last place (`csrc/tile/functions.h`), of which one is at most 2 U32 of the value.
const GELU_ULPS: f64 = 6.0;
const SILU_ULPS: f64 = 3.0;
/// What a function loses below the normal range, for each unit of its argument's magnitude and one more: a few of the smallest numbers.
const TINY: f64 = 16.0 * 1.401298464324817e-45;

impl Expected {
    /// What GELU makes of a product of this kind.
    pub fn gelu(&self) -> Expected {
        self.each(self.cols, |pre, i| {
            let (x, b) = pre.at(i);
            let value = x * normal_distribution(x);
            let ulps = 2.0 * GELU_ULPS * U32 * (value.abs() + GELU_SLOPE * b);
            (value, GELU_SLOPE * b + ulps + TINY * (1.0 + x.abs().min(20.0)))
        })
    }

    /// What SwiGLU makes of one: of columns 2j and 2j + 1, column j.
    pub fn swiglu(&self) -> Expected {
        self.each(self.cols / 2, |pre, i| {
            let ((g, gate), (u, up)) = (pre.at(2 * i), pre.at(2 * i + 1));
            let s = silu(g);
            let off = SILU_SLOPE * gate;
            // Of silu as computed, from silu of g*.
            let silu_error = off + 2.0 * SILU_ULPS * U32 * (s.abs() + off) + TINY * (1.0 + g.abs().min(200.0));
            let error = silu_error * (u.abs() + up) + s.abs() * up;
            let value = s * u;
            (value, error + U32 * (value.abs() + error) + TINY)
        })
    }

    /// Elements of a matrix of `cols` columns and as many rows, by their index; the error that `of` gives is before the rounding.
    fn each(&self, cols: usize, of: impl Fn(&Expected, usize) -> (f64, f64)) -> Expected {
        let mut made = Expected::zeros(self.rows, cols, self.dtype);
        let width = self.cols / cols.max(1);
        for i in 0..self.rows * cols {
            let (value, error) = of(self, i);
            let pre = i * width..(i + 1) * width;
            // Where pre itself may round to infinity, what comes of it may be anything.
            let free = pre.clone().any(|i| {
                let (value, bound) = self.at(i);
                bound.is_infinite() || (value.is_finite() && value.abs() + bound >= overflow(self.dtype))
            });
            // Infinities and NaN in the data: the class is exact, unless the sign of another factor hangs on an error.
            let unsure = pre.clone().any(|i| !self.value[i].is_finite())
                && pre
                    .clone()
                    .any(|i| self.value[i].is_finite() && self.value[i].abs() <= self.bound[i]);
            made.value[i] = value;
            made.bound[i] = match (free || unsure, value.is_finite()) {
                (true, _) => f64::INFINITY,
                (false, false) => 0.0,
                (false, true) if error >= overflow(DType::F32) => f64::INFINITY,
                (false, true) => SLACK * (error + rounding(Some(self.dtype), value.abs() + error)),
            };
        }
        made
    }

    fn at(&self, i: usize) -> (f64, f64) {
        (self.value[i], self.bound[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gelu(x: f64) -> f64 {
        x * normal_distribution(x)
    }

    /// The slopes that the bound takes are the largest, and not much more.
    #[test]
    fn slopes() {
        let steepest = |f: fn(f64) -> f64| {
            let slope = |i: i32| (f(f64::from(i) * 1e-3 + 5e-4) - f(f64::from(i) * 1e-3 - 5e-4)) * 1e3;
            (-20_000..20_000).map(|i| slope(i).abs()).fold(0.0, f64::max)
        };
        let (gelu, silu) = (steepest(gelu), steepest(silu));
        assert!(gelu <= GELU_SLOPE && gelu > 0.99 * GELU_SLOPE, "{gelu}");
        assert!(silu <= SILU_SLOPE && silu > 0.99 * SILU_SLOPE, "{silu}");
    }

    /// A value computed as the contract says is in bound, from any pre that is; one that is a rounding further off is not.
    #[test]
    fn the_bound_is_neither_broken_nor_vacuous() {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            let count = 4000;
            let value: Vec<f64> = (0..count).map(|i| f64::from(i - 2000) / 250.0 + 1e-3).collect();
            let unit = dtype.unit_roundoff();
            let bound: Vec<f64> = value.iter().map(|v| v.abs() * unit).collect();
            let (rows, cols) = (1, count as usize);
            let pre = Expected {
                rows,
                cols,
                dtype,
                value,
                bound,
            };
            for off in [-1.0, 0.0, 1.0] {
                let had: Vec<f64> = (0..cols).map(|i| pre.value[i] + off * pre.bound[i]).collect();
                let round = |values: Vec<f64>| super::super::decode(dtype, &super::super::encode(dtype, &values));
                let made = round(had.iter().map(|x| gelu(*x)).collect());
                assert!(pre.gelu().compare(0..1, 0..cols, &made).wrong.is_none(), "{dtype}");
                let made = round(had.chunks(2).map(|x| silu(x[0]) * x[1]).collect());
                assert!(
                    pre.swiglu().compare(0..1, 0..cols / 2, &made).wrong.is_none(),
                    "{dtype}"
                );
            }
            let far: Vec<f64> = pre.value.iter().map(|x| gelu(*x) * (1.0 + 40.0 * unit)).collect();
            assert!(
                pre.gelu().compare(0..1, 0..cols, &far).wrong_count > cols / 2,
                "{dtype}"
            );
            let far: Vec<f64> = pre
                .value
                .chunks(2)
                .map(|x| silu(x[0]) * x[1] * (1.0 + 40.0 * unit))
                .collect();
            assert!(
                pre.swiglu().compare(0..1, 0..cols / 2, &far).wrong_count > cols / 4,
                "{dtype}"
            );
        }
    }
}
