//! The reference against slower and independent arithmetic.

use proptest::prelude::*;

use super::*;

mod local;
mod nccl;
mod tail;

const DTYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

/// Numbers of a type, as random as the tests need, in (-1, 1).
fn numbers(dtype: DType, seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    };
    let values: Vec<f64> = (0..count).map(|_| next()).collect();
    decode(dtype, &encode(dtype, &values))
}

fn round(dtype: DType, value: f32) -> f32 {
    decode(dtype, &encode(dtype, &[f64::from(value)]))[0] as f32
}

/// One element as the contract computes it: per rank and split of its K an fma chain, chains added in order, rounded to
/// the wire, summed in rank order.
fn by_contract_split(
    gemm: &Gemm,
    (world, splits): (usize, usize),
    dtype: DType,
    wire: Wire,
    residual: Option<&[f64]>,
    row: usize,
    col: usize,
) -> f32 {
    let mut sum = None;
    for rank in 0..world {
        let depth = chunk(gemm.k, world, rank);
        let chain = |range: Range<usize>| {
            range.fold(0f32, |sum, k| {
                (gemm.x[row * gemm.k + k] as f32).mul_add(gemm.weight[col * gemm.k + k] as f32, sum)
            })
        };
        let ranges = (0..splits).map(|s| {
            let at = |s: usize| depth.start + depth.len() * s / splits;
            at(s)..at(s + 1)
        });
        let mut partial = ranges.map(chain).reduce(|sum, next| sum + next).unwrap_or(0.0);
        if let Some(addend) = gemm.addends.get(rank) {
            partial += addend[row * gemm.n + col] as f32;
        }
        let sent = if world == 1 {
            partial
        } else {
            round(wire.dtype(dtype), partial)
        };
        sum = Some(sum.map_or(sent, |sum: f32| sum + sent));
    }
    let biased = sum.unwrap_or(0.0) + gemm.bias.map_or(0.0, |bias| bias[col] as f32);
    let residual = residual.map_or(0.0, |residual| residual[row * gemm.n + col] as f32);
    round(dtype, biased + residual)
}

fn by_contract(gemm: &Gemm, world: usize, dtype: DType, wire: Wire, row: usize, col: usize) -> f32 {
    by_contract_split(gemm, (world, 1), dtype, wire, None, row, col)
}

#[test]
fn chunks_follow_torch() {
    let split = |size, world| (0..world).map(|rank| chunk(size, world, rank)).collect::<Vec<_>>();
    assert_eq!(split(10, 4), [0..3, 3..6, 6..9, 9..10]);
    assert_eq!(split(5, 4), [0..2, 2..4, 4..5, 5..5]);
    assert_eq!(split(0, 2), [0..0, 0..0]);
    assert_eq!(split(3, 1), vec![0..3]);
}

proptest! {
    #[test]
    fn chunks_cover_in_order(size in 0usize..1000, world in 1usize..17) {
        let mut end = 0;
        for rank in 0..world {
            let part = chunk(size, world, rank);
            prop_assert!(part.start == end && part.len() <= size.div_ceil(world));
            end = part.end;
        }
        prop_assert_eq!(end, size);
    }

    #[test]
    fn the_contract_stays_within_the_bound(
        (m, n, k) in (1usize..5, 1usize..20, 0usize..70), deeper in prop::sample::select(vec![0usize, 0, 2048]), splits in 1usize..17,
        world in 1usize..17,
        dtype in prop::sample::select(&DTYPES[..]),
        wire in prop::sample::select(vec![Wire::Output, Wire::F32]),
        with_bias: bool, with_addend: bool, seed: u64, scale in prop::sample::select(vec![1.0, 300.0, 1e-6]),
    ) {
        // Splits are of 128 and more, so that the chains they shorten pay for their additions.
        let k = k + deeper;
        let splits = splits.min(k / world / 128).max(1);
        let scaled = |values: Vec<f64>| -> Vec<f64> {
            decode(dtype, &encode(dtype, &values.into_iter().map(|value| value * scale).collect::<Vec<_>>()))
        };
        let x = scaled(numbers(dtype, seed, m * k));
        let weight = numbers(dtype, seed ^ 1, n * k);
        let bias = scaled(numbers(dtype, seed ^ 2, n));
        let own: Vec<Vec<f64>> = (0..world as u64).map(|rank| scaled(numbers(dtype, seed ^ (3 + rank), m * n))).collect();
        let addends: Vec<&[f64]> = if with_addend { own.iter().map(|own| &own[..]).collect() } else { Vec::new() };
        let gemm = Gemm { m, n, k, x: &x, weight: &weight, bias: with_bias.then_some(&bias[..]), addends: &addends };
        let residual = scaled(numbers(dtype, seed ^ 99, m * n));
        for (residual, expected) in [
            (None, gemm.reduce(world, dtype, wire)),
            (Some(&residual[..]), gemm.reduce_onto(&residual, world, dtype, wire)),
        ] {
            let got: Vec<f64> = (0..m * n)
                .map(|i| f64::from(by_contract_split(&gemm, (world, splits), dtype, wire, residual, i / n, i % n)))
                .collect();
            let comparison = expected.compare(0..m, 0..n, &got);
            prop_assert!(comparison.wrong.is_none(), "{:?}", comparison.wrong);
            // Without what is added it is another sum.
            let other: Vec<f64> = got.iter().map(|got| got + 3.0 * scale).collect();
            prop_assert!(dtype != DType::F32 || expected.compare(0..m, 0..n, &other).wrong.is_some());
        }
    }
}

#[test]
fn the_product_equals_a_plain_loop() {
    // Large enough for several threads, ragged in every direction.
    let (m, n, k) = (67, 131, 259);
    let (x, weight) = (numbers(DType::F32, 1, m * k), numbers(DType::F32, 2, n * k));
    let bias = numbers(DType::F32, 3, n);
    let gemm = Gemm {
        m,
        n,
        k,
        x: &x,
        weight: &weight,
        bias: Some(&bias),
        addends: &[],
    };
    for expected in [gemm.gathered(DType::F32), gemm.reduce(3, DType::F32, Wire::Output)] {
        for (index, value) in expected.value.iter().enumerate() {
            let (row, col) = (index / n, index % n);
            let plain: f64 = (0..k).map(|k_| x[row * k + k_] * weight[col * k + k_]).sum::<f64>() + bias[col];
            assert!((value - plain).abs() < 1e-12, "[{row}, {col}]: {value} against {plain}");
        }
    }
}

#[test]
fn the_bound_is_not_vacuous() {
    // Of the elements of a bf16 GEMM, some must use a good part of their bound, or the bound hides faults.
    let (m, n, k, world) = (16, 64, 256, 4);
    let (x, weight) = (numbers(DType::Bf16, 5, m * k), numbers(DType::Bf16, 6, n * k));
    let gemm = Gemm {
        m,
        n,
        k,
        x: &x,
        weight: &weight,
        bias: None,
        addends: &[],
    };
    let expected = gemm.reduce(world, DType::Bf16, Wire::Output);
    let used = (0..m * n).map(|i| {
        let got = f64::from(by_contract(&gemm, world, DType::Bf16, Wire::Output, i / n, i % n));
        (got - expected.value[i]).abs() / expected.bound[i]
    });
    let most = used.fold(0.0, f64::max);
    assert!(
        (0.4..=1.0).contains(&most),
        "the closest element used {most} of its bound"
    );
}

#[test]
fn an_empty_sum_is_the_bias() {
    let gemm = Gemm {
        m: 2,
        n: 1,
        k: 0,
        x: &[],
        weight: &[],
        bias: Some(&[0.5]),
        addends: &[],
    };
    let expected = gemm.reduce(4, DType::F16, Wire::Output);
    assert_eq!(expected.value, [0.5, 0.5]);
    assert!(expected.compare(0..2, 0..1, &[0.5, 0.5]).wrong.is_none());
}

#[test]
fn nan_and_infinity_are_data() {
    let weight = [1.0];
    let gemm = Gemm {
        m: 3,
        n: 1,
        k: 1,
        x: &[f64::NAN, f64::INFINITY, 1.0],
        weight: &weight,
        bias: None,
        addends: &[],
    };
    let expected = gemm.reduce(2, DType::Bf16, Wire::Output);
    assert!(
        expected
            .compare(0..3, 0..1, &[f64::NAN, f64::INFINITY, 1.0])
            .wrong
            .is_none()
    );
    for wrong in [
        [0.0, f64::INFINITY, 1.0],
        [f64::NAN, f64::NEG_INFINITY, 1.0],
        [f64::NAN, f64::INFINITY, f64::NAN],
    ] {
        assert_eq!(expected.compare(0..3, 0..1, &wrong).wrong_count, 1, "{wrong:?}");
    }
}

#[test]
fn overflow_is_expected_where_it_must_be() {
    // 300 * 300 leaves f16; rounded to f16 on the wire, nothing is promised; with an f32 wire, infinity is.
    let gemm = Gemm {
        m: 1,
        n: 1,
        k: 1,
        x: &[300.0],
        weight: &[300.0],
        bias: None,
        addends: &[],
    };
    let by_f16 = gemm.reduce(2, DType::F16, Wire::Output);
    assert_eq!(by_f16.bound, [f64::INFINITY]);
    let by_f32 = gemm.reduce(2, DType::F16, Wire::F32);
    assert!(by_f32.compare(0..1, 0..1, &[f64::INFINITY]).wrong.is_none());
    for wrong in [f64::NEG_INFINITY, 65504.0, f64::NAN] {
        assert_eq!(by_f32.compare(0..1, 0..1, &[wrong]).wrong_count, 1, "{wrong}");
    }
}

#[test]
fn plain_sums_are_exact() {
    // 2^24 + 1 - 2^24: rank order decides, and f32 loses the one.
    let parts: [&[f64]; 3] = [&[16777216.0], &[1.0], &[-16777216.0]];
    assert_eq!(reduce_exactly(&parts, DType::F32), [0.0]);
    let expected = reduce(&parts, 1, 1, DType::F32);
    assert_eq!(expected.value, [1.0]);
    assert!(expected.compare(0..1, 0..1, &[0.0]).wrong.is_none());
    assert!(expected.compare(0..1, 0..1, &[8.0]).wrong.is_some());
}

#[test]
fn parts_are_judged_in_their_place() {
    let expected = gather(&[&[1.0, 2.0], &[3.0, 4.0]], 2, 2, DType::F32);
    assert_eq!((expected.rows, expected.cols), (2, 2));
    assert!(expected.compare(1..2, 1..2, &[4.0]).wrong.is_none());
    let wrong = expected.compare(0..2, 1..2, &[2.0, 5.0]).wrong.expect("5 is not 4");
    assert_eq!((wrong.row, wrong.col, wrong.got, wrong.want), (1, 1, 5.0, 4.0));
    assert!(
        expected.compare(0..2, 0..2, &[1.0]).wrong.is_some(),
        "a part of another size"
    );
    let empty = gather(&[&[], &[]], 6, 0, DType::F32);
    assert!(empty.compare(0..6, 0..0, &[]).wrong.is_none(), "rows without columns");
    assert!(
        expected.compare(2..3, 0..2, &[1.0, 2.0]).wrong.is_some(),
        "a part outside the result"
    );
}

#[test]
fn bytes_and_values_agree() {
    for dtype in DTYPES {
        let limit = overflow(dtype);
        let below = f64::from_bits(limit.to_bits() - 1);
        let back = decode(dtype, &encode(dtype, &[1.5, -0.0, f64::INFINITY, limit]));
        assert_eq!(back, [1.5, 0.0, f64::INFINITY, f64::INFINITY], "{dtype}");
        assert!(decode(dtype, &encode(dtype, &[below]))[0].is_finite(), "{dtype}");
        assert!(decode(dtype, &encode(dtype, &[f64::NAN]))[0].is_nan(), "{dtype}");
    }
}
