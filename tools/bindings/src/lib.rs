//! Makes `src/abi/bindings.rs` from `csrc/abi.h` with bindgen. Needs libclang (`LIBCLANG_PATH`), hence only a developer's
//! program and a test use it; the result is checked in.

use std::path::{Path, PathBuf};

/// The header and the checked-in result.
pub fn paths() -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    (root.join("csrc/abi.h"), root.join("src/abi/bindings.rs"))
}

/// Whether libclang can be loaded; `Err` says why not. bindgen itself panics without it.
pub fn find_libclang() -> Result<(), String> {
    clang_sys::load().map_err(|e| format!("libclang was not found (LIBCLANG_PATH names its folder): {e}"))
}

/// The text of the bindings. Their sizes and offsets are asserted when they are compiled.
pub fn generate(header: &Path) -> Result<String, String> {
    find_libclang()?;
    let bindings = bindgen::Builder::default()
        .header(header.to_string_lossy())
        .clang_arg("-std=c99")
        .allowlist_item("Tw.*|TW_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|e| e.to_string())?)
        .use_core()
        .derive_default(true)
        .layout_tests(true)
        .formatter(bindgen::Formatter::Prettyplease)
        // The version of bindgen is not part of the result.
        .disable_header_comment()
        .raw_line("// Made from csrc/abi.h by `cargo run -p abi-bindings`.")
        .generate()
        .map_err(|e| e.to_string())?
        .to_string();
    Ok(name_no_anonymous_enum(&bindings))
}

/// C gives the constants of an anonymous enum an integer type, for which bindgen invents an alias: say `u32` instead.
fn name_no_anonymous_enum(bindings: &str) -> String {
    let mut text = String::with_capacity(bindings.len());
    for line in bindings
        .lines()
        .filter(|line| !line.starts_with("pub type _bindgen_ty_"))
    {
        match line
            .split_once(": _bindgen_ty_")
            .and_then(|(name, rest)| Some((name, rest.split_once(" = ")?.1)))
        {
            Some((name, value)) => text.push_str(&format!("{name}: u32 = {value}")),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
