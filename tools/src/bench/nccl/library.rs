//! The library and the functions that are used of it, as nccl.h of NCCL 2.30 declares them.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};

/// The name that NCCL's packages give it; the name without the 2 is there for linkers only.
const NAME: &str = "libnccl.so.2";
/// Has to be 1.
const VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// 10000 * major + 100 * minor + patch: the first that takes several ranks on one GPU.
const OLDEST: c_int = 2_30_00;

/// `ncclResult_t`.
pub type Status = c_int;
/// `ncclComm_t`.
pub type Comm = *mut c_void;
/// `cudaStream_t`, which is the driver's `CUstream`.
pub type Stream = *mut c_void;
pub const SUCCESS: Status = 0;
pub const IN_PROGRESS: Status = 7;
/// `ncclBfloat16` of `ncclDataType_t`.
pub const BF16: c_int = 9;
/// `ncclSum` of `ncclRedOp_t`.
pub const SUM: c_int = 0;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [c_char; 128]);

/// `ncclConfig_t` as it was in 2.17. It tells its size and version, and later libraries fill up what came after.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
}

impl Config {
    /// Calls return at once and are asked after, so that every wait has an end; at most so many CTAs.
    pub fn new(most_ctas: u32) -> Config {
        const UNDEFINED: c_int = c_int::MIN;
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 2_17_00,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: c_int::try_from(most_ctas.max(1)).unwrap_or(c_int::MAX),
            net_name: std::ptr::null(),
        }
    }
}

macro_rules! library {
    ($($field:ident: $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        /// The library, present, complete and new enough.
        #[derive(Debug)]
        pub struct Library {
            /// 10000 * major + 100 * minor + patch.
            pub version: c_int,
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            // Keeps the functions valid.
            _library: libloading::Library,
        }

        impl Library {
            fn complete(library: libloading::Library, name: &str) -> Result<Library, String> {
                $(
                    // SAFETY: nccl.h declares the function with exactly this type; the pointer is kept together with the
                    // library.
                    let $field = *unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol.as_bytes()) }
                        .map_err(|_| format!("{name} lacks {}", $symbol))?;
                )*
                Ok(Library { version: 0, $($field,)* _library: library })
            }
        }
    };
}

library! {
    get_version: "ncclGetVersion" (*mut c_int) -> Status;
    get_unique_id: "ncclGetUniqueId" (*mut UniqueId) -> Status;
    comm_init: "ncclCommInitRankConfig" (*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Status;
    comm_async_error: "ncclCommGetAsyncError" (Comm, *mut Status) -> Status;
    comm_finalize: "ncclCommFinalize" (Comm) -> Status;
    comm_destroy: "ncclCommDestroy" (Comm) -> Status;
    comm_abort: "ncclCommAbort" (Comm) -> Status;
    group_start: "ncclGroupStart" () -> Status;
    group_end: "ncclGroupEnd" () -> Status;
    all_reduce: "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
    reduce_scatter: "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Status;
    all_gather: "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Status;
    error_string: "ncclGetErrorString" (Status) -> *const c_char;
    last_error: "ncclGetLastError" (Comm) -> *const c_char;
}

fn dotted(version: c_int) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

impl Library {
    /// The one that the loader finds, or why there is none to be used.
    pub fn open() -> Result<Library, String> {
        Library::of(OsStr::new(NAME), std::env::var(VARIABLE).ok().as_deref())
    }

    /// The one of this name or path, where the variable has this value.
    pub fn of(name: &OsStr, variable: Option<&str>) -> Result<Library, String> {
        let shown = name.to_string_lossy();
        // SAFETY: loading runs the library's initialisers; a library of this name is NVIDIA's, whose initialisers may run at
        // any time on any thread.
        let library = unsafe { libloading::Library::new(name) }.map_err(|error| {
            let why = std::error::Error::source(&error).map_or(error.to_string(), |why| why.to_string());
            format!("{shown} was not found where the loader looks (LD_LIBRARY_PATH, ld.so.conf): {why}")
        })?;
        let mut library = Library::complete(library, &shown)?;
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        let status = unsafe { (library.get_version)(&mut version) };
        library.check("ncclGetVersion", status)?;
        library.version = version;
        if version < OLDEST {
            return Err(format!(
                "several ranks on one GPU need NCCL 2.30 or later; {shown} is {}",
                dotted(version)
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

    /// Its version, for people.
    pub fn version(&self) -> String {
        dotted(self.version)
    }

    /// What a status means, in NCCL's words. Under way is not a failure.
    pub fn check(&self, call: &str, status: Status) -> Result<(), String> {
        if matches!(status, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: both take any value (the last error is the process's, so no communicator is named) and return null or a string of
        // the library's that is there until NCCL's next failure, of which this thread makes none meanwhile.
        let texts = unsafe {
            [(self.error_string)(status), (self.last_error)(std::ptr::null_mut())]
                .map(|text| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().trim().to_string()))
        };
        let words: Vec<String> = texts.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        Err(format!(
            "{call} failed with {status}: {}",
            words.join(": ").replace('\n', " ")
        ))
    }
}
