//! What a launch refuses, and in which words.

use super::*;
use crate::memory::{Mat, MatMut};

/// The address of a made-up matrix in a launch that is refused.
fn raw<'a>(ptr: u64, rows: usize, cols: usize, ld: usize, dtype: DType) -> Mat<'a> {
    // SAFETY: only ever given to launches over a driver that does not touch memory.
    unsafe { Mat::from_raw(ptr, rows, cols, ld, dtype) }
}
fn raw_mut<'a>(ptr: u64, rows: usize, cols: usize, ld: usize) -> MatMut<'a> {
    // SAFETY: as above.
    unsafe { MatMut::from_raw(ptr, rows, cols, ld, BF16) }
}

/// What a good launch of GEMM+AR at M = 10, N = 20, K = 30 with a bias and an addend becomes when `spoil` had its way.
fn refusal(spoil: impl FnOnce(&mut Operands<'static>)) -> String {
    let (fake, ranks) = ranks(2);
    let plan = ranks[0]
        .plan(&OpSpec::new(Op::GemmAllReduce, 20, 30, 10, BF16).bias(true))
        .unwrap();
    let mut operands = Operands::gemm(
        10,
        raw(4096, 10, 30, 30, BF16),
        raw(8192, 20, 30, 30, BF16),
        raw_mut(16384, 10, 20, 20),
    )
    .bias(raw(12288, 1, 20, 20, BF16))
    .addend(raw(14336, 10, 20, 20, BF16));
    plan.launch(&operands).unwrap();
    fake.take();
    spoil(&mut operands);
    let error = plan.launch(&operands).expect_err("must be refused");
    assert!(fake.take().is_empty());
    error.to_string()
}

#[test]
fn operands_that_cannot_be_used() {
    let shape = "for gemm-all-reduce (N = 20, K = 30, bf16) at M = 10 on rank 0 of 2";
    type Spoil = Box<dyn FnOnce(&mut Operands<'static>)>;
    let cases: [(String, Spoil); 14] = [
        (
            "m is 11: expected at most the plan's max_m, 10".into(),
            Box::new(|a| a.m = 11),
        ),
        (
            format!("x is [10, 29]: expected [10, 30] {shape}"),
            Box::new(|a| a.x = raw(4096, 10, 29, 30, BF16)),
        ),
        (
            format!("weight is [30, 20]: expected [20, 30] {shape}"),
            Box::new(|a| a.weight = Some(raw(8192, 30, 20, 20, BF16))),
        ),
        (
            format!("bias is [20, 1]: expected [1, 20] {shape}"),
            Box::new(|a| a.bias = Some(raw(8192, 20, 1, 1, BF16))),
        ),
        (
            format!("out is [5, 20]: expected [10, 20] {shape}"),
            Box::new(|a| a.out = Out::To(raw_mut(8192, 5, 20, 20))),
        ),
        (
            "x is f32: expected bf16, the plan's type".into(),
            Box::new(|a| a.x = raw(4096, 10, 30, 30, DType::F32)),
        ),
        (
            "x is a matrix of leading dimension 29: expected at least its 30 columns".into(),
            Box::new(|a| a.x = raw(4096, 10, 30, 29, BF16)),
        ),
        (
            "x is a matrix at 0x1001: expected an address that is a multiple of 2, its element's size".into(),
            Box::new(|a| a.x = raw(4097, 10, 30, 30, BF16)),
        ),
        (
            "x is a matrix at 0x0: expected device memory of 600 bytes".into(),
            Box::new(|a| a.x = raw(0, 10, 30, 30, BF16)),
        ),
        (
            format!(
                "x is a matrix of leading dimension {}: expected one whose bytes can be counted in 64 bits",
                usize::MAX
            ),
            Box::new(|a| a.x = raw(4096, 10, 30, usize::MAX, BF16)),
        ),
        (
            "weight is missing: expected a matrix: gemm-all-reduce has a GEMM".into(),
            Box::new(|a| a.weight = None),
        ),
        (
            "bias is missing: expected a matrix: the plan was made with bias = true".into(),
            Box::new(|a| a.bias = None),
        ),
        (
            "out is a matrix at 0x1002 that overlaps x at 0x1000: expected memory of its own".into(),
            Box::new(|a| a.out = Out::To(raw_mut(4098, 10, 20, 20))),
        ),
        (
            "out is in place: expected a matrix of its own: gemm-all-reduce does not work in place".into(),
            Box::new(|a| a.out = Out::InPlace(raw_mut(4096, 10, 20, 20))),
        ),
    ];
    for (message, spoil) in cases {
        assert_eq!(refusal(spoil), message);
    }
}

#[test]
fn operands_that_an_operation_does_not_take() {
    let (_, ranks) = ranks(2);
    let launch = |op: Op, operands: Operands<'_>| {
        let k = if op.has_gemm() { 8 } else { 0 };
        let plan = ranks[0].plan(&OpSpec::new(op, 8, k, 8, BF16)).unwrap();
        plan.launch(&operands).unwrap_err().to_string()
    };
    let x = || raw(4096, 8, 8, 8, BF16);
    let plain = || Operands::plain(8, x(), raw_mut(8192, 8, 8, 8));
    let mut weighted = plain();
    weighted.weight = Some(x());
    assert_eq!(
        launch(Op::AllReduce, weighted),
        "weight is given: expected none: all-reduce has no GEMM"
    );
    assert_eq!(
        launch(Op::AllReduce, plain().bias(x())),
        "bias is given: expected none: the plan was made with bias = false"
    );
    let gather = Operands::gemm(8, x(), x(), raw_mut(8192, 8, 8, 8)).addend(x());
    assert_eq!(
        launch(Op::AllGatherGemm, gather),
        "addend is given: expected none: only GEMMs whose results are summed take one, all-gather-gemm does not"
    );
    assert_eq!(
        launch(Op::AllReduce, Operands::plain(8, x(), raw_mut(4096, 8, 8, 8))),
        "out is a matrix at 0x1000 that overlaps x at 0x1000: expected memory of its own, or Out::InPlace"
    );
    let mut elsewhere = Operands::in_place(8, raw_mut(4096, 8, 8, 8));
    elsewhere.x = raw(4098, 8, 8, 8, BF16);
    assert_eq!(
        launch(Op::AllReduce, elsewhere),
        "out is in place, but not x: expected the very elements of x"
    );
    let mut other = big(&ranks[1]);
    assert_eq!(
        launch(Op::AllReduce, Operands::in_place(8, other.mat_mut(8, 8, BF16).unwrap())),
        "x is a buffer of rank 1: expected one of rank 0, which launches"
    );
}

#[test]
fn buffers_end_where_they_end() {
    let (_, ranks) = ranks(1);
    let mut buffer = ranks[0].alloc(100).unwrap();
    assert!(buffer.mat(5, 10, BF16).is_ok() && buffer.mat_at(1, 5, 9, 10, BF16).is_ok());
    assert_eq!(
        buffer.mat_at(2, 5, 9, 10, BF16).unwrap_err().to_string(),
        "matrix is [5, 9] of bf16, ld 10, offset 2: expected one that ends within the buffer's 100 bytes"
    );
    assert!(buffer.mat(usize::MAX, usize::MAX, BF16).is_err() && buffer.mat_at(usize::MAX, 0, 0, 0, BF16).is_err());
    assert_eq!(
        buffer.mat_at(0, 2, 5, 4, BF16).unwrap_err().to_string(),
        "ld is 4: expected at least the 5 columns"
    );
    buffer.upload(&[1.0f32, 2.0]).unwrap();
    assert_eq!(buffer.to_vec::<f32>(2).unwrap(), [1.0, 2.0]);
    assert_eq!(
        buffer.upload(&[0u8; 101]).unwrap_err().to_string(),
        "src is 101 bytes: expected at most the buffer's 100 bytes"
    );
    assert!(buffer.to_vec::<f32>(26).is_err() && buffer.download(&mut [0u8; 101]).is_err());
    assert!(ranks[0].alloc(0).unwrap().ptr() != 0);
}
