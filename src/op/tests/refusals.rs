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

/// What a good launch of an all-reduce with a tail at M = 8, N = 8 becomes when `spoil` had its way.
fn tail_refusal(spoil: impl FnOnce(&mut Operands<'static>)) -> String {
    let (fake, ranks) = ranks(2);
    let spec = OpSpec::new(Op::AllReduce, 8, 0, 8, BF16).tail(Tail::RmsNorm { eps: 1e-5 });
    let plan = ranks[0].plan(&spec).unwrap();
    let gamma = raw(16384, 1, 8, 8, BF16);
    let mut operands =
        Operands::plain(8, raw(4096, 8, 8, 8, BF16), raw_mut(8192, 8, 8, 8)).tail(raw_mut(12288, 8, 8, 8), gamma);
    plan.launch(&operands).unwrap();
    fake.take();
    spoil(&mut operands);
    let error = plan.launch(&operands).expect_err("must be refused");
    assert!(fake.take().is_empty());
    error.to_string()
}

#[test]
fn operands_of_a_tail() {
    let apart = "expected memory of its own";
    let shape = "for all-reduce (N = 8, bf16) with residual and RMSNorm at M = 8 on rank 0 of 2";
    type Spoil = Box<dyn FnOnce(&mut Operands<'static>)>;
    let residual =
        |ptr, rows, ld| -> Spoil { Box::new(move |a| a.residual = Some(Residual::Update(raw_mut(ptr, rows, 8, ld)))) };
    let gamma = |ptr, cols| -> Spoil { Box::new(move |a| a.gamma = Some(raw(ptr, 1, cols, cols, BF16))) };
    let cases: [(String, Spoil); 11] = [
        (
            "residual is missing: expected a matrix: the plan was made with a tail".into(),
            Box::new(|a| a.residual = None),
        ),
        (
            "gamma is missing: expected a matrix: the plan's tail normalises".into(),
            Box::new(|a| a.gamma = None),
        ),
        (
            format!("residual is [7, 8]: expected [8, 8] {shape}"),
            residual(12288, 7, 8),
        ),
        (format!("gamma is [1, 9]: expected [1, 8] {shape}"), gamma(16384, 9)),
        (
            "residual is a matrix of leading dimension 7: expected at least its 8 columns".into(),
            residual(12288, 8, 7),
        ),
        (
            "residual is a matrix at 0x3001: expected an address that is a multiple of 2, its element's size".into(),
            residual(12289, 8, 8),
        ),
        (
            format!("residual is a matrix at 0x2000 that overlaps out at 0x2000: {apart}"),
            residual(8192, 8, 8),
        ),
        (
            format!("residual is a matrix at 0x1002 that overlaps x at 0x1000: {apart}"),
            residual(4098, 8, 8),
        ),
        (
            format!("residual is a matrix at 0x4002 that overlaps gamma at 0x4000: {apart}"),
            residual(16386, 8, 8),
        ),
        (
            format!("out is a matrix at 0x2000 that overlaps gamma at 0x2000: {apart}, or Out::InPlace"),
            gamma(8192, 8),
        ),
        (
            format!("out is a matrix at 0x1000 that overlaps gamma at 0x1000: {apart}"),
            Box::new(|a| {
                a.out = Out::InPlace(raw_mut(4096, 8, 8, 8));
                a.gamma = Some(raw(4096, 1, 8, 8, BF16));
            }),
        ),
    ];
    for (message, spoil) in cases {
        assert_eq!(tail_refusal(spoil), message);
    }
    assert_eq!(
        tail_refusal(|a| a.residual = Some(Residual::Read(raw(12288, 8, 8, 8, BF16)))),
        "residual is only to be read: expected one to update (Operands::tail): RMSNorm's tail replaces it"
    );
    let (_, ranks) = ranks(2);
    let plan = ranks[0].plan(&OpSpec::new(Op::AllReduce, 8, 0, 8, BF16)).unwrap();
    let operands = Operands::plain(8, raw(4096, 8, 8, 8, BF16), raw_mut(8192, 8, 8, 8));
    let error = plan.launch(&operands.tail(raw_mut(12288, 8, 8, 8), raw(16384, 1, 8, 8, BF16)));
    assert_eq!(
        error.unwrap_err().to_string(),
        "residual is given: expected none: the plan was made without a tail"
    );
}

/// Where a product is saved nothing else lies, and the kernel that makes the activation is told of both: on the unfused route the GEMM.
#[test]
fn operands_of_an_epilogue() {
    let (fake, ranks) = ranks(2);
    let spec = OpSpec::new(Op::AllGatherGemm, 8, 16, 8, BF16).epilogue(Epilogue::SwiGlu);
    for path in [Path::Fused, Path::Unfused] {
        let plan = ranks[0].plan(&spec.clone().route(Want::Exactly(path))).unwrap();
        let operands = || {
            let (x, weight) = (raw(4096, 4, 16, 16, BF16), raw(8192, 8, 16, 16, BF16));
            Operands::gemm(8, x, weight, raw_mut(12288, 8, 4, 4))
        };
        plan.launch(&operands().saved(raw_mut(16384, 8, 8, 9))).unwrap();
        let launches = fake.take();
        let (last, before) = launches.split_last().unwrap();
        let p = &last.params;
        assert_eq!(
            (p.desc.epilogue, p.saved, p.saved_ld),
            (abi::TW_EPILOGUE_SWIGLU, 16384, 9),
            "{path}"
        );
        assert_eq!((p.n, p.out, p.out_ld), (8, 12288, 4), "{path}");
        assert!(
            before
                .iter()
                .all(|l| (l.params.desc.epilogue, l.params.saved) == (0, 0))
        );
        for (saved, of) in [(4098, "x at 0x1000"), (12290, "out at 0x3000")] {
            assert_eq!(
                plan.launch(&operands().saved(raw_mut(saved, 8, 8, 8)))
                    .unwrap_err()
                    .to_string(),
                format!("saved is a matrix at {saved:#x} that overlaps {of}: expected memory of its own")
            );
        }
        assert!(fake.take().is_empty());
    }
}

/// A residual alone has the shape of out, which for a reduce-scatter is the rank's own rows, and shares no byte with it.
#[test]
fn operands_of_a_residual() {
    let (fake, ranks) = ranks(2);
    let spec = OpSpec::new(Op::ReduceScatter, 8, 0, 8, BF16).tail(Tail::Residual);
    let plan = ranks[0].plan(&spec).unwrap();
    let operands = || Operands::plain(7, raw(4096, 7, 8, 8, BF16), raw_mut(8192, 4, 8, 8));
    plan.launch(&operands().residual(raw(12288, 4, 8, 9, BF16))).unwrap();
    let p = fake.take()[0].params;
    assert_eq!(
        (p.desc.tail, p.residual, p.residual_ld),
        (abi::TW_TAIL_RESIDUAL, 12288, 9)
    );
    assert_eq!((p.tail_rows, p.tail_cols, p.gamma), (0, 0, 0));
    let refused = |operands: Operands<'_>| plan.launch(&operands).expect_err("must be refused").to_string();
    let of_own = "for reduce-scatter (N = 8, bf16) with residual at M = 7 on rank 0 of 2";
    assert_eq!(
        refused(operands().residual(raw(12288, 7, 8, 8, BF16))),
        format!("residual is [7, 8]: expected [4, 8] {of_own}")
    );
    assert_eq!(
        refused(operands().residual(raw(8194, 4, 8, 8, BF16))),
        "out is a matrix at 0x2000 that overlaps residual at 0x2002: expected memory of its own"
    );
    assert_eq!(
        refused(operands().tail(raw_mut(12288, 4, 8, 8), raw(16384, 1, 8, 8, BF16))),
        "gamma is given: expected none: the plan's tail does not normalise"
    );
    let mut updated = operands().tail(raw_mut(12288, 4, 8, 8), raw(16384, 1, 8, 8, BF16));
    updated.gamma = None;
    assert_eq!(
        refused(updated),
        "residual is to be updated: expected one to read (Operands::residual): the plan's tail leaves it as it is"
    );
    assert!(fake.take().is_empty());
}

/// What a tail adds to a launch: the same on both routes of a GEMM, whether the all-reduce counts rows or elements.
#[test]
fn a_tail_is_the_communicating_kernels() {
    let (fake, ranks) = ranks(2);
    for (path, m) in [(Path::Fused, 8), (Path::Unfused, 8), (Path::Fused, 1)] {
        let spec = OpSpec::new(Op::GemmAllReduce, 8, 16, 8, BF16).tail(Tail::RmsNorm { eps: 1e-5 });
        let plan = ranks[0].plan(&spec.route(Want::Exactly(path))).unwrap();
        let (x, weight) = (raw(4096, m, 16, 16, BF16), raw(8192, 8, 16, 16, BF16));
        let operands = Operands::gemm(m, x, weight, raw_mut(12288, m, 8, 8));
        plan.launch(&operands.tail(raw_mut(16384, m, 8, 9), raw(20480, 1, 8, 8, BF16)))
            .unwrap();
        let launches = fake.take();
        let (main, before) = launches.split_last().unwrap();
        let p = &main.params;
        assert_eq!(
            (p.desc.tail, p.desc.tail_eps),
            (abi::TW_TAIL_RMS_NORM, 1e-5f32.to_bits()),
            "{path}"
        );
        assert_eq!((p.residual, p.residual_ld, p.gamma), (16384, 9, 20480), "{path}");
        assert_eq!((p.tail_rows as usize, p.tail_cols), (m, 8), "{path}");
        assert!(before.iter().all(|launch| launch.params.desc.tail == abi::TW_TAIL_NONE));
    }
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
