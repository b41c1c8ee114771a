//! Code: whatever is loaded, its kernels are those of the node. They belong to no library and no context, so one handle
//! serves as
//! `CUkernel` and as `CUfunction`, of every library and module.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys;
use tileweave::driver::{Driver, Launch};

use crate::answer::{Answer, BAD_HANDLE, INVALID, In, NOT_FOUND, Out, code_of};
use crate::context::{current, current_place};
use crate::handles::{Of, index, number, pointer};
use crate::launch::cluster_of;
use crate::machine::{Machine, machine};

/// Dynamic shared memory that a CTA may have unless a kernel's attribute says otherwise.
const SHARED_UNASKED: u32 = 48 << 10;
const SHARED_MOST: u32 = 227 << 10;

struct Known {
    name: CString,
    text: &'static str,
    /// The limit of dynamic shared memory, as it was set.
    limit: std::sync::atomic::AtomicU32,
}

fn all(machine: &Machine) -> &'static [Known] {
    static NAMES: OnceLock<Vec<Known>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let known = |text: &'static str| {
            let limit = SHARED_UNASKED.into();
            CString::new(text).ok().map(|name| Known { name, text, limit })
        };
        machine.sim.kernels().into_iter().filter_map(known).collect()
    })
}

fn find(machine: &Machine, handle: usize) -> Answer<&'static Known> {
    let index = index(Of::Kernel, handle)?;
    all(machine).get(index).ok_or(BAD_HANDLE)
}

/// The name of a kernel, that a CTA of it may have so much dynamic shared memory.
pub(crate) fn name(machine: &Machine, handle: usize, shared: u32) -> Answer<&'static str> {
    let known = find(machine, handle)?;
    match shared <= known.limit.load(std::sync::atomic::Ordering::Relaxed) {
        true => Ok(known.text),
        false => Err(INVALID),
    }
}

fn by_name(machine: &Machine, name: *const c_char) -> Answer<usize> {
    if name.is_null() {
        return Err(INVALID);
    }
    // SAFETY: a string with its NUL, by the word of whoever called the C function.
    let name = unsafe { CStr::from_ptr(name) };
    let position = all(machine).iter().position(|known| *known.name == *name);
    position.map(|index| number(Of::Kernel, index)).ok_or(NOT_FOUND)
}

fn load(to: impl FnOnce(usize) -> Answer, code: *const c_void) -> Answer {
    if code.is_null() {
        return Err(INVALID);
    }
    let library = machine()?.lock().libraries.add(());
    to(library)
}

fn attribute(handle: usize, which: u32) -> Answer<i32> {
    let known = find(machine()?, handle)?;
    use sys::CUfunction_attribute_enum as Attribute;
    let is = |attribute: Attribute| which == attribute as u32;
    Ok(match () {
        () if is(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) => 1024,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) => 0,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES) => 0,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES) => 0,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION) => 90,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION) => 90,
        () if is(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) => {
            known.limit.load(std::sync::atomic::Ordering::Relaxed) as i32
        }
        () => return Err(INVALID),
    })
}

fn set_attribute(handle: usize, which: u32, value: i32) -> Answer {
    let known = find(machine()?, handle)?;
    use sys::CUfunction_attribute_enum as Attribute;
    const SHARED: u32 = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as u32;
    const CARVEOUT: u32 = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as u32;
    const CLUSTERS: u32 = Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED as u32;
    match (which, u32::try_from(value)) {
        (SHARED, Ok(bytes)) if bytes <= SHARED_MOST => {
            known.limit.store(bytes, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        (CARVEOUT, _) if (-1..=100).contains(&value) => Ok(()),
        (CLUSTERS, _) => Ok(()),
        _ => Err(INVALID),
    }
}

fn occupancy(blocks: &Out<i32>, handle: usize, threads: i32, shared: usize) -> Answer {
    let machine = machine()?;
    let place = current_place(machine)?;
    let (threads, shared) = (
        u32::try_from(threads).map_err(|_| INVALID)?,
        shared.min(u32::MAX as usize) as u32,
    );
    let Ok(name) = name(machine, handle, shared) else {
        find(machine, handle)?;
        return blocks.put(0);
    };
    let launch = Launch {
        grid: 1,
        threads,
        shared,
        cluster: 1,
    };
    blocks.put(machine.sim.ctas_per_sm(name, launch, place).map_err(code_of)? as i32)
}

calls! {
    fn cuLibraryLoadData(
        library: Out<sys::CUlibrary>,
        code: *const c_void,
        _jit_options: *const c_void,
        _jit_values: *const c_void,
        _jit_count: u32,
        _options: *const c_void,
        _values: *const c_void,
        _count: u32,
    ) {
        load(|handle| library.put(pointer(handle)), code)
    }

    fn cuLibraryUnload(library: sys::CUlibrary) {
        machine()?.lock().libraries.remove(library.addr())
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: sys::CUlibrary) {
        let machine = machine()?;
        machine.lock().libraries.get(library.addr())?;
        count.put(all(machine).len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<sys::CUkernel>, room: u32, library: sys::CUlibrary) {
        let machine = machine()?;
        machine.lock().libraries.get(library.addr())?;
        let there = all(machine).len().min(room as usize);
        (0..there).try_for_each(|index| kernels.put_at(index, pointer(number(Of::Kernel, index))))
    }

    fn cuLibraryGetKernel(kernel: Out<sys::CUkernel>, library: sys::CUlibrary, name: *const c_char) {
        let machine = machine()?;
        machine.lock().libraries.get(library.addr())?;
        kernel.put(pointer(by_name(machine, name)?))
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: sys::CUkernel) {
        name.put(find(machine()?, kernel.addr())?.name.as_ptr())
    }

    fn cuKernelGetFunction(function: Out<sys::CUfunction>, kernel: sys::CUkernel) {
        let machine = machine()?;
        current(&machine.lock())?;
        find(machine, kernel.addr())?;
        function.put(pointer(kernel.addr()))
    }

    fn cuKernelGetAttribute(value: Out<i32>, which: u32, kernel: sys::CUkernel, _device: sys::CUdevice) {
        value.put(attribute(kernel.addr(), which)?)
    }

    fn cuKernelSetAttribute(which: u32, value: i32, kernel: sys::CUkernel, _device: sys::CUdevice) {
        set_attribute(kernel.addr(), which, value)
    }

    /// Loading may wait for a device, so it is refused to a thread that captures.
    fn cuFuncLoad(function: sys::CUfunction) {
        let machine = machine()?;
        find(machine, function.addr())?;
        machine.sim.load_kernels(current_place(machine)?).map_err(code_of)
    }

    fn cuFuncGetAttribute(value: Out<i32>, which: u32, function: sys::CUfunction) {
        value.put(attribute(function.addr(), which)?)
    }

    fn cuFuncSetAttribute(function: sys::CUfunction, which: u32, value: i32) {
        set_attribute(function.addr(), which, value)
    }

    fn cuFuncSetCacheConfig(function: sys::CUfunction, _config: u32) {
        find(machine()?, function.addr()).map(drop)
    }

    fn cuModuleLoadData(module: Out<sys::CUmodule>, code: *const c_void) {
        load(|handle| module.put(pointer(handle)), code)
    }

    fn cuModuleUnload(module: sys::CUmodule) {
        machine()?.lock().libraries.remove(module.addr())
    }

    fn cuModuleGetFunction(function: Out<sys::CUfunction>, module: sys::CUmodule, name: *const c_char) {
        let machine = machine()?;
        machine.lock().libraries.get(module.addr())?;
        function.put(pointer(by_name(machine, name)?))
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>,
        function: sys::CUfunction,
        threads: i32,
        shared: usize,
    ) {
        occupancy(&blocks, function.addr(), threads, shared)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>,
        function: sys::CUfunction,
        threads: i32,
        shared: usize,
        _flags: u32,
    ) {
        occupancy(&blocks, function.addr(), threads, shared)
    }

    fn cuOccupancyMaxActiveClusters(
        clusters: Out<i32>,
        function: sys::CUfunction,
        config: In<sys::CUlaunchConfig>,
    ) {
        let machine = machine()?;
        let (place, raw) = (current_place(machine)?, config.get()?);
        let cluster = cluster_of(&raw)?;
        let Ok(name) = name(machine, function.addr(), raw.sharedMemBytes) else {
            find(machine, function.addr())?;
            return clusters.put(0);
        };
        let (grid, threads, shared) = (cluster, raw.blockDimX, raw.sharedMemBytes);
        let launch = Launch { grid, threads, shared, cluster };
        let resident = machine.sim.resident_ctas(name, launch, place).map_err(code_of)?;
        clusters.put((resident / cluster) as i32)
    }
}
