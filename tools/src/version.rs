//! `tileweave --version`.

use serde_json::json;

use crate::failure::Failure;
use crate::{device, kernels};

pub fn describe(json: bool) -> Result<String, Failure> {
    let driver = device::cuda_driver_version();
    let features = ["sim", "cuda"];
    let version = env!("CARGO_PKG_VERSION");
    let commit = tileweave_commit::COMMIT;
    if json {
        let object = json!({
            "version": version,
            "features": features,
            "architectures": kernels::ARCHS,
            "nvcc": kernels::NVCC_VERSION,
            "kernels_missing_because": (!kernels::REASON.is_empty()).then_some(kernels::REASON),
            "driver": driver.as_ref().ok(),
            "driver_missing_because": driver.as_ref().err(),
            "commit": commit,
        });
        return Ok(object.to_string());
    }
    let archs = if kernels::ARCHS.is_empty() {
        format!("none: {}", kernels::REASON)
    } else {
        kernels::ARCHS.join(" ")
    };
    Ok(format!(
        "tileweave {version}\nfeatures       {}\narchitectures  {archs}\nnvcc           {}\ndriver         {}\ncommit         {}",
        features.join(" "),
        kernels::NVCC_VERSION.unwrap_or("not found at build time"),
        driver.unwrap_or_else(|reason| format!("none: {reason}")),
        commit.unwrap_or("unknown"),
    ))
}
