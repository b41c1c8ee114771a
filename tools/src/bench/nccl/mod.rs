//! NCCL, for context: our GEMM and then NCCL's collective, over the same virtual ranks.
//!
//! Since 2.30 NCCL takes several ranks on one GPU where `NCCL_MULTI_RANK_GPU_ENABLE` is 1 (github.com/NVIDIA/nccl/issues/1716).
//! It reads its environment when it is first used, so the variable has to be there when the program starts: `tools/gpu/run`
//! sets it, and the program looks whether it is set. Library and communicators are those of [`tileweave::nccl`]; they are
//! measured as a contest of their own, last, so that what goes wrong in them takes no other figure along (`contests`).

mod contests;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::sync::Arc;

pub use contests::{Repeated, WithNccl};
use tileweave::Result;
use tileweave::nccl::Library;

/// Has to be 1.
const VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// 10000 * major + 100 * minor + patch: the first that takes several ranks on one GPU.
const OLDEST: u32 = 2_30_00;

/// NCCL where it takes virtual ranks, or why there is none.
pub fn open() -> std::result::Result<Arc<Library>, String> {
    serves_virtual_ranks(Library::find(), std::env::var(VARIABLE).ok().as_deref())
}

/// That the library can, where the variable has this value.
fn serves_virtual_ranks(
    found: Result<Arc<Library>>,
    variable: Option<&str>,
) -> std::result::Result<Arc<Library>, String> {
    let library = found.map_err(|error| error.to_string())?;
    if library.code() < OLDEST {
        let (name, version) = (library.name(), library.version());
        return Err(format!(
            "several ranks on one GPU need NCCL 2.30 or later; {name} is {version}"
        ));
    }
    if variable != Some("1") {
        let seen = variable.map_or("is not set".into(), |value| format!("is {value:?}"));
        return Err(format!(
            "several ranks on one GPU need {VARIABLE}=1, and it {seen}; tools/gpu/run sets it"
        ));
    }
    Ok(library)
}
