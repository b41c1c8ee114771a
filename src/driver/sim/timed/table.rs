//! The kernels as they were compiled for the timed machine, by name.

use std::ffi::{CStr, c_char};

use super::super::table::Entry;
use super::self_c::WarpC;
use crate::abi::TwParams;

/// The twin of `TwTimedEntry` in `csrc/machine/timed/table.cc`.
#[repr(C)]
struct Raw {
    name: *const c_char,
    run: unsafe extern "C" fn(*const TwParams),
    threads: u32,
    ctas_per_sm: u32,
}

unsafe extern "C" {
    fn tw_timed_entries(count: *mut u32) -> *const Raw;
    fn tw_timed_self_slot() -> *mut *mut WarpC;
}

/// The calling thread's `tw_timed_self`.
pub(super) fn self_slot() -> *mut *mut WarpC {
    // SAFETY: returns the address of a thread-local.
    unsafe { tw_timed_self_slot() }
}

/// Every kernel.
pub(in super::super) fn entries() -> Vec<Entry> {
    let mut count = 0;
    // SAFETY: returns a static array of `count` entries with static, NUL-terminated ASCII names.
    let raw = unsafe {
        let first = tw_timed_entries(&mut count);
        std::slice::from_raw_parts(first, count as usize)
    };
    raw.iter()
        .map(|r| Entry {
            // SAFETY: as above.
            name: unsafe { CStr::from_ptr(r.name) }.to_str().unwrap_or("?"),
            run: r.run,
            threads: r.threads,
            ctas_per_sm: r.ctas_per_sm,
        })
        .collect()
}
