//! Writes `src/abi/bindings.rs` from `csrc/abi.h`: `cargo run -p abi-bindings`.

fn main() -> Result<(), String> {
    let (header, result) = abi_bindings::paths();
    let text = abi_bindings::generate(&header)?;
    std::fs::write(&result, text).map_err(|e| format!("{}: {e}", result.display()))
}
