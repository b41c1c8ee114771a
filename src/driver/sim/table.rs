//! The kernels that were compiled in, by name.

use std::ffi::{CStr, c_char};

use super::fiber::{MmaOp, NO_SITE, SelfC};
use crate::abi::TwParams;
use crate::error::{Error, Result};

/// The twin of `TwEntry` in `csrc/machine/sim/table.cc`.
#[repr(C)]
struct Raw {
    name: *const c_char,
    run: unsafe extern "C" fn(*const TwParams),
    threads: u32,
    ctas_per_sm: u32,
}

unsafe extern "C" {
    fn tw_sim_entries(count: *mut u32) -> *const Raw;
    fn tw_sim_self_slot() -> *mut *mut SelfC;
    fn tw_sim_layout(which: u32) -> u32;
}

/// A kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub name: &'static str,
    pub run: unsafe extern "C" fn(*const TwParams),
    /// The most threads a CTA may have.
    pub threads: u32,
    /// CTAs an SM's registers hold, as the kernel promises the compiler.
    pub ctas_per_sm: u32,
}

/// The calling thread's `tw_self`.
pub(super) fn self_slot() -> *mut *mut SelfC {
    // SAFETY: returns the address of a thread-local.
    unsafe { tw_sim_self_slot() }
}

/// Every kernel, or why the compiled machine does not fit this crate.
pub(super) fn entries() -> Result<Vec<Entry>> {
    let expected = [
        size_of::<SelfC>() as u32,
        std::mem::offset_of!(SelfC, wgmma_fenced) as u32,
        size_of::<MmaOp>() as u32,
        NO_SITE,
        size_of::<TwParams>() as u32,
    ];
    for (which, expected) in expected.into_iter().enumerate() {
        // SAFETY: a pure function.
        let seen = unsafe { tw_sim_layout(which as u32) };
        if seen != expected {
            return Err(Error::Unavailable {
                what: "the simulated node".into(),
                reason: format!("its C++ side was built from other headers (layout {which}: {seen}, not {expected})"),
            });
        }
    }
    let mut count = 0;
    // SAFETY: returns a static array of `count` entries with static, NUL-terminated ASCII names.
    let raw = unsafe {
        let first = tw_sim_entries(&mut count);
        std::slice::from_raw_parts(first, count as usize)
    };
    Ok(raw
        .iter()
        .map(|r| Entry {
            // SAFETY: as above.
            name: unsafe { CStr::from_ptr(r.name) }.to_str().unwrap_or("?"),
            run: r.run,
            threads: r.threads,
            ctas_per_sm: r.ctas_per_sm,
        })
        .collect())
}
