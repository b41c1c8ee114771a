//! Rust twins of `csrc/abi.h`, made by bindgen and checked in, so that no user needs libclang.

#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, dead_code, clippy::all)]
#[rustfmt::skip]
mod bindings;
pub use bindings::*;
