//! The right answers: every operation on full, unsplit operands in f64, with a bound on how far a result that keeps the
//! numerics contract may stand from it, element by element. Slow, simple, and sharing no code with the kernels or their
//! schedule: tests and the `tileweave` program judge by it.
//!
//! The contract and the derivation of the bound are told in `docs/numerics.md`; the names there are the names here.
//!
//! ```
//! use tileweave::reference::{Expected, Gemm};
//! use tileweave::{DType, Wire};
//!
//! // Two ranks hold one column of x [1, 2] and of weight [1, 2] each.
//! let gemm = Gemm { m: 1, n: 1, k: 2, x: &[3.0, 4.0], weight: &[0.5, 0.25], bias: Some(&[1.0]), addends: &[] };
//! let expected: Expected = gemm.reduce(2, DType::Bf16, Wire::Output);
//! assert_eq!(expected.value, [3.5]);
//! assert!(expected.compare(0..1, 0..1, &[3.5]).wrong.is_none());
//! assert!(expected.compare(0..1, 0..1, &[3.75]).wrong.is_some());
//! ```

mod bound;
mod compare;
mod epilogue;
pub mod layer;
pub mod local;
mod product;
mod tail;
mod values;

use std::ops::Range;

pub use compare::{Comparison, Wrong};
pub use tail::{Normalised, rms_norm_exactly};
pub use values::{decode, encode, overflow};

use crate::dtype::{DType, Wire};
use bound::{Adder, Rules};

/// A global result and the elementwise bound on a computed one's distance from it, both row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Rows of the global result.
    pub rows: usize,
    /// Columns of the global result.
    pub cols: usize,
    /// The type that computed results have.
    pub dtype: DType,
    /// What is right, in f64.
    pub value: Vec<f64>,
    /// How far a computed element may be. Infinite where the contract lets a partial or a sum leave its type's range:
    /// any value is right there.
    pub bound: Vec<f64>,
}

/// The part of `size` that `rank` of `world` holds, as `torch.chunk` splits: the last ranks may have less, or nothing.
pub fn chunk(size: usize, world: usize, rank: usize) -> Range<usize> {
    let step = size.div_ceil(world.max(1));
    let end = |ranks: usize| step.saturating_mul(ranks).min(size);
    end(rank)..end(rank + 1)
}

/// The operands of a GEMM with a collective, full and unsplit: `y = x weight^T + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a> {
    /// Rows of `x` and of the result.
    pub m: usize,
    /// Rows of `weight`, columns of the result.
    pub n: usize,
    /// Columns of `x` and of `weight`.
    pub k: usize,
    /// `[m, k]`, row-major.
    pub x: &'a [f64],
    /// `[n, k]`, row-major.
    pub weight: &'a [f64],
    /// `[n]`, added once.
    pub bias: Option<&'a [f64]>,
    /// Every rank's own `[m, n]` partial, added before it travels: one a rank, or none at all.
    pub addends: &'a [&'a [f64]],
}

impl Gemm<'_> {
    /// Row-parallel: K is split over `world` ranks, whose partials travel in the wire type and are summed in rank
    /// order. The result of gemm_all_reduce; gemm_reduce_scatter leaves each rank its [`chunk`] of the rows.
    pub fn reduce(&self, world: usize, dtype: DType, wire: Wire) -> Expected {
        let splits: Vec<Range<usize>> = (0..world).map(|rank| chunk(self.k, world, rank)).collect();
        // One rank's partial is the sum: nothing travels, so nothing is rounded on the way.
        let wire = (world > 1).then_some(wire.dtype(dtype));
        self.evaluate(
            &splits,
            Rules {
                dtype,
                wire,
                adder: Adder::Ranks,
            },
            None,
        )
    }

    /// [`Gemm::reduce`] with a residual `[m, n]`, added behind the bias, before the rounding.
    pub fn reduce_onto(&self, residual: &[f64], world: usize, dtype: DType, wire: Wire) -> Expected {
        let splits: Vec<Range<usize>> = (0..world).map(|rank| chunk(self.k, world, rank)).collect();
        let wire = (world > 1).then_some(wire.dtype(dtype));
        let adder = Adder::Ranks;
        self.evaluate(&splits, Rules { dtype, wire, adder }, Some(residual))
    }

    /// [`Gemm::reduce_in_switch`] with a residual, likewise.
    pub fn reduce_onto_in_switch(&self, residual: &[f64], world: usize, dtype: DType, wire: Wire) -> Expected {
        let splits: Vec<Range<usize>> = (0..world).map(|rank| chunk(self.k, world, rank)).collect();
        let wire = wire.dtype(dtype);
        let (adder, wire) = (Adder::Switch(wire), Some(wire));
        self.evaluate(&splits, Rules { dtype, wire, adder }, Some(residual))
    }

    /// The same where a switch adds the partials and rounds their sum to the wire type, in an order of its own.
    pub fn reduce_in_switch(&self, world: usize, dtype: DType, wire: Wire) -> Expected {
        let splits: Vec<Range<usize>> = (0..world).map(|rank| chunk(self.k, world, rank)).collect();
        let to = wire.dtype(dtype);
        self.evaluate(
            &splits,
            Rules {
                dtype,
                wire: Some(to),
                adder: Adder::Switch(to),
            },
            None,
        )
    }

    /// The same by NCCL: in the output's type, of partials the first of which has the bias.
    pub fn reduce_by_nccl(&self, world: usize, dtype: DType) -> Expected {
        let splits: Vec<Range<usize>> = (0..world).map(|rank| chunk(self.k, world, rank)).collect();
        self.evaluate(
            &splits,
            Rules {
                dtype,
                wire: Some(dtype),
                adder: Adder::Nccl(dtype),
            },
            None,
        )
    }

    /// Column-parallel: every rank multiplies the whole of x with its [`chunk`] of the weight's rows; no partial
    /// travels.
    pub fn gathered(&self, dtype: DType) -> Expected {
        self.evaluate(
            std::slice::from_ref(&(0..self.k)),
            Rules {
                dtype,
                wire: None,
                adder: Adder::Ranks,
            },
            None,
        )
    }

    fn evaluate(&self, splits: &[Range<usize>], rules: Rules, residual: Option<&[f64]>) -> Expected {
        let mut expected = Expected::zeros(self.m, self.n, rules.dtype);
        product::for_each_element(self, splits, &mut expected, |row, col, partials| {
            let mut element = rules.element();
            for (rank, partial) in partials.iter().enumerate() {
                let addend = self.addends.get(rank).map(|addend| addend[row * self.n + col]);
                element.add_partial(partial.sum, partial.magnitude, splits[rank].len(), addend);
            }
            let residual = residual.map(|residual| residual[row * self.n + col]);
            element.finish(self.bias.map(|bias| bias[col]), residual)
        });
        expected
    }
}

/// reduce_scatter and all_reduce of one `[rows, cols]` matrix per rank: summed in f32 in rank order, rounded once.
/// reduce_scatter leaves each rank its [`chunk`] of the rows.
pub fn reduce(parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    sum(parts, rows, cols, (dtype, Adder::Ranks), None)
}

/// [`reduce`] with a residual `[rows, cols]`, added before the rounding.
pub fn reduce_onto(residual: &[f64], parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    sum(parts, rows, cols, (dtype, Adder::Ranks), Some(residual))
}

/// [`reduce_in_switch`] with a residual, likewise.
pub fn reduce_onto_in_switch(residual: &[f64], parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    sum(parts, rows, cols, (dtype, Adder::Switch(dtype)), Some(residual))
}

/// all_reduce where a switch adds, in an order of its own.
pub fn reduce_in_switch(parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    sum(parts, rows, cols, (dtype, Adder::Switch(dtype)), None)
}

/// reduce_scatter and all_reduce by NCCL, in an order of its own.
pub fn reduce_by_nccl(parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    sum(parts, rows, cols, (dtype, Adder::Nccl(dtype)), None)
}

fn sum(
    parts: &[&[f64]],
    rows: usize,
    cols: usize,
    (dtype, adder): (DType, Adder),
    residual: Option<&[f64]>,
) -> Expected {
    let wire = None;
    let rules = Rules { dtype, wire, adder };
    let mut expected = Expected::zeros(rows, cols, dtype);
    for index in 0..rows * cols {
        let mut element = rules.element();
        for part in parts {
            element.add_partial(part[index], part[index].abs(), 0, None);
        }
        (expected.value[index], expected.bound[index]) = element.finish(None, residual.map(|r| r[index]));
    }
    expected
}

/// The exact value that the contract promises for [`reduce`]: nothing in it is left to the kernel, so no bound is
/// needed. NaNs are equal to each other.
pub fn reduce_exactly(parts: &[&[f64]], dtype: DType) -> Vec<f64> {
    let Some((first, rest)) = parts.split_first() else {
        return Vec::new();
    };
    let mut sums: Vec<f32> = first.iter().map(|value| *value as f32).collect();
    for part in rest {
        sums.iter_mut()
            .zip(*part)
            .for_each(|(sum, value)| *sum += *value as f32);
    }
    let rounded: Vec<f64> = sums.into_iter().map(f64::from).collect();
    decode(dtype, &encode(dtype, &rounded))
}

/// all_gather of the ranks' matrices of `cols` columns: `rows` rows together, stacked in rank order, bit for bit.
pub fn gather(parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    let value = parts.concat();
    let bound = vec![0.0; value.len()];
    Expected {
        rows,
        cols,
        dtype,
        value,
        bound,
    }
}

/// all_gather of the ranks' matrices of `rows` rows, side by side in rank order, `cols` columns together, bit for bit.
pub fn gather_columns(parts: &[&[f64]], rows: usize, cols: usize, dtype: DType) -> Expected {
    let mut expected = Expected::zeros(rows, cols, dtype);
    for (rank, part) in parts.iter().enumerate() {
        let own = chunk(cols, parts.len(), rank);
        for (row, line) in part.chunks_exact(own.len().max(1)).enumerate().take(rows) {
            expected.value[row * cols..][own.clone()].copy_from_slice(line);
        }
    }
    expected
}

impl Expected {
    fn zeros(rows: usize, cols: usize, dtype: DType) -> Self {
        Expected {
            rows,
            cols,
            dtype,
            value: vec![0.0; rows * cols],
            bound: vec![0.0; rows * cols],
        }
    }

    /// The largest finite magnitude of the reference: what errors are stated relative to. 0 for an empty result.
    pub fn scale(&self) -> f64 {
        largest_finite(&self.value)
    }

    /// The largest finite elementwise bound. 0 for an empty result.
    pub fn largest_bound(&self) -> f64 {
        largest_finite(&self.bound)
    }
}

fn largest_finite(values: &[f64]) -> f64 {
    values
        .iter()
        .map(|value| value.abs())
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests;
