//! The checked-in Rust structs are what bindgen makes of `csrc/abi.h` today. Without libclang: a note, or with
//! `TILEWEAVE_REQUIRE_LIBCLANG=1` a failure.

#[test]
fn bindings_are_current() {
    if let Err(reason) = abi_bindings::find_libclang() {
        let required = std::env::var("TILEWEAVE_REQUIRE_LIBCLANG").is_ok_and(|v| v == "1");
        assert!(!required, "TILEWEAVE_REQUIRE_LIBCLANG=1, but {reason}");
        println!("skipped: {reason}");
        return;
    }
    let (header, result) = abi_bindings::paths();
    let made = abi_bindings::generate(&header).unwrap();
    let present = std::fs::read_to_string(&result).unwrap();
    let differs = made
        .lines()
        .zip(present.lines())
        .position(|(made, present)| made != present);
    if let Some(line) = differs.or((made != present).then_some(present.lines().count())) {
        panic!(
            "{} is stale from line {} on: run `cargo run -p abi-bindings`",
            result.display(),
            line + 1
        );
    }
}
