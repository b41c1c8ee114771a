//! What every call does: look whether NVML is started, whether the call is refused, whether the handle is one; and write the
//! answer where the caller wants it.

use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nvml_wrapper_sys::bindings as sys;
pub(crate) use sys::nvmlReturn_t as Code;

use crate::snapshot::{Device, Gpu, Snapshot};

pub(crate) const OK: Code = sys::nvmlReturn_enum_NVML_SUCCESS;
pub(crate) const UNINITIALIZED: Code = sys::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED;
pub(crate) const INVALID: Code = sys::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
pub(crate) const NOT_SUPPORTED: Code = sys::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
pub(crate) const NOT_FOUND: Code = sys::nvmlReturn_enum_NVML_ERROR_NOT_FOUND;
pub(crate) const TOO_SHORT: Code = sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
pub(crate) const LOST: Code = sys::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
pub(crate) const VERSION_MISMATCH: Code = sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH;

/// The machine that is served.
pub(crate) struct Machine {
    pub snapshot: Snapshot,
    /// Handles are addresses of none: the index here, and one.
    pub devices: Vec<Device>,
    /// How many of `devices` are GPUs; slices follow.
    pub gpus: usize,
    pub refuses: Vec<String>,
    pub lost: Option<u32>,
    /// Newest version of the fabric's struct.
    pub fabric: u32,
    /// `nvmlInit_v2` calls without their `nvmlShutdown`.
    pub started: usize,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

pub(crate) fn machine() -> MutexGuard<'static, Option<Machine>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one call: `Err` is a code that is no success.
pub(crate) fn answer(call: &str, with: impl FnOnce(&Machine) -> Result<(), Code>) -> Code {
    let machine = machine();
    let Some(machine) = machine.as_ref() else {
        return UNINITIALIZED;
    };
    if machine.refuses.iter().any(|refused| refused == call) {
        return NOT_SUPPORTED;
    }
    with(machine).err().unwrap_or(OK)
}

impl Machine {
    pub(crate) fn device(&self, handle: sys::nvmlDevice_t) -> Result<&Device, Code> {
        handle
            .addr()
            .checked_sub(1)
            .and_then(|index| self.devices.get(index))
            .ok_or(INVALID)
    }

    /// The snapshot's GPU behind a handle; of a divided one the first slice.
    pub(crate) fn gpu(&self, handle: sys::nvmlDevice_t) -> Result<&Gpu, Code> {
        self.device(handle).map(|device| &self.snapshot.gpus[device.gpu()])
    }

    /// A GPU that is there whole, and its index in the snapshot.
    pub(crate) fn whole(&self, handle: sys::nvmlDevice_t) -> Result<(usize, &Gpu), Code> {
        match self.device(handle)? {
            Device::Whole(index) => Ok((*index, &self.snapshot.gpus[*index])),
            _ => Err(NOT_SUPPORTED),
        }
    }

    pub(crate) fn handle(&self, index: usize) -> sys::nvmlDevice_t {
        std::ptr::without_provenance_mut(index + 1)
    }

    pub(crate) fn uuid<'a>(&'a self, device: &'a Device) -> &'a str {
        match device {
            Device::Divided(uuid, _) => uuid,
            whole => &self.snapshot.gpus[whole.gpu()].uuid,
        }
    }
}

/// Writes an answer.
///
/// # Safety
/// `to` is null, or NVML's caller may be given a `T` there.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID);
    }
    // SAFETY: not null, so the caller of this function vouches for it.
    unsafe { to.write(value) };
    Ok(())
}

/// Writes a text with its NUL.
///
/// # Safety
/// `to` is null, or the caller of NVML may be given `room` bytes there.
pub(crate) unsafe fn put_text(to: *mut c_char, room: u32, text: &str) -> Result<(), Code> {
    if to.is_null() {
        return Err(INVALID);
    }
    if text.len() >= room as usize {
        return Err(TOO_SHORT);
    }
    // SAFETY: `room` bytes are there by the caller's word, and the text with its NUL takes no more (checked above).
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}
