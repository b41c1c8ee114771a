//! Copies and fills, in the order of streams. A copy from or to ordinary memory of the host is CUDA's of pageable
//! memory: what is copied in has been read when the call returns, what is copied out is there. Page-locked memory is
//! copied when its turn comes.

use cudarc::driver::sys;
use tileweave::Error;
use tileweave::driver::Driver;

use crate::answer::{Answer, In, NO_CONTEXT, Out, code_of};
use crate::machine::{Machine, machine};
use crate::order;
use crate::stream::{self, Found};

/// A stream that is about to be used, with what it has to wait for. Copies may be put into streams of contexts that are
/// not current, which launches may not (CUDA programming guide, "Stream and Event Behavior"); so may fills, of which it
/// does not speak.
fn entered(stream: sys::CUstream) -> Answer<(&'static Machine, Found)> {
    let machine = machine()?;
    let found = stream::find(machine, stream)?;
    order::before(machine, &found)?;
    Ok((machine, found))
}

fn to_device(dst: u64, src: &In<u8>, bytes: usize, stream: sys::CUstream) -> Answer {
    let (machine, found) = entered(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let result = if machine.lock().is_locked(src.addr(), bytes) {
        machine
            .sim
            .copy_anywhere(dst, src.addr() as u64, bytes, found.lane.stream)
    } else {
        machine.sim.copy_in(dst, src.bytes(bytes)?, found.lane.stream)
    };
    result.map_err(code_of)
}

fn to_host(dst: &mut Out<u8>, src: u64, bytes: usize, stream: sys::CUstream) -> Answer {
    let (machine, found) = entered(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let result = if machine.lock().is_locked(dst.addr(), bytes) {
        machine
            .sim
            .copy_anywhere(dst.addr() as u64, src, bytes, found.lane.stream)
    } else {
        machine.sim.copy_out(dst.bytes_mut(bytes)?, src, found.lane.stream)
    };
    result.map_err(code_of)
}

fn on_devices(dst: u64, src: u64, bytes: usize, stream: sys::CUstream) -> Answer {
    let (machine, found) = entered(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    let result = match machine.sim.copy_device(dst, src, bytes, found.lane.stream) {
        // Not mapped for the stream's device: a driver goes another way.
        Err(Error::BadArgument { expected, .. }) if expected.starts_with("memory that is mapped") => {
            machine.sim.copy_anywhere(dst, src, bytes, found.lane.stream)
        }
        result => result,
    };
    result.map_err(code_of)
}

/// `count` elements of `size` bytes.
fn fill(dst: u64, element: u32, size: usize, count: usize, stream: sys::CUstream) -> Answer {
    let (machine, found) = entered(stream)?;
    if count == 0 {
        return Ok(());
    }
    let pattern = &element.to_le_bytes()[..size];
    let result = if pattern.iter().all(|byte| *byte == pattern[0]) {
        machine.sim.fill(dst, pattern[0], count * size, found.lane.stream)
    } else {
        machine.sim.copy_in(dst, &pattern.repeat(count), found.lane.stream)
    };
    result.map_err(code_of)
}

/// The synchronous calls use the legacy stream, and wait for it.
fn and_wait(result: Answer) -> Answer {
    result?;
    let machine = machine()?;
    let lane = stream::find(machine, std::ptr::null_mut())?.lane;
    machine.sim.stream_synchronize(lane.stream).map_err(code_of)
}

const LEGACY: sys::CUstream = std::ptr::null_mut();

calls! {
    fn cuMemcpyHtoDAsync_v2(dst: u64, src: In<u8>, bytes: usize, stream: sys::CUstream) {
        to_device(dst, &src, bytes, stream)
    }

    fn cuMemcpyDtoHAsync_v2(dst: Out<u8>, src: u64, bytes: usize, stream: sys::CUstream) {
        let mut dst = dst;
        to_host(&mut dst, src, bytes, stream)
    }

    fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: sys::CUstream) {
        on_devices(dst, src, bytes, stream)
    }

    fn cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: sys::CUstream) {
        on_devices(dst, src, bytes, stream)
    }

    fn cuMemcpyPeerAsync(
        dst: u64,
        dst_context: sys::CUcontext,
        src: u64,
        src_context: sys::CUcontext,
        bytes: usize,
        stream: sys::CUstream,
    ) {
        let machine = machine()?;
        for context in [dst_context, src_context] {
            machine.lock().contexts.get(context.addr()).map_err(|_| NO_CONTEXT)?;
        }
        on_devices(dst, src, bytes, stream)
    }

    fn cuMemcpyHtoD_v2(dst: u64, src: In<u8>, bytes: usize) {
        and_wait(to_device(dst, &src, bytes, LEGACY))
    }

    fn cuMemcpyDtoH_v2(dst: Out<u8>, src: u64, bytes: usize) {
        let mut dst = dst;
        and_wait(to_host(&mut dst, src, bytes, LEGACY))
    }

    fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) {
        and_wait(on_devices(dst, src, bytes, LEGACY))
    }

    fn cuMemsetD8Async(dst: u64, byte: u8, count: usize, stream: sys::CUstream) {
        fill(dst, byte.into(), 1, count, stream)
    }

    fn cuMemsetD16Async(dst: u64, element: u16, count: usize, stream: sys::CUstream) {
        fill(dst, element.into(), 2, count, stream)
    }

    fn cuMemsetD32Async(dst: u64, element: u32, count: usize, stream: sys::CUstream) {
        fill(dst, element, 4, count, stream)
    }

    fn cuMemsetD8_v2(dst: u64, byte: u8, count: usize) {
        and_wait(fill(dst, byte.into(), 1, count, LEGACY))
    }

    fn cuMemsetD32_v2(dst: u64, element: u32, count: usize) {
        and_wait(fill(dst, element, 4, count, LEGACY))
    }
}
