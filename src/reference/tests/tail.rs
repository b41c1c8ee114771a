//! Residual and RMSNorm: the bound against every computed result, and against the exact one.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What keeps the contract is within the bound; y as far off as its own bound allows, all to one side or any.
    #[test]
    fn what_keeps_the_contract_is_in_bound(
        rows in 1usize..4, cols in prop_oneof![1usize..40, Just(2100usize)], seed in any::<u64>(), away in 0u32..3,
        scale in prop::sample::select(vec![1.0, 1e-3, 100.0]), dtype in prop::sample::select(DTYPES.to_vec()),
    ) {
        let draw = |salt: u64, count: usize| numbers(dtype, seed ^ salt, count);
        let gemm = Gemm {
            m: rows, n: cols, k: 64, x: &draw(1, rows * 64), weight: &draw(2, cols * 64), bias: None, addends: &[],
        };
        let y = gemm.reduce(2, dtype, Wire::Output);
        let round = |values: Vec<f64>| decode(dtype, &encode(dtype, &values));
        let residual = round(draw(3, rows * cols).iter().map(|r| r * scale).collect());
        let gamma = draw(4, cols);
        let expected = y.rms_norm(&residual, &gamma, 1e-5);
        let side = |i: usize| match away { 0 => 0.0, 1 => 0.7, _ => 0.7 - 1.4 * ((i + seed as usize) % 2) as f64 };
        let computed = round((0..rows * cols).map(|i| y.value[i] + side(i) * y.bound[i]).collect());
        let near = (0..rows * cols).all(|i| (computed[i] - y.value[i]).abs() <= y.bound[i]);
        prop_assume!(near);
        let (h, out) = rms_norm_exactly(&computed, &residual, &gamma, 1e-5, cols, dtype);
        prop_assert_eq!(expected.residual.compare(0..rows, 0..cols, &h).wrong, None);
        prop_assert_eq!(expected.out.compare(0..rows, 0..cols, &out).wrong, None);
    }
}

/// A result that is off by a few units in the last place is found, in h and in out.
#[test]
fn the_bound_is_not_vacuous() {
    for dtype in DTYPES {
        let (rows, cols) = (4, 300);
        let y = numbers(dtype, 5, rows * cols);
        let exact = reduce(&[&y], rows, cols, dtype);
        let (residual, gamma) = (numbers(dtype, 6, rows * cols), numbers(dtype, 7, cols));
        let expected = exact.rms_norm(&residual, &gamma, 1e-6);
        let (h, out) = rms_norm_exactly(&y, &residual, &gamma, 1e-6, cols, dtype);
        for (of, got) in [(&expected.residual, h), (&expected.out, out)] {
            assert_eq!(of.compare(0..rows, 0..cols, &got).wrong, None);
            let off: Vec<f64> = got.iter().map(|g| g * (1.0 + 64.0 * dtype.unit_roundoff())).collect();
            assert!(
                of.compare(0..rows, 0..cols, &off).wrong_count > rows * cols / 2,
                "{dtype}"
            );
        }
    }
}

/// By hand: h = [3, 4], their mean square 12.5.
#[test]
fn a_row_by_hand() {
    let y = reduce(&[&[1.0, 1.0], &[1.0, 2.0]], 1, 2, DType::F32);
    let made = y.rms_norm(&[1.0, 1.0], &[1.0, -2.0], 3.5);
    assert_eq!(made.residual.value, [3.0, 4.0]);
    assert_eq!(made.out.value, [0.75, -2.0]);
    let (h, out) = rms_norm_exactly(&[2.0, 3.0], &[1.0, 1.0], &[1.0, -2.0], 3.5, 2, DType::F32);
    assert_eq!((h, out), (vec![3.0, 4.0], vec![0.75, -2.0]));
}

/// NaN makes NaN of its row, an infinity zeros of what is finite, and a square out of range leaves all free.
#[test]
fn what_is_not_finite() {
    let of = |row: [f64; 2]| {
        let expected = reduce(&[&row], 1, 2, DType::F32).rms_norm(&[0.0, 0.0], &[1.0, 1.0], 1e-5);
        let (_, out) = rms_norm_exactly(&row, &[0.0, 0.0], &[1.0, 1.0], 1e-5, 2, DType::F32);
        assert_eq!(expected.out.compare(0..1, 0..2, &out).wrong, None, "{row:?} {out:?}");
        (expected.out.value, expected.out.bound)
    };
    let (value, bound) = of([f64::NAN, 1.0]);
    assert!(value.iter().all(|v| v.is_nan()) && bound == [0.0, 0.0]);
    let (value, bound) = of([f64::INFINITY, 1.0]);
    assert!(value[0].is_nan() && value[1] == 0.0 && bound == [0.0, 0.0]);
    assert_eq!(of([1e30, 1.0]).1, [f64::INFINITY, f64::INFINITY]);
}
