//! Finding and starting the NVML library. That it is missing, too old or without a driver is an error that says so.

use std::ffi::{OsStr, OsString};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::why;
use crate::error::{Error, Result};

/// Names another library, for installs where the loader does not find it.
const VARIABLE: &str = "TILEWEAVE_NVML";

/// As drivers install it, then as development packages link it.
const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];

pub(super) fn open() -> Result<Nvml> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return start(&path).map_err(|e| unavailable(format!("{VARIABLE} is {}: {}", path.display(), reason(&e))));
    }
    let mut tried = Vec::new();
    for name in NAMES {
        match start(OsStr::new(name)) {
            // Found, so no other is looked for: it would be another install's.
            Ok(nvml) => return Ok(nvml),
            Err(e @ NvmlError::LibloadingError(_)) => tried.push(reason(&e)),
            Err(e) => return Err(unavailable(format!("{name}: {}", reason(&e)))),
        }
    }
    Err(unavailable(format!("the library was not found ({})", tried.join("; "))))
}

fn start(name: &OsStr) -> Result<Nvml, NvmlError> {
    let name: OsString = name.into();
    let nvml = Nvml::builder().lib_path(&name).init()?;
    if nvml.lib().nvmlShutdown.is_err() {
        // The wrapper calls it when it is dropped, and panics without it.
        std::mem::forget(nvml);
        return Err(NvmlError::FailedToLoadSymbol("nvmlShutdown".into()));
    }
    Ok(nvml)
}

fn reason(e: &NvmlError) -> String {
    match e {
        // The loader's own text is behind that of the library that calls it.
        NvmlError::LibloadingError(loading) => {
            std::error::Error::source(loading).map_or_else(|| loading.to_string(), |why| why.to_string())
        }
        other => why(other),
    }
}

fn unavailable(reason: String) -> Error {
    Error::Unavailable {
        what: "NVML".into(),
        reason,
    }
}
