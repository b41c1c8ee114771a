//! Writes `src/abi/bindings.rs` from `csrc/abi.h`: `cargo run -p tools --features bindings --bin abi-bindings`.

#[path = "../bindings.rs"]
mod bindings;

fn main() -> Result<(), String> {
    let (header, result) = bindings::paths();
    let text = bindings::generate(&header)?;
    std::fs::write(&result, text).map_err(|e| format!("{}: {e}", result.display()))
}
