//! Launches: one `TwParams` by value, one dimension of CTAs and of threads, clusters by attribute.

use std::ffi::c_void;

use cudarc::driver::sys;
use tileweave::abi::TwParams;
use tileweave::driver::{Driver, Launch};

use crate::answer::{Answer, INVALID, In, UNSUPPORTED, code_of};
use crate::kernels;
use crate::machine::machine;
use crate::{order, stream};

const CLUSTER_DIMENSION: u32 = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as u32;

/// CTAs of a cluster in a launch's attributes; another attribute is not served.
pub(crate) fn cluster_of(config: &sys::CUlaunchConfig) -> Answer<u32> {
    let mut cluster = 1;
    for index in 0..config.numAttrs as usize {
        if config.attrs.is_null() {
            return Err(INVALID);
        }
        // SAFETY: the caller has `numAttrs` of them there. The id is an enum of the bindings, so it is read as a
        // number; 16 words follow it in the attribute's value, of which a cluster's size is three.
        let (id, size) = unsafe {
            let attribute = config.attrs.add(index);
            let id = (&raw const (*attribute).id).cast::<u32>().read();
            let value = (&raw const (*attribute).value).cast::<u32>();
            (id, [value.read(), value.add(1).read(), value.add(2).read()])
        };
        if id != CLUSTER_DIMENSION {
            return Err(UNSUPPORTED);
        }
        if size[0] == 0 || size[1..] != [1, 1] {
            return Err(INVALID);
        }
        cluster = size[0];
    }
    Ok(cluster)
}

/// Enqueues a kernel.
fn launch(
    kernel: usize,
    launch: Launch,
    stream: sys::CUstream,
    arguments: &In<*const c_void>,
    extra: *const c_void,
) -> Answer {
    let machine = machine()?;
    if !extra.is_null() {
        return Err(UNSUPPORTED);
    }
    let name = kernels::name(machine, kernel, launch.shared)?;
    let found = stream::find_current(machine, stream)?;
    let params = arguments.at(0)?.cast::<TwParams>();
    if params.is_null() {
        return Err(INVALID);
    }
    // SAFETY: every kernel here takes one `TwParams` by value, so whoever launches it has one there: the contract of
    // `kernelParams`.
    let params = unsafe { params.read_unaligned() };
    order::before(machine, &found)?;
    machine
        .sim
        .launch(name, launch, &params, found.lane.stream)
        .map_err(code_of)
}

calls! {
    fn cuLaunchKernelEx(
        config: In<sys::CUlaunchConfig>,
        function: sys::CUfunction,
        arguments: In<*const c_void>,
        extra: *const c_void,
    ) {
        let raw = config.get()?;
        if [raw.gridDimY, raw.gridDimZ, raw.blockDimY, raw.blockDimZ] != [1; 4] {
            return Err(INVALID);
        }
        let what = Launch {
            grid: raw.gridDimX,
            threads: raw.blockDimX,
            shared: raw.sharedMemBytes,
            cluster: cluster_of(&raw)?,
        };
        launch(function.addr(), what, raw.hStream, &arguments, extra)
    }

    fn cuLaunchKernel(
        function: sys::CUfunction,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: sys::CUstream,
        arguments: In<*const c_void>,
        extra: *const c_void,
    ) {
        if [grid_y, grid_z, block_y, block_z] != [1; 4] {
            return Err(INVALID);
        }
        let what = Launch { grid: grid_x, threads: block_x, shared, cluster: 1 };
        launch(function.addr(), what, stream, &arguments, extra)
    }
}
