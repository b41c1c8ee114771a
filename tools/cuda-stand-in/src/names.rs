//! Names and texts of codes.

use std::ffi::{CStr, c_char};

use cudarc::driver::sys;

use crate::answer::{Answer, Out};

macro_rules! codes {
    ($($name:ident: $text:literal),* $(,)?) => {
        /// Name and text of a code that this library gives.
        fn known(code: u32) -> Option<(&'static CStr, &'static CStr)> {
            // Both with their NUL.
            let of = |name: &'static str, text: &'static str| {
                Some((CStr::from_bytes_with_nul(name.as_bytes()).ok()?, CStr::from_bytes_with_nul(text.as_bytes()).ok()?))
            };
            match code {
                $(x if x == sys::CUresult::$name as u32 => of(concat!(stringify!($name), "\0"), concat!($text, "\0")),)*
                _ => None,
            }
        }
    };
}

codes!(
    CUDA_SUCCESS: "no error",
    CUDA_ERROR_INVALID_VALUE: "invalid argument",
    CUDA_ERROR_OUT_OF_MEMORY: "out of memory",
    CUDA_ERROR_NOT_INITIALIZED: "initialization error",
    CUDA_ERROR_NO_DEVICE: "no CUDA-capable device is detected",
    CUDA_ERROR_INVALID_DEVICE: "invalid device ordinal",
    CUDA_ERROR_INVALID_CONTEXT: "invalid device context",
    CUDA_ERROR_INVALID_HANDLE: "invalid resource handle",
    CUDA_ERROR_ILLEGAL_STATE: "the operation cannot be performed in the present state",
    CUDA_ERROR_NOT_FOUND: "named symbol not found",
    CUDA_ERROR_NOT_READY: "device not ready",
    CUDA_ERROR_CONTEXT_IS_DESTROYED: "context is destroyed",
    CUDA_ERROR_LAUNCH_FAILED: "unspecified launch failure (the simulated node stopped; it has printed why)",
    CUDA_ERROR_NOT_SUPPORTED: "operation not supported",
    CUDA_ERROR_SYSTEM_NOT_READY: "system not yet initialized",
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: "operation not permitted when stream is capturing",
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: "operation failed due to a previous error during capture",
    CUDA_ERROR_STREAM_CAPTURE_ISOLATION: "dependency created on uncaptured work in another stream",
    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT: "operation would make the legacy stream depend on a capturing blocking stream",
    CUDA_ERROR_CAPTURED_EVENT: "operation not permitted on an event last recorded in a capturing stream",
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD: "attempt to terminate a thread-local capture sequence from another thread",
    CUDA_ERROR_INVALID_RESOURCE_TYPE: "invalid resource type",
    CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION: "invalid resource configuration",
    CUDA_ERROR_UNKNOWN: "unknown error",
);

fn put(to: &Out<*const c_char>, text: Option<&'static CStr>) -> Answer {
    match text {
        Some(text) => to.put(text.as_ptr()),
        None => {
            to.put_if_wanted(std::ptr::null());
            Err(crate::answer::INVALID)
        }
    }
}

calls! {
    fn cuGetErrorName(code: u32, name: Out<*const c_char>) {
        put(&name, known(code).map(|(name, _)| name))
    }

    fn cuGetErrorString(code: u32, text: Out<*const c_char>) {
        put(&text, known(code).map(|(_, text)| text))
    }
}
