//! The f64 product, and beside it the product of magnitudes that the bound needs.
//!
//! Columns are taken in strips: a strip of the weight is transposed once, so that the inner loop runs over neighbouring
//! columns and the compiler turns it into vector code, with every sum in a register. Strips are shared out to threads.

use std::num::NonZero;
use std::ops::Range;

use super::{Expected, Gemm};

/// Columns of a strip: two accumulators for each fit the vector registers.
const STRIP: usize = 8;
/// Below this many products a thread costs more than it saves.
const PARALLEL: usize = 1 << 20;

/// One rank's share of one element.
#[derive(Clone, Copy, Default)]
pub(super) struct Partial {
    pub sum: f64,
    pub magnitude: f64,
}

/// Calls `element(row, col, one partial per split of K)` for every element and stores the (value, bound) it returns.
pub(super) fn for_each_element<F>(gemm: &Gemm<'_>, splits: &[Range<usize>], expected: &mut Expected, element: F)
where
    F: Fn(usize, usize, &[Partial]) -> (f64, f64) + Sync,
{
    if gemm.m == 0 || gemm.n == 0 {
        return;
    }
    let strips = gemm.n.div_ceil(STRIP);
    let work = gemm.m.saturating_mul(gemm.n).saturating_mul(gemm.k.max(1));
    let threads = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(work / PARALLEL + 1);
    let strips_each = strips.div_ceil(threads);
    // Strip-major, so that a thread's share is one slice: [strip][row][column of the strip].
    let mut results = vec![(0.0, 0.0); strips * gemm.m * STRIP];
    std::thread::scope(|scope| {
        for (thread, share) in results.chunks_mut(strips_each * gemm.m * STRIP).enumerate() {
            let element = &element;
            scope.spawn(move || {
                for (index, strip) in share.chunks_mut(gemm.m * STRIP).enumerate() {
                    evaluate_strip(gemm, splits, (thread * strips_each + index) * STRIP, strip, element);
                }
            });
        }
    });
    for row in 0..gemm.m {
        for col in 0..gemm.n {
            let at = (col / STRIP * gemm.m + row) * STRIP + col % STRIP;
            let to = row * gemm.n + col;
            (expected.value[to], expected.bound[to]) = results[at];
        }
    }
}

fn evaluate_strip<F>(gemm: &Gemm<'_>, splits: &[Range<usize>], first: usize, results: &mut [(f64, f64)], element: &F)
where
    F: Fn(usize, usize, &[Partial]) -> (f64, f64),
{
    let columns = STRIP.min(gemm.n - first);
    let mut transposed = vec![[0.0; STRIP]; gemm.k];
    for (column, line) in gemm.weight[first * gemm.k..]
        .chunks_exact(gemm.k.max(1))
        .take(columns)
        .enumerate()
    {
        for (k, value) in line.iter().enumerate() {
            transposed[k][column] = *value;
        }
    }
    let mut partials = vec![[Partial::default(); STRIP]; splits.len()];
    let mut of_column = vec![Partial::default(); splits.len()];
    for (row, out) in results.chunks_exact_mut(STRIP).enumerate() {
        let x = &gemm.x[row * gemm.k..][..gemm.k];
        for (partial, split) in partials.iter_mut().zip(splits) {
            *partial = dot(&x[split.clone()], &transposed[split.clone()]);
        }
        for (column, out) in out.iter_mut().enumerate().take(columns) {
            of_column
                .iter_mut()
                .zip(&partials)
                .for_each(|(to, from)| *to = from[column]);
            *out = element(row, first + column, &of_column);
        }
    }
}

fn dot(x: &[f64], weight: &[[f64; STRIP]]) -> [Partial; STRIP] {
    let (mut sum, mut magnitude) = ([0.0; STRIP], [0.0; STRIP]);
    for (x, weight) in x.iter().zip(weight) {
        for column in 0..STRIP {
            let product = x * weight[column];
            sum[column] += product;
            magnitude[column] += product.abs();
        }
    }
    std::array::from_fn(|column| Partial {
        sum: sum[column],
        magnitude: magnitude[column],
    })
}
