//! The driver library, looked at before it is used: cudarc resolves each symbol at its first call and panics where the
//! library or the symbol is missing, so both are checked here, once.

use std::ffi::CStr;

use cudarc::driver::sys;

use crate::error::{Error, Result};

/// What the loader is asked for, in cudarc's order, so that it is the same library.
#[cfg(not(windows))]
const NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];
#[cfg(windows)]
const NAMES: [&str; 1] = ["nvcuda.dll"];

/// The oldest driver: `cuGreenCtxStreamCreate` came with CUDA 12.5.
const OLDEST: i32 = 12050;

/// Every symbol that this driver calls. A test compares the list with the sources.
pub(super) const SYMBOLS: [&str; 77] = [
    "cuCtxFromGreenCtx",
    "cuCtxGetDevice",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDevResourceGenerateDesc",
    "cuDevSmResourceSplitByCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDevResource",
    "cuDeviceGetName",
    "cuDeviceGetP2PAttribute",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuFuncLoad",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuGreenCtxCreate",
    "cuGreenCtxDestroy",
    "cuGreenCtxStreamCreate",
    "cuInit",
    "cuKernelGetAttribute",
    "cuKernelGetFunction",
    "cuKernelGetName",
    "cuKernelSetAttribute",
    "cuLaunchKernelEx",
    "cuLibraryEnumerateKernels",
    "cuLibraryGetKernelCount",
    "cuLibraryLoadData",
    "cuLibraryUnload",
    "cuMemAddressFree",
    "cuMemAddressReserve",
    "cuMemAllocFromPoolAsync",
    "cuMemCreate",
    "cuMemExportToShareableHandle",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemGetAllocationGranularity",
    "cuMemGetAllocationPropertiesFromHandle",
    "cuMemHostAlloc",
    "cuMemImportFromShareableHandle",
    "cuMemMap",
    "cuMemPoolCreate",
    "cuMemPoolDestroy",
    "cuMemPoolSetAttribute",
    "cuMemRelease",
    "cuMemSetAccess",
    "cuMemUnmap",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuOccupancyMaxActiveClusters",
    "cuPointerGetAttribute",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuTensorMapEncodeTiled",
];

/// Without these there are no multicast objects, and everything else is as it was.
pub(super) const MULTICAST_SYMBOLS: [&str; 5] = [
    "cuMulticastAddDevice",
    "cuMulticastBindMem",
    "cuMulticastCreate",
    "cuMulticastGetGranularity",
    "cuMulticastUnbind",
];

type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

/// The library, present and complete.
pub(super) struct Library {
    /// cudarc has this symbol only for CUDA 12, and `_v2` only for drivers of 12.8 and later; every driver has this one.
    pub(super) elapsed_time: ElapsedTime,
    /// CUDA version of the driver: 1000 * major + 10 * minor.
    pub(super) version: i32,
    /// Whether all of [`MULTICAST_SYMBOLS`] are there.
    pub(super) multicast: bool,
    // Keeps `elapsed_time` valid.
    _library: libloading::Library,
}

/// Finds the library, checks its symbols and version, and initialises it.
pub(super) fn open() -> Result<Library> {
    let mut tried = Vec::new();
    for name in NAMES {
        // SAFETY: loading runs the library's initialisers; these names belong to NVIDIA's driver, whose initialisers may
        // run at any time on any thread.
        match unsafe { libloading::Library::new(name) } {
            Ok(library) => return check_library(library, name),
            Err(e) => tried.push(std::error::Error::source(&e).map_or(e.to_string(), |why| why.to_string())),
        }
    }
    Err(unavailable(format!(
        "the driver library was not found; looked for {} ({})",
        NAMES.join(", "),
        tried.join("; ")
    )))
}

fn check_library(library: libloading::Library, name: &str) -> Result<Library> {
    // SAFETY: the pointer is not used, so its type does not matter.
    let has = |symbol: &str| unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_ok();
    let multicast = MULTICAST_SYMBOLS.into_iter().all(has);
    for symbol in SYMBOLS {
        if !has(symbol) {
            return Err(unavailable(format!(
                "{name} lacks {symbol}: a driver of CUDA 12.5 or later is needed"
            )));
        }
    }
    // SAFETY: cuda.h declares cuEventElapsedTime with exactly this type.
    let elapsed_time = *unsafe { library.get::<ElapsedTime>(b"cuEventElapsedTime") }
        .map_err(|e| unavailable(format!("{name} lacks cuEventElapsedTime: {e}")))?;
    let mut version = 0;
    // SAFETY: `version` outlives the call. The symbol is there (checked above).
    unsafe { cu!(cuDriverGetVersion(&mut version)) }?;
    if version < OLDEST {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(unavailable(format!(
            "the driver supports CUDA {major}.{minor}: 12.5 or later is needed"
        )));
    }
    // SAFETY: 0 is the only flag there is. The symbol is there (checked above).
    unsafe { cu!(cuInit(0)) }.map_err(|e| unavailable(format!("no GPU is usable: {e}")))?;
    Ok(Library {
        elapsed_time,
        version,
        multicast,
        _library: library,
    })
}

pub(super) fn unavailable(reason: String) -> Error {
    Error::Unavailable {
        what: "CUDA".into(),
        reason,
    }
}

/// Maps a driver call's result.
pub(super) fn check(call: &'static str, code: sys::CUresult) -> Result<()> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: `text` outlives the call; any code is allowed.
    let known = unsafe { sys::cuGetErrorString(code, &mut text) } == sys::CUresult::CUDA_SUCCESS && !text.is_null();
    let message = if known {
        // SAFETY: on success `text` points to a NUL-terminated string that lives as long as the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    } else {
        format!("{code:?}")
    };
    Err(Error::Driver {
        call,
        code: code as i64,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::{MULTICAST_SYMBOLS, SYMBOLS};

    #[test]
    fn every_symbol_that_is_called_is_checked_first() {
        let sources = [
            include_str!("calls.rs"),
            include_str!("copies.rs"),
            include_str!("device.rs"),
            include_str!("graphs.rs"),
            include_str!("host_words.rs"),
            include_str!("identity.rs"),
            include_str!("imports.rs"),
            include_str!("kernels.rs"),
            include_str!("library.rs"),
            include_str!("mod.rs"),
            include_str!("multicast.rs"),
            include_str!("shares.rs"),
            include_str!("tensor_map.rs"),
            include_str!("virtual_memory.rs"),
            include_str!("wait.rs"),
        ];
        let mut called = vec!["cuEventElapsedTime".to_string()];
        for source in sources {
            for opening in ["cu!(", "sys::"] {
                for (at, _) in source.match_indices(opening) {
                    let rest = &source[at + opening.len()..];
                    let name: String = rest
                        .chars()
                        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                        .collect();
                    if name.starts_with("cu") {
                        called.push(name);
                    }
                }
            }
        }
        called.sort();
        called.dedup();
        let mut checked: Vec<_> = SYMBOLS.into_iter().chain(MULTICAST_SYMBOLS).collect();
        checked.sort_unstable();
        assert_eq!(called, checked);
    }
}
