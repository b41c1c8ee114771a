//! The fatbin as a `CUlibrary`: its kernels belong to no context, so one handle serves every device and every share.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};

use cudarc::driver::sys;

use super::device::{Facts, Handle};
use crate::abi::TwParams;
use crate::driver::Launch;
use crate::error::{Error, Result};

/// The loaded fatbin.
#[derive(Debug)]
pub(super) struct Kernels {
    library: Handle<sys::CUlib_st>,
    by_name: HashMap<String, Handle<sys::CUkern_st>>,
}

/// Whether machine code for `arch` ("sm_80", "sm_90a", "sm_100f") runs on a GPU: on the same and later minors of its
/// major; with `a` on exactly its own; with `f` on its family, which for 10.0 is 10.0 and 10.3.
pub(super) fn covers(arch: &str, (major, minor): (u32, u32)) -> bool {
    let Some(number) = arch.strip_prefix("sm_") else {
        return false;
    };
    let plain = number.trim_end_matches(['a', 'f']);
    let Ok(built) = plain.parse::<u32>() else { return false };
    let (built_major, built_minor) = (built / 10, built % 10);
    built_major == major
        && if number.ends_with('a') {
            built_minor == minor
        } else {
            built_minor <= minor
        }
}

impl Kernels {
    /// Loads the fatbin. Nothing is copied to a device yet: see [`Kernels::load_in_current`].
    pub(super) fn open(fatbin: &'static [u8]) -> Result<Kernels> {
        let (mut library, none) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (options, values) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the fatbin is a whole one, made by nvcc, and 'static; there are no options.
        unsafe {
            cu!(cuLibraryLoadData(
                &mut library,
                fatbin.as_ptr().cast(),
                none,
                values,
                0,
                options,
                values,
                0
            ))
        }?;
        let mut kernels = Kernels {
            library: Handle(library),
            by_name: HashMap::new(),
        };
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        unsafe { cu!(cuLibraryGetKernelCount(&mut count, library)) }?;
        let mut handles = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: there is room for `count` handles.
        unsafe { cu!(cuLibraryEnumerateKernels(handles.as_mut_ptr(), count, library)) }?;
        for kernel in handles {
            let mut name = std::ptr::null();
            // SAFETY: `name` outlives the call; it is set to a NUL-terminated string that lives as long as the library.
            let name = unsafe {
                cu!(cuKernelGetName(&mut name, kernel))?;
                CStr::from_ptr(name)
            };
            kernels
                .by_name
                .insert(name.to_string_lossy().into_owned(), Handle(kernel));
        }
        Ok(kernels)
    }

    fn get(&self, name: &str) -> Result<Handle<sys::CUkern_st>> {
        self.by_name.get(name).copied().ok_or_else(|| Error::Driver {
            call: "cuLibraryGetKernel",
            code: sys::CUresult::CUDA_ERROR_NOT_FOUND as i64,
            message: format!("no kernel {name} in the fatbin"),
        })
    }

    /// Loads every kernel in the current context, now: the first launch of a lazily loaded kernel may need the device
    /// idle, and an earlier kernel that waits for that launch never lets it be.
    pub(super) fn load_in_current(&self, facts: &Facts) -> Result<()> {
        use sys::CUfunction_attribute_enum as Attribute;
        for kernel in self.by_name.values() {
            let mut fixed = 0;
            let mut function = std::ptr::null_mut();
            // SAFETY: every pointer outlives its call; the kernel belongs to the library, the device is the context's.
            unsafe {
                let shared = Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                cu!(cuKernelGetAttribute(&mut fixed, shared, kernel.0, facts.device))?;
                let dynamic = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                let most = facts.shared_per_cta as i32 - fixed;
                cu!(cuKernelSetAttribute(dynamic, most, kernel.0, facts.device))?;
                // One carveout for all: an SM changes its carveout only when it is idle.
                let carveout = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
                cu!(cuKernelSetAttribute(carveout, 100, kernel.0, facts.device))?;
                cu!(cuKernelGetFunction(&mut function, kernel.0))?;
                cu!(cuFuncLoad(function))?;
            }
        }
        Ok(())
    }

    /// CTAs of a kernel on one SM of the current context.
    pub(super) fn ctas_per_sm(&self, name: &str, launch: Launch) -> Result<u32> {
        let kernel = self.get(name)?;
        let mut ctas = 0;
        let (threads, shared) = (launch.threads as i32, launch.shared as usize);
        // SAFETY: `ctas` outlives the call; a CUkernel may stand where a CUfunction is asked for (cuda.h), and then
        // means the current context.
        unsafe {
            cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut ctas,
                kernel.0.cast(),
                threads,
                shared
            ))?;
        }
        Ok(ctas as u32)
    }

    /// Enqueues a kernel; the stream's context is current.
    pub(super) fn launch(&self, name: &str, launch: Launch, params: &TwParams, stream: sys::CUstream) -> Result<()> {
        let kernel = self.get(name)?;
        let mut arguments = [(&raw const *params).cast_mut().cast::<c_void>()];
        let Launch {
            grid, threads, shared, ..
        } = launch;
        let none = std::ptr::null_mut();
        // SAFETY: every kernel of the fatbin takes exactly one `TwParams` by value (TW_KERNEL), read before the call
        // returns and not written; a CUkernel may stand where a CUfunction is asked for, and then means the stream's
        // context. What the kernel does with the addresses in `params` is the business of who made them.
        unsafe {
            cu!(cuLaunchKernel(
                kernel.0.cast(),
                grid,
                1,
                1,
                threads,
                1,
                1,
                shared,
                stream,
                arguments.as_mut_ptr(),
                none
            ))
        }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        // SAFETY: loaded in `open`, unloaded once; the driver that owned it is gone, so no kernel of it runs.
        let _ = unsafe { cu!(cuLibraryUnload(self.library.0)) };
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn machine_code_runs_on_its_own_kind() {
        for (arch, capability, runs) in [
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_80", (9, 0), false),
            ("sm_86", (8, 0), false),
            ("sm_90a", (9, 0), true),
            ("sm_90", (9, 0), true),
            ("sm_100a", (10, 3), false),
            ("sm_100f", (10, 0), true),
            ("sm_100f", (10, 3), true),
            ("sm_100f", (12, 0), false),
            ("sm_103f", (10, 0), false),
            ("nonsense", (8, 0), false),
        ] {
            assert_eq!(covers(arch, capability), runs, "{arch} on {capability:?}");
        }
    }
}
