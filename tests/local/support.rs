//! One rank, operands made from a seed, and how results are judged.

use proptest::prelude::*;
use tileweave::reference::{decode, encode, overflow};
use tileweave::{Buffer, DType, GroupConfig, Rank};

use crate::common::{Rng, Slab, deep, node};

pub const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];
/// Unit roundoff of f32.
pub const U: f64 = 1.0 / 16777216.0;

pub fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: n * deep() as u32,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    }
}

/// How operands lie, and how the machine runs: nothing of it may change a bit.
#[derive(Debug, Clone, Copy)]
pub struct Lay {
    /// Elements between rows.
    pub gap: usize,
    /// First elements are one element away from any alignment.
    pub moved: bool,
    pub seed: u64,
    /// CTAs at most; 0: as many as fit.
    pub max_ctas: u32,
}

pub const PLAIN: Lay = Lay {
    gap: 0,
    moved: false,
    seed: 0,
    max_ctas: 0,
};

prop_compose! {
    pub fn lay()(
        gap in prop_oneof![2 => Just(0usize), 1 => Just(8usize), 1 => 1usize..9], moved in prop::bool::weighted(0.3),
        seed in any::<u64>(), max_ctas in prop_oneof![2 => Just(0u32), 1 => 1u32..5],
    ) -> Lay {
        Lay { gap, moved, seed, max_ctas }
    }
}

pub fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DTYPES.to_vec())
}

impl Lay {
    pub fn rank(&self) -> Rank {
        let config = GroupConfig::default().max_ctas(self.max_ctas);
        node(1, self.seed).group(1, &config).unwrap().remove(0)
    }

    pub fn slab(&self, rank: &Rank, [rows, cols]: [usize; 2], dtype: DType, values: Option<&[f64]>) -> Slab {
        let slab = Slab::new(rank, rows, cols, self.gap, dtype, values).unwrap();
        if self.moved { slab.moved(rank).unwrap() } else { slab }
    }

    pub fn input(&self, rank: &Rank, shape: [usize; 2], dtype: DType, values: &[f64]) -> Slab {
        self.slab(rank, shape, dtype, Some(values))
    }

    pub fn output(&self, rank: &Rank, shape: [usize; 2], dtype: DType) -> Slab {
        self.slab(rank, shape, dtype, None)
    }
}

pub fn ids(rank: &Rank, ids: &[i64]) -> Buffer {
    let mut buffer = rank.alloc(size_of_val(ids)).unwrap();
    buffer.upload(ids).unwrap();
    buffer
}

pub fn round(dtype: DType, values: Vec<f64>) -> Vec<f64> {
    decode(dtype, &encode(dtype, &values))
}

/// About normal, rounded to the type.
pub fn draw(rng: &mut Rng, n: usize, dtype: DType, scale: f64) -> Vec<f64> {
    round(dtype, (0..n).map(|_| rng.normal() * scale).collect())
}

/// A slab's values, once the rank's work is done.
pub fn values(rank: &Rank, slab: &Slab, dtype: DType) -> Vec<f64> {
    rank.synchronize().unwrap();
    decode(dtype, &slab.read().unwrap())
}

/// Largest magnitude below which rounding to the type is not relative to the value.
fn smallest_error(dtype: DType) -> f64 {
    let exponent = if dtype == DType::F16 { -14 } else { -126 };
    2f64.powi(exponent) * dtype.unit_roundoff()
}

/// What an f32 result that errs by `error` may err by once it is rounded to the type.
pub fn rounded(dtype: DType, want: f64, error: f64) -> f64 {
    let u = if dtype == DType::F32 {
        0.0
    } else {
        dtype.unit_roundoff()
    };
    1.01 * (error + u * (want.abs() + error)) + smallest_error(dtype)
}

/// Every value within `bound(i)`, an f32 error, of what is right, when rounded to the type. NaN is NaN in both, and infinities
/// are equal; a value that may round to infinity may be it. The largest part of its bound that a value comes to.
#[track_caller]
pub fn judge(what: &str, dtype: DType, got: &[f64], want: &[f64], bound: impl Fn(usize) -> f64) -> f64 {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut part = 0f64;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = rounded(dtype, *want, bound(i));
        let infinite = got.is_infinite() && got.signum() == want.signum() && want.abs() + allowed >= overflow(dtype);
        let close = (got - want).abs() <= allowed;
        assert!(
            close || infinite || got == want || (got.is_nan() && want.is_nan()),
            "{what}, {dtype}: element {i} is {got:e}, not {want:e} within {allowed:e}"
        );
        part = part.max((got - want).abs() / allowed);
    }
    part
}

/// Additions that a term of a row of `n` goes through (csrc/tile/row_sum.h).
pub fn row_steps(n: usize) -> f64 {
    (n.div_ceil(2048) + 11) as f64
}
