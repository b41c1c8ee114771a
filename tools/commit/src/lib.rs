//! The commit that this was built from.

/// Its hash, abbreviated; `None` where neither git nor `TILEWEAVE_COMMIT` told.
pub const COMMIT: Option<&str> = option_env!("TILEWEAVE_BUILT_FROM");
