//! The functions that are used of NCCL, as nccl.h declares them.
//!
//! A library once used is never unloaded: it has threads of its own, and what the process may have of it besides is not
//! known here. So the functions are valid for good, and the table is plain data.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The oldest version that is used: 2.18.1, that of the first PyTorch for CUDA 12. All that the crate calls is older, and
/// 2.17 is what the configuration it passes says.
pub const OLDEST: u32 = 2_18_01;

/// `ncclResult_t`.
pub(super) type Status = c_int;
/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;
/// `cudaStream_t`, which is the driver's `CUstream`.
pub(super) type Stream = *mut c_void;
pub(super) const SUCCESS: Status = 0;
pub(super) const IN_PROGRESS: Status = 7;
/// `ncclSum` of `ncclRedOp_t`.
pub(super) const SUM: c_int = 0;

/// `ncclUniqueId`: what the ranks of a clique find each other by. Each serves for one clique.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UniqueId(pub [u8; 128]);

/// `ncclConfig_t` as it was in 2.17. It tells its size and version, and later libraries fill up what came after.
#[repr(C)]
pub(super) struct RawConfig {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
}

impl RawConfig {
    /// Calls return at once and are asked after, so that every wait has an end; at most so many CTAs.
    pub(super) fn new(most_ctas: Option<u32>) -> RawConfig {
        const UNDEFINED: c_int = c_int::MIN;
        let most = |ctas: u32| c_int::try_from(ctas.max(1)).unwrap_or(c_int::MAX);
        RawConfig {
            size: size_of::<RawConfig>(),
            magic: 0xcafe_beef,
            version: 2_17_00,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: most_ctas.map_or(UNDEFINED, most),
            net_name: std::ptr::null(),
        }
    }
}

macro_rules! library {
    ($($field:ident: $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        /// The library, present, complete and new enough.
        #[derive(Debug, Clone)]
        #[cfg_attr(
            not(all(feature = "cuda", target_os = "linux")),
            expect(dead_code, reason = "nobody asks for the version of a library that cannot be opened")
        )]
        pub struct Library {
            /// 10000 * major + 100 * minor + patch.
            version: u32,
            /// What it was opened as.
            name: String,
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        #[cfg(all(feature = "cuda", target_os = "linux"))]
        impl Library {
            /// Takes the functions out of `library`, which then stays; `name` is for words.
            pub(super) fn complete(library: libloading::os::unix::Library, name: String) -> Result<Library, String> {
                $(
                    // SAFETY: nccl.h declares the function with exactly this type, and the library stays loaded: it is
                    // forgotten below, and where this returns early the pointer goes with it.
                    let $field = *unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol.as_bytes()) }
                        .map_err(|_| format!("it lacks {}", $symbol))?;
                )*
                let mut found = Library { version: 0, name, $($field),* };
                found.version = found.ask_version()?;
                std::mem::forget(library);
                Ok(found)
            }
        }
    };
}

library! {
    get_version: "ncclGetVersion" (*mut c_int) -> Status;
    get_unique_id: "ncclGetUniqueId" (*mut UniqueId) -> Status;
    comm_init: "ncclCommInitRankConfig" (*mut Comm, c_int, UniqueId, c_int, *mut RawConfig) -> Status;
    comm_async_error: "ncclCommGetAsyncError" (Comm, *mut Status) -> Status;
    comm_finalize: "ncclCommFinalize" (Comm) -> Status;
    comm_destroy: "ncclCommDestroy" (Comm) -> Status;
    comm_abort: "ncclCommAbort" (Comm) -> Status;
    group_start: "ncclGroupStart" () -> Status;
    group_end: "ncclGroupEnd" () -> Status;
    all_reduce: "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
    reduce_scatter: "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
    all_gather: "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Status;
    reduce: "ncclReduce" (*const c_void, *mut c_void, usize, c_int, c_int, c_int, Comm, Stream) -> Status;
    broadcast: "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
    error_string: "ncclGetErrorString" (Status) -> *const c_char;
    last_error: "ncclGetLastError" (Comm) -> *const c_char;
}

/// A version as people write it.
pub(super) fn dotted(version: u32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// That there is no NCCL, and why.
pub(super) fn unavailable(reason: impl Into<String>) -> Error {
    Error::Unavailable {
        what: "NCCL".into(),
        reason: reason.into(),
    }
}

impl Library {
    /// The first that can be used, in the order of `docs/nccl.md`: `TILEWEAVE_NCCL`, what the process has loaded already,
    /// what the loader finds, the wheels of Python's environments.
    ///
    /// # Errors
    /// [`Error::Unavailable`] lists what was tried, and what was wrong with each.
    pub fn find() -> Result<Arc<Library>> {
        #[cfg(all(feature = "cuda", target_os = "linux"))]
        return super::search::find(|name| std::env::var_os(name)).map(Arc::new);
        #[cfg(not(all(feature = "cuda", target_os = "linux")))]
        Err(unavailable(
            "this build has no CUDA: it takes Linux and the feature `cuda`",
        ))
    }

    /// The one at this path, or of this name where the loader looks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it is absent, incomplete or too old.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    pub fn open(name: &std::ffi::OsStr) -> Result<Arc<Library>> {
        let found = super::search::open(name).map(Arc::new);
        found.map_err(|reason| unavailable(format!("{}: {reason}", name.to_string_lossy())))
    }

    #[cfg(all(feature = "cuda", target_os = "linux"))]
    fn ask_version(&self) -> Result<u32, String> {
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        let status = unsafe { (self.get_version)(&mut version) };
        self.check("ncclGetVersion", status)
            .map_err(|error| error.to_string())?;
        let version = u32::try_from(version).unwrap_or(0);
        if version < OLDEST {
            let (have, need) = (dotted(version), dotted(OLDEST));
            return Err(format!("it is NCCL {have}, and {need} or later is needed"));
        }
        Ok(version)
    }

    /// 10000 * major + 100 * minor + patch, as `NCCL_VERSION_CODE`.
    pub fn code(&self) -> u32 {
        self.version
    }

    /// Its version, for people.
    pub fn version(&self) -> String {
        dotted(self.version)
    }

    /// What it was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new id, for one clique: one rank mints it, and all others are told.
    ///
    /// # Errors
    /// [`Error::Driver`] in NCCL's words.
    pub fn unique_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: `id` outlives the call.
        self.check("ncclGetUniqueId", unsafe { (self.get_unique_id)(&mut id) })?;
        Ok(id)
    }

    /// What a status means, in NCCL's words. Under way is not a failure.
    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if matches!(status, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: both take any value (the last error is the process's, so no communicator is named) and return null or a
        // string that ends with a zero and lies in the library's own memory for good; a failure on another thread may change
        // the second one's text meanwhile, never its end.
        let texts = unsafe {
            [(self.error_string)(status), (self.last_error)(std::ptr::null_mut())]
                .map(|text| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().trim().to_string()))
        };
        let words: Vec<String> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        Err(Error::Driver {
            call,
            code: status.into(),
            message: words.join(": ").replace('\n', " "),
        })
    }
}
