//! Files that PyTorch would not write, and one that it would.

use super::*;

const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"x":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"weight":{"dtype":"F32","shape":[1,3],"data_offsets":[12,24]}}"#;

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|byte| byte as u8));
    bytes
}

fn read(bytes: Vec<u8>) -> Result<File, Failure> {
    File::from_bytes("f.safetensors".into(), bytes)
}

#[test]
fn a_whole_file_is_read() {
    let file = read(file(HEADER, 24)).expect("whole");
    let x = file.tensor("x").expect("x");
    assert_eq!(
        (x.dtype().expect("bf16"), x.dims("[M, K]").expect("two")),
        (DType::Bf16, [2usize, 3])
    );
    assert_eq!(x.bytes(), (0..12).collect::<Vec<u8>>());
    assert!(file.optional("bias").expect("readable").is_none());
}

#[test]
fn errors_name_the_tensor_what_it_is_and_what_it_should_be() {
    let file = read(file(HEADER, 24)).expect("whole");
    let weight = file.tensor("weight").expect("weight");
    let said = |result: Result<(), Failure>| result.expect_err("wrong").message;
    let message = said(weight.expect(DType::Bf16, &[1, 3], "x", "[N, K]"));
    assert!(
        message.contains("`weight`") && message.contains("F32") && message.contains("expected BF16"),
        "{message}"
    );
    let message = said(weight.expect(DType::F32, &[4, 3], "x", "[N, K]"));
    assert!(
        message.contains("[1, 3]") && message.contains("expected [4, 3], [N, K]"),
        "{message}"
    );
    let message = said(weight.dims::<3>("[P, M, N]").map(|_| ()));
    assert!(message.contains("expected 3 dimensions, [P, M, N]"), "{message}");
    let message = said(file.tensor("bias").map(|_| ()));
    assert!(
        message.contains("`bias` is missing") && message.contains("`weight`, `x`"),
        "{message}"
    );
}

#[test]
fn broken_files_are_refused_by_what_is_broken() {
    let with = |from: &str, to: &str| file(&HEADER.replace(from, to), 24);
    let mut claims_much = file(HEADER, 24);
    claims_much[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    let mut truncated_header = file(HEADER, 24);
    truncated_header.truncate(20);
    let overflowing = with("[2,3]", "[1099511627776,1099511627776,1099511627776,1099511627776]");
    let cases = [
        (Vec::new(), "0 bytes"),
        (vec![1, 2, 3], "3 bytes"),
        (claims_much, "4611686018427387904 bytes"),
        (truncated_header, "truncated"),
        (file("[1, 2]", 0), "JSON object"),
        (file("{\"x\":", 0), "JSON object"),
        (
            file(HEADER, 17),
            "`weight` is F32 [1, 3] at bytes 12..24: expected offsets within the 17 bytes",
        ),
        (with("[0,12]", "[0,1152921504606846976]"), "`x` is BF16"),
        (with("[0,12]", "[12,0]"), "`x`"),
        (with("[12,24]", "[0,12]"), "`x`"),
        (with("[2,3]", "[2,4]"), "expected 16 bytes, there are 12"),
        (overflowing, "its size overflows"),
        (with("[2,3]", "[-2,3]"), "tensor `x`"),
        (with("\"shape\":[2,3],", ""), "tensor `x`: missing field `shape`"),
        (
            file(r#"{"x":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#, 24),
            "12 bytes of data belong to no tensor",
        ),
    ];
    for (bytes, named) in cases {
        let Err(failure) = read(bytes) else {
            panic!("accepted: {named}")
        };
        assert_eq!(failure.kind.exit_code(), 2);
        assert!(failure.message.contains(named), "{named}: {}", failure.message);
    }
}

#[test]
fn other_types_are_not_read_as_ours() {
    let file = read(file(&HEADER.replace("BF16", "I16"), 24)).expect("whole");
    let message = file.tensor("x").expect("x").dtype().expect_err("I16").message;
    assert!(
        message.contains("I16") && message.contains("expected BF16, F16 or F32"),
        "{message}"
    );
}
