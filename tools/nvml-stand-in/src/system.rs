//! Starting, ending, and what concerns the machine as a whole.

use std::ffi::{CStr, c_char, c_int, c_uint};

use crate::answer::{Code, INVALID, Machine, OK, UNINITIALIZED, answer, machine, put, put_text};
use crate::snapshot::Snapshot;

const UNKNOWN: Code = nvml_wrapper_sys::bindings::nvmlReturn_enum_NVML_ERROR_UNKNOWN;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn start() -> Result<Machine, Code> {
    if let Some(code) = variable("TILEWEAVE_STAND_IN_INIT") {
        return Err(code.parse().unwrap_or(UNKNOWN));
    }
    let path = variable("TILEWEAVE_STAND_IN_SNAPSHOT").ok_or(UNKNOWN)?;
    let text = std::fs::read_to_string(path).map_err(|_| UNKNOWN)?;
    let snapshot: Snapshot = serde_json::from_str(&text).map_err(|_| UNKNOWN)?;
    let (gpus, devices) = snapshot.devices();
    Ok(Machine {
        snapshot,
        devices,
        gpus,
        refuses: variable("TILEWEAVE_STAND_IN_REFUSES")
            .map_or_else(Vec::new, |names| names.split(',').map(String::from).collect()),
        lost: variable("TILEWEAVE_STAND_IN_LOST").and_then(|index| index.parse().ok()),
        fabric: variable("TILEWEAVE_STAND_IN_FABRIC")
            .and_then(|version| version.parse().ok())
            .unwrap_or(3),
        started: 0,
    })
}

/// NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    let mut machine = machine();
    if machine.is_none() {
        match start() {
            Ok(started) => *machine = Some(started),
            Err(code) => return code,
        }
    }
    if let Some(machine) = machine.as_mut() {
        machine.started += 1;
    }
    OK
}

/// NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    let mut machine = machine();
    let Some(there) = machine.as_mut() else {
        return UNINITIALIZED;
    };
    there.started -= 1;
    if there.started == 0 {
        *machine = None;
    }
    OK
}

/// NVML's.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(_code: Code) -> *const c_char {
    c"an error of the stand-in".as_ptr()
}

/// NVML's.
///
/// # Safety
/// `version` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Code {
    // SAFETY: the caller's word.
    answer("nvmlSystemGetDriverVersion", |m| unsafe {
        put_text(version, length, &m.snapshot.driver)
    })
}

/// NVML's.
///
/// # Safety
/// `version` is null or points to an integer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Code {
    answer("nvmlSystemGetCudaDriverVersion_v2", |m| {
        let (major, minor) = m.snapshot.cuda.ok_or(UNKNOWN)?;
        // SAFETY: the caller's word.
        unsafe { put(version, (major * 1000 + minor * 10) as c_int) }
    })
}

/// A text of the caller's.
///
/// # Safety
/// `text` is null or a string with its NUL.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Code> {
    if text.is_null() {
        return Err(INVALID);
    }
    // SAFETY: not null, so it is a string by the caller's word.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| INVALID)
}
