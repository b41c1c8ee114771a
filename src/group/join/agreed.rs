//! What must be equal on all ranks before anything of the machine is touched: each has a name, and two that differ are refused by
//! it.

use std::sync::OnceLock;

use super::id::digest;
use super::words::Agreed;
use crate::driver::{Driver, Kind, Place};
use crate::error::Result;
use crate::group::GroupConfig;

/// The kernels of a driver.
fn kernels(kind: Kind) -> String {
    static FATBIN: OnceLock<String> = OnceLock::new();
    match (kind, crate::kernels::FATBIN) {
        (Kind::Sim, _) => "those of the simulated node".to_string(),
        (Kind::Cuda, None) => "the caller's own".to_string(),
        (Kind::Cuda, Some(fatbin)) => FATBIN.get_or_init(|| digest([fatbin])).clone(),
    }
}

pub(super) fn agreed(driver: &dyn Driver, place: Place, config: &GroupConfig) -> Result<Agreed> {
    // A field that is added is told, too.
    let GroupConfig {
        heap_bytes,
        one_shot_bytes,
        max_ctas,
        deadline,
        joining: _,
        probing,
        numerics,
        nccl,
    } = config;
    let (major, minor) = driver.place_info(place)?.compute_capability;
    let told = [
        ("the version of tileweave", env!("CARGO_PKG_VERSION").to_string()),
        ("the machine", format!("{:?}", driver.kind())),
        ("the driver's version", driver.version()),
        ("the kernels' digest", kernels(driver.kind())),
        ("the device's compute capability", format!("{major}.{minor}")),
        ("GroupConfig::heap_bytes", heap_bytes.to_string()),
        ("GroupConfig::one_shot_bytes", one_shot_bytes.to_string()),
        ("GroupConfig::max_ctas", max_ctas.to_string()),
        ("GroupConfig::deadline", format!("{deadline:?}")),
        ("GroupConfig::probing", format!("{probing:?}")),
        ("GroupConfig::numerics", format!("{numerics:?}")),
        ("GroupConfig::nccl", format!("{nccl:?}")),
    ];
    Ok(told
        .into_iter()
        .map(|(what, value)| (what.to_string(), value))
        .collect())
}
