use super::*;

#[test]
fn names_and_codes_round_trip() {
    for op in Op::ALL {
        assert_eq!(Op::from_name(op.name()), Some(op));
        assert_eq!(Op::from_code(op.code()), Some(op));
    }
    assert_eq!((Op::from_name("gemm"), Op::from_code(abi::TW_GEMM)), (None, None));
}

#[test]
fn unusable_specs_name_the_argument() {
    let of = |op, n, k, m| OpSpec::new(op, n, k, m, DType::Bf16);
    let cases = [
        (
            of(Op::AllReduce, 1 << 31, 0, 1),
            "n is 2147483648: expected less than 2^31",
        ),
        (
            of(Op::GemmAllReduce, 1, 1 << 40, 1),
            "k is 1099511627776: expected less than 2^31",
        ),
        (
            of(Op::GemmAllReduce, 1, 1, usize::MAX),
            "max_m is 18446744073709551615: expected less than 2^31",
        ),
        (
            of(Op::GemmAllReduce, 1 << 30, 1, 1 << 12),
            "max_m * n is 4398046511104: expected less than 2^42",
        ),
        (
            of(Op::AllGather, (1 << 27) - 7, 0, 1),
            "n is 134217721: expected at most 134217720: a gathered row is at most 2^28 - 16 bytes",
        ),
        (
            of(Op::AllGatherGemm, 1, 1 << 30, 1),
            "k is 1073741824: expected at most 134217720: a gathered row is at most 2^28 - 16 bytes",
        ),
        (
            of(Op::GemmAllReduce, 8, 8, 8).epilogue(Epilogue::Gelu),
            "epilogue is GELU: expected none: what gemm-all-reduce multiplies is not the sum yet",
        ),
        (
            of(Op::AllGather, 8, 0, 8).epilogue(Epilogue::SwiGlu),
            "epilogue is SwiGLU: expected none: all-gather has no GEMM",
        ),
        (
            of(Op::AllGatherGemm, 8, 8, 8)
                .epilogue(Epilogue::Gelu)
                .blocks(256, true),
            "columns is 256: expected 128: all-gather-gemm has no wider blocks with an epilogue",
        ),
        (
            of(Op::AllGatherGemm, 7, 8, 8).epilogue(Epilogue::SwiGlu),
            "n is 7: expected an even number: SwiGLU takes columns in pairs, a gate's and what it lets through",
        ),
        (
            of(Op::AllGatherGemm, 8, 8, 8).axis(Axis::Columns),
            "axis is columns: expected rows: all-gather-gemm does not gather matrices side by side",
        ),
        (
            of(Op::AllGather, 8, 0, 1 << 27).axis(Axis::Columns),
            "max_m is 134217728: expected less than 134217728 where matrices are gathered side by side",
        ),
        (of(Op::AllGather, 8, 8, 8), "k is 8: expected 0: all-gather has no GEMM"),
        (
            of(Op::AllReduce, 8, 0, 8).bias(true),
            "bias is true: expected false: all-reduce takes no bias",
        ),
        (
            of(Op::GemmReduceScatter, 8, 8, 8).tail(Tail::RmsNorm { eps: 1e-5 }),
            "tail is RmsNorm: expected none: gemm-reduce-scatter has no tail, which needs whole rows of a sum on every rank",
        ),
        (
            of(Op::AllGather, 8, 0, 8).tail(Tail::RmsNorm { eps: 1e-5 }),
            "tail is RmsNorm: expected none: all-gather has no tail, which needs whole rows of a sum on every rank",
        ),
        (
            of(Op::AllGatherGemm, 8, 8, 8).tail(Tail::Residual),
            "tail is Residual: expected none: all-gather-gemm adds nothing up that a residual could be added to",
        ),
        (
            of(Op::AllReduce, 8, 0, 8).tail(Tail::RmsNorm { eps: f32::NAN }),
            "eps is NaN: expected a finite number, at least 0",
        ),
        (
            of(Op::GemmAllReduce, 8, 8, 8).tail(Tail::RmsNorm { eps: -1.0 }),
            "eps is -1: expected a finite number, at least 0",
        ),
        (
            of(Op::GemmReduceScatter, 8, 8, 8).reducers(2),
            "reducers is 2: expected 0: gemm-reduce-scatter has no CTAs that only reduce",
        ),
        (
            of(Op::GemmAllReduce, 8, 8, 8).reducers(3),
            "reducers is 3: expected an even number up to 1022: CTAs may work in pairs",
        ),
        (
            of(Op::GemmAllReduce, 8, 8, 8).reducers(1024),
            "reducers is 1024: expected an even number up to 1022: CTAs may work in pairs",
        ),
    ];
    for (spec, message) in cases {
        assert_eq!(spec.check().unwrap_err().to_string(), message);
    }
    assert!(of(Op::GemmAllReduce, 0, 0, 0).bias(true).check().is_ok());
    assert!(of(Op::AllGather, (1 << 27) - 8, 0, 1).check().is_ok());
}

#[test]
fn the_wire_of_one_rank_is_exact() {
    let spec = OpSpec::new(Op::GemmAllReduce, 8, 8, 8, DType::F16);
    assert_eq!((spec.wire_dtype(1), spec.wire_dtype(2)), (DType::F32, DType::F16));
    assert_eq!(spec.wire(Wire::F32).wire_dtype(2), DType::F32);
    let plain = OpSpec::new(Op::AllReduce, 8, 0, 8, DType::F16).wire(Wire::F32);
    assert_eq!((plain.wire_dtype(1), plain.wire_dtype(2)), (DType::F16, DType::F16));
}
