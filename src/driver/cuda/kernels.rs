//! The fatbin as a `CUlibrary`: its kernels belong to no context, so one handle serves every device and every share.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};

use cudarc::driver::sys;

use super::device::{Facts, Handle};
use crate::abi::TwParams;
use crate::driver::Launch;
use crate::error::{Error, Result};

/// What the names of kernels end with that only Hopper has.
const HOPPER_SUFFIX: &str = "_sm90";

/// The loaded fatbin.
#[derive(Debug)]
pub(super) struct Kernels {
    library: Handle<sys::CUlib_st>,
    by_name: HashMap<String, Handle<sys::CUkern_st>>,
}

/// "sm_90a" and "compute_80" as numbers, letter, and whether it is PTX.
fn parse(arch: &str) -> Option<((u32, u32), Option<char>, bool)> {
    let (name, ptx) = match arch.strip_prefix("sm_") {
        Some(name) => (name, false),
        None => (arch.strip_prefix("compute_")?, true),
    };
    let plain = name.trim_end_matches(['a', 'f']);
    let number = plain.parse::<u32>().ok()?;
    Some(((number / 10, number % 10), name[plain.len()..].chars().next(), ptx))
}

/// Whether what was built for `arch` runs on a GPU. Machine code ("sm_80", "sm_90a", "sm_100f"): on the same and later
/// minors of its major; with `a` on exactly its own; with `f` on its family, which for 10.0 is 10.0 and 10.3. PTX
/// ("compute_80"): on its own and all later ones, for which the driver compiles it when it loads the fatbin.
pub(super) fn covers(arch: &str, capability: (u32, u32)) -> bool {
    match parse(arch) {
        Some((built, Some('a'), _)) => built == capability,
        Some((built, None, true)) => built <= capability,
        Some((built, ..)) => built.0 == capability.0 && built.1 <= capability.1,
        None => false,
    }
}

/// Whether the kernels that a GPU gets of `archs` add in the switch: those for 9.0 and later do
/// (`csrc/machine/cuda/types.h`), PTX of earlier ones does not, whatever the GPU.
pub(super) fn has_multimem(archs: &[&str], capability: (u32, u32)) -> bool {
    let adds = |arch: &str| parse(arch).is_some_and(|(built, ..)| built >= (9, 0));
    archs.iter().any(|arch| adds(arch) && covers(arch, capability))
}

/// Whether a GPU runs Hopper's kernels, if `archs` were built. PTX has none of them: wgmma is not portable.
pub(super) fn has_hopper(archs: &[&str], capability: (u32, u32)) -> bool {
    capability == (9, 0) && archs.contains(&"sm_90a")
}

/// Whether a kernel is in the machine code for GPUs of a compute capability: entry points of `TW_HOPPER_KERNEL` (their
/// names end so: `csrc/kernels/entries.h`) are in sm_90a's alone.
fn exists(name: &str, capability: (u32, u32)) -> bool {
    !name.ends_with(HOPPER_SUFFIX) || capability == (9, 0)
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
        // The library enumerates every kernel of the fatbin, also those that this device has no code for.
        let here = self.by_name.iter().filter(|(name, _)| exists(name, facts.capability));
        for (_, kernel) in here {
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

    /// Clusters of a kernel that run at once in the current context.
    pub(super) fn resident_clusters(&self, name: &str, launch: Launch) -> Result<u32> {
        let kernel = self.get(name)?;
        let mut clusters = 0;
        let mut size = cluster_size(launch.cluster);
        let one = Launch {
            grid: launch.cluster,
            ..launch
        };
        let config = config(one, std::ptr::null_mut(), &mut size);
        // SAFETY: `clusters`, `config` and the attribute that it points to outlive the call; a CUkernel may stand where a
        // CUfunction is asked for (cuda.h), and then, without a stream, means the current context.
        unsafe { cu!(cuOccupancyMaxActiveClusters(&mut clusters, kernel.0.cast(), &config)) }?;
        Ok(clusters as u32)
    }

    /// Enqueues a kernel; the stream's context is current. Clusters are an attribute of the launch: no kernel fixes a size
    /// (`__cluster_dims__`), so that one entry point serves both with and without.
    pub(super) fn launch(&self, name: &str, launch: Launch, params: &TwParams, stream: sys::CUstream) -> Result<()> {
        let kernel = self.get(name)?;
        let Launch { grid, cluster, .. } = launch;
        if cluster == 0 || !grid.is_multiple_of(cluster) {
            let expected = format!("a divisor of the grid's {grid} CTAs");
            return Err(Error::bad_argument("the size of a cluster", cluster, expected));
        }
        let mut arguments = [(&raw const *params).cast_mut().cast::<c_void>()];
        let mut size = cluster_size(cluster);
        let config = config(launch, stream, &mut size);
        // SAFETY: `config` and the attribute that it points to outlive the call. Every kernel of the fatbin takes exactly
        // one `TwParams` by value (TW_KERNEL), read before the call returns and not written; a CUkernel may stand where a
        // CUfunction is asked for, and then means the stream's context. What the kernel does with the addresses in
        // `params` is the business of who made them.
        unsafe {
            cu!(cuLaunchKernelEx(
                &config,
                kernel.0.cast(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut()
            ))
        }
    }
}

/// The attribute of a launch that makes clusters.
fn cluster_size(cluster: u32) -> sys::CUlaunchAttribute {
    let mut size = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { pad: [0; 64] },
    };
    size.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: cluster, y: 1, z: 1 };
    size
}

/// What the driver is told of a launch. It points to `size`, and is good as long as that is.
fn config(launch: Launch, stream: sys::CUstream, size: &mut sys::CUlaunchAttribute) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: launch.grid,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared,
        hStream: stream,
        attrs: size,
        // A GPU without clusters refuses the attribute, whatever the size.
        numAttrs: u32::from(launch.cluster > 1),
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
    use super::{covers, exists, has_hopper, has_multimem};

    #[test]
    fn hopper_kernels_exist_on_hopper() {
        for (name, capability, there) in [
            ("gemm_bf16_64", (8, 0), true),
            ("gemm_bf16_sm90", (9, 0), true),
            ("gemm_bf16_sm90", (8, 9), false),
            ("gemm_bf16_sm90", (10, 0), false),
        ] {
            assert_eq!(exists(name, capability), there, "{name} on {capability:?}");
        }
    }

    #[test]
    fn hopper_without_its_machine_code_is_a_gpu_like_others() {
        for (archs, capability, has) in [
            (&["sm_80", "sm_90a"][..], (9, 0), true),
            (&["sm_80", "sm_90a"], (8, 0), false),
            (&["sm_80", "compute_80"], (9, 0), false),
            (&["sm_90"], (9, 0), false),
            (&["sm_90a", "compute_80"], (10, 0), false),
        ] {
            assert_eq!(has_hopper(archs, capability), has, "{archs:?} on {capability:?}");
        }
    }

    #[test]
    fn portable_ptx_does_not_add_in_the_switch() {
        for (archs, capability, has) in [
            (&["sm_80", "compute_80", "sm_90a"][..], (9, 0), true),
            (&["sm_100f", "compute_80"], (10, 3), true),
            (&["sm_80", "compute_80"], (9, 0), false),
            (&["sm_90a", "compute_80"], (11, 0), false),
            (&["compute_90"], (11, 0), true),
            (&["sm_80"], (8, 0), false),
        ] {
            assert_eq!(has_multimem(archs, capability), has, "{archs:?} on {capability:?}");
        }
    }

    #[test]
    fn code_runs_on_its_own_kind_and_ptx_on_later_ones() {
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
            ("compute_80", (8, 0), true),
            ("compute_80", (9, 0), true),
            ("compute_80", (12, 1), true),
            ("compute_90", (8, 9), false),
            ("compute_90a", (10, 0), false),
            ("compute_100f", (10, 3), true),
            ("compute_100f", (12, 0), false),
            ("nonsense", (8, 0), false),
        ] {
            assert_eq!(covers(arch, capability), runs, "{arch} on {capability:?}");
        }
    }
}
