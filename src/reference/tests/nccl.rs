//! The bound for NCCL against sums of two that are each rounded, along rings and trees.

use super::*;

/// Terms added in this order, each sum rounded.
fn rounded_sum(dtype: DType, terms: &[f64]) -> f64 {
    let add = |a: f32, b: &f64| round(dtype, a + *b as f32);
    terms[1..].iter().fold(terms[0] as f32, add).into()
}

#[test]
fn sums_in_any_order_are_within_the_bound_and_wrong_ones_are_not() {
    for dtype in DTYPES {
        for world in [2usize, 3, 8, 16] {
            let parts: Vec<Vec<f64>> = (0..world).map(|rank| numbers(dtype, rank as u64, 64)).collect();
            let slices: Vec<&[f64]> = parts.iter().map(Vec::as_slice).collect();
            let expected = reduce_by_nccl(&slices, 8, 8, dtype);
            for first in 0..world {
                let ring: Vec<f64> = (0..64)
                    .map(|at| {
                        let terms: Vec<f64> = (0..world).map(|step| parts[(first + step) % world][at]).collect();
                        rounded_sum(dtype, &terms)
                    })
                    .collect();
                let found = expected.compare(0..8, 0..8, &ring);
                assert!(found.wrong.is_none(), "{dtype} {world} {first}: {found:?}");
            }
            // One rank's part is missing.
            let short: Vec<f64> = (0..64)
                .map(|at| rounded_sum(dtype, &slices[1..].iter().map(|part| part[at]).collect::<Vec<_>>()))
                .collect();
            assert!(expected.compare(0..8, 0..8, &short).wrong_count > 16, "{dtype} {world}");
        }
    }
}

/// The first partial has the bias, before it is rounded.
#[test]
fn a_bias_is_in_the_first_partial() {
    let dtype = DType::Bf16;
    let (m, n, k, world) = (3, 5, 12, 3);
    let (x, weight, bias) = (numbers(dtype, 1, m * k), numbers(dtype, 2, n * k), numbers(dtype, 3, n));
    let gemm = Gemm {
        m,
        n,
        k,
        x: &x,
        weight: &weight,
        bias: Some(&bias),
        addends: &[],
    };
    let element = |at: usize| {
        let (row, col) = (at / n, at % n);
        let partial = |rank: usize| {
            let products = chunk(k, world, rank).map(|i| x[row * k + i] * weight[col * k + i]);
            let sum: f64 = products.sum::<f64>() + if rank == 0 { bias[col] } else { 0.0 };
            f64::from(round(dtype, sum as f32))
        };
        rounded_sum(dtype, &(0..world).map(partial).collect::<Vec<_>>())
    };
    let got: Vec<f64> = (0..m * n).map(element).collect();
    let found = gemm.reduce_by_nccl(world, dtype).compare(0..m, 0..n, &got);
    assert!(found.wrong.is_none(), "{found:?}");
}
