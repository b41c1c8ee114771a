//! What every call does: catch what must not cross the C boundary, turn a failure into CUDA's code, read and write what
//! callers point to.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use cudarc::driver::sys;
use tileweave::Error;

/// CUDA's code of a failure, or of success.
pub(crate) type Code = sys::CUresult;
pub(crate) type Answer<T = ()> = Result<T, Code>;

pub(crate) const INVALID: Code = Code::CUDA_ERROR_INVALID_VALUE;
pub(crate) const BAD_HANDLE: Code = Code::CUDA_ERROR_INVALID_HANDLE;
pub(crate) const NO_CONTEXT: Code = Code::CUDA_ERROR_INVALID_CONTEXT;
pub(crate) const UNSUPPORTED: Code = Code::CUDA_ERROR_NOT_SUPPORTED;
pub(crate) const NOT_FOUND: Code = Code::CUDA_ERROR_NOT_FOUND;
pub(crate) const NOT_READY: Code = Code::CUDA_ERROR_NOT_READY;

/// Set to anything, it makes every refused call tell why on the standard error stream: codes alone tell little.
const TELL: &str = "TILEWEAVE_STAND_IN_TELL";

/// Exports calls of the driver library. Their bodies are [`Answer`]s.
macro_rules! calls {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        // SAFETY: nothing else in a process that loads this library instead of libcuda.so has this name.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> $crate::answer::Code {
            $crate::answer::answer(stringify!($name), move || $body)
        }
    )*};
}

/// Answers one call.
pub(crate) fn answer(call: &str, body: impl FnOnce() -> Answer) -> Code {
    // State that a panic leaves half changed is a bug of this library alone, and panics are, too.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Code::CUDA_SUCCESS,
        Ok(Err(code)) => {
            if code != NOT_READY && std::env::var_os(TELL).is_some() {
                eprintln!("stand-in: {call} answers {code:?}");
            }
            code
        }
        Err(_) => Code::CUDA_ERROR_UNKNOWN,
    }
}

/// CUDA's code for what the simulated node says.
pub(crate) fn code_of(error: Error) -> Code {
    static REPORT: Once = Once::new();
    match &error {
        // A driver says such things in the system's log. Nothing else of it can be reached by a code.
        Error::Simulator { report } => REPORT.call_once(|| eprintln!("stand-in: the simulated node stopped: {report}")),
        _ if std::env::var_os(TELL).is_some() => eprintln!("stand-in: {error}"),
        _ => {}
    }
    match error {
        Error::BadArgument { name, expected, .. } => match name.as_str() {
            "bytes" if expected.starts_with("what fits") => Code::CUDA_ERROR_OUT_OF_MEMORY,
            "stream" | "event" | "graph" | "executable graph" => BAD_HANDLE,
            _ => INVALID,
        },
        Error::Driver { code, .. } => match code {
            401 => Code::CUDA_ERROR_ILLEGAL_STATE,
            900 => Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            901 => Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            905 => Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
            907 => Code::CUDA_ERROR_CAPTURED_EVENT,
            908 => Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
            // The system gave no pages, addresses or descriptors.
            _ => Code::CUDA_ERROR_OUT_OF_MEMORY,
        },
        Error::Simulator { .. } => Code::CUDA_ERROR_LAUNCH_FAILED,
        Error::Unavailable { .. } => UNSUPPORTED,
        _ => Code::CUDA_ERROR_UNKNOWN,
    }
}

/// Where a caller wants something written: null, or a place for a `T`. Callers of the C functions alone make one, and
/// that is the contract that cuda.h has with them.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Of a caller's pointer whose type another argument tells.
    pub(crate) fn at(untyped: *mut std::ffi::c_void) -> Out<T> {
        Out(untyped.cast())
    }

    pub(crate) fn put(&self, value: T) -> Answer {
        self.put_at(0, value)
    }

    pub(crate) fn put_at(&self, index: usize, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so the caller of the C function vouches for the place, and for as many as he was told are
        // written.
        unsafe { self.0.add(index).write(value) };
        Ok(())
    }

    /// For calls that let null stand for "not wanted".
    pub(crate) fn put_if_wanted(&self, value: T) {
        let _ = self.put(value);
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn addr(&self) -> usize {
        self.0.addr()
    }
}

impl<T: Copy> Out<T> {
    /// What is there now, where the call reads and writes.
    pub(crate) fn get(&self) -> Answer<T> {
        In(self.0.cast_const()).get()
    }
}

/// What a caller has for a call: null, or a `T`, or as many as the call's count says. As [`Out`], made by callers of
/// the C functions alone.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    pub(crate) fn get(&self) -> Answer<T> {
        self.at(0)
    }

    pub(crate) fn at(&self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so the caller of the C function vouches for what is there. It need not be aligned as the
        // type of the bindings is.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// The first of them, with `count` of them there.
    pub(crate) fn all(&self, count: usize) -> Answer<Vec<T>> {
        (0..count).map(|index| self.at(index)).collect()
    }

    pub(crate) fn addr(&self) -> usize {
        self.0.addr()
    }

    pub(crate) fn cast<U>(&self) -> In<U> {
        In(self.0.cast())
    }
}

impl In<u8> {
    /// `bytes` of them as a slice, for as long as the call lasts.
    pub(crate) fn bytes(&self, bytes: usize) -> Answer<&[u8]> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: not null, so the caller of the C function vouches for `bytes` bytes during the call. A program that
        // changes them meanwhile has a race with the copy that it asked for.
        Ok(unsafe { std::slice::from_raw_parts(self.0, bytes) })
    }
}

impl Out<u8> {
    /// `bytes` of them as a slice to be written, for as long as the call lasts.
    pub(crate) fn bytes_mut(&mut self, bytes: usize) -> Answer<&mut [u8]> {
        if self.0.is_null() {
            return Err(INVALID);
        }
        // SAFETY: as in `In::bytes`. Bytes that were never written are written before they are read: the node fills them.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0, bytes) })
    }
}
