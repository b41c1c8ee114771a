//! Contexts: the primary one of each device, and green ones (`green.rs`). Each thread has a stack of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::thread::ThreadId;

use cudarc::driver::sys;
use tileweave::Error;
use tileweave::driver::{Driver, Place};

use crate::answer::{Answer, Code, INVALID, NO_CONTEXT, Out, code_of};
use crate::handles::pointer;
use crate::machine::{Machine, Tables, machine};
use crate::stream::Lane;

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    pub ordinal: usize,
    pub place: Place,
    /// The legacy default stream.
    pub null: Lane,
    /// Default streams of threads that asked for theirs.
    pub per_thread: HashMap<ThreadId, Lane>,
    pub flags: u32,
}

thread_local! {
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The handle of the context that is current on this thread, and alive.
pub(crate) fn current(tables: &Tables) -> Answer<usize> {
    let handle = STACK.with_borrow(|stack| stack.last().copied()).ok_or(NO_CONTEXT)?;
    match tables.contexts.get(handle) {
        Ok(_) => Ok(handle),
        Err(_) => Err(Code::CUDA_ERROR_CONTEXT_IS_DESTROYED),
    }
}

/// The place of the current context.
pub(crate) fn current_place(machine: &Machine) -> Answer<Place> {
    let tables = machine.lock();
    Ok(tables.contexts.get(current(&tables)?)?.place)
}

fn known(machine: &Machine, context: sys::CUcontext) -> Answer<usize> {
    let handle = context.addr();
    machine
        .lock()
        .contexts
        .get(handle)
        .map(|_| handle)
        .map_err(|_| NO_CONTEXT)
}

/// Makes a context on a place of a device.
pub(crate) fn create(machine: &Machine, ordinal: usize, place: Place) -> Answer<usize> {
    let null = Lane::new(machine, place)?;
    Ok(machine.lock().contexts.add(Context {
        ordinal,
        place,
        null,
        per_thread: HashMap::new(),
        flags: 0,
    }))
}

/// Ends a context with its streams and events. Memory stays as it is: it belongs to the device.
pub(crate) fn destroy(machine: &Machine, handle: usize) -> Answer {
    let mut tables = machine.lock();
    let context = tables.contexts.remove(handle)?;
    let streams: Vec<usize> = tables
        .streams
        .all()
        .filter(|(_, stream)| stream.context == handle)
        .map(|(stream, _)| stream)
        .collect();
    let streams = streams
        .into_iter()
        .filter_map(|stream| tables.streams.remove(stream).ok());
    let lanes: Vec<Lane> = streams
        .map(|stream| stream.lane)
        .chain(context.per_thread.into_values())
        .chain([context.null])
        .collect();
    let events: Vec<usize> = tables
        .events
        .all()
        .filter(|(_, event)| event.context == handle)
        .map(|(event, _)| event)
        .collect();
    for event in events {
        let _ = machine.sim.event_destroy(tables.events.remove(event)?.sim);
    }
    for lane in lanes {
        lane.end(machine, &mut tables);
    }
    Ok(())
}

calls! {
    fn cuDevicePrimaryCtxRetain(context: Out<sys::CUcontext>, device: sys::CUdevice) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        if let Some((handle, count)) = &mut machine.lock().primary[ordinal] {
            *count += 1;
            return context.put(pointer(*handle));
        }
        let fresh = create(machine, ordinal, machine.whole(ordinal))?;
        let mut tables = machine.lock();
        // Another thread may have been quicker.
        let (handle, count) = tables.primary[ordinal].get_or_insert((fresh, 0));
        *count += 1;
        let handle = *handle;
        drop(tables);
        if handle != fresh {
            destroy(machine, fresh)?;
        }
        context.put(pointer(handle))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: sys::CUdevice) {
        let machine = machine()?;
        let ordinal = machine.ordinal(device)?;
        let last = {
            let mut tables = machine.lock();
            let Some((handle, count)) = &mut tables.primary[ordinal] else { return Err(NO_CONTEXT) };
            *count -= 1;
            let last = (*count == 0).then_some(*handle);
            if last.is_some() {
                tables.primary[ordinal] = None;
            }
            last
        };
        last.map_or(Ok(()), |handle| destroy(machine, handle))
    }

    fn cuCtxPushCurrent_v2(context: sys::CUcontext) {
        let handle = known(machine()?, context)?;
        STACK.with_borrow_mut(|stack| stack.push(handle));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<sys::CUcontext>) {
        machine()?;
        let popped = STACK.with_borrow_mut(Vec::pop).ok_or(NO_CONTEXT)?;
        context.put_if_wanted(pointer(popped));
        Ok(())
    }

    fn cuCtxSetCurrent(context: sys::CUcontext) {
        let machine = machine()?;
        if context.is_null() {
            STACK.with_borrow_mut(Vec::pop);
            return Ok(());
        }
        let handle = known(machine, context)?;
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            stack.push(handle);
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<sys::CUcontext>) {
        machine()?;
        let handle = STACK.with_borrow(|stack| stack.last().copied());
        context.put(handle.map_or(std::ptr::null_mut(), pointer))
    }

    fn cuCtxGetDevice(device: Out<sys::CUdevice>) {
        let tables = machine()?.lock();
        let ordinal = tables.contexts.get(current(&tables)?)?.ordinal;
        device.put(ordinal as sys::CUdevice)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let tables = machine()?.lock();
        flags.put(tables.contexts.get(current(&tables)?)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let mut tables = machine()?.lock();
        let handle = current(&tables)?;
        tables.contexts.get_mut(handle)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetApiVersion(_context: sys::CUcontext, version: Out<u32>) {
        machine()?;
        version.put(3020)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current(&machine()?.lock())?;
        least.put_if_wanted(0);
        greatest.put_if_wanted(0);
        Ok(())
    }

    fn cuCtxSynchronize() {
        let machine = machine()?;
        synchronize(machine)
    }

    /// Limits of a device-side runtime that no kernel here has; the stack's is there, too, and is what it is.
    fn cuCtxGetLimit(limit: Out<usize>, _which: u32) {
        current(&machine()?.lock())?;
        limit.put(0)
    }

    fn cuCtxSetLimit(_which: u32, _value: usize) {
        current(&machine()?.lock()).map(drop)
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        current(&machine()?.lock())?;
        config.put(0)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        current(&machine()?.lock())?;
        if config > 3 { Err(INVALID) } else { Ok(()) }
    }
}

/// Waits for all streams of the current context.
pub(crate) fn synchronize(machine: &Machine) -> Answer {
    let streams: Vec<_> = {
        let tables = machine.lock();
        let handle = current(&tables)?;
        let context = tables.contexts.get(handle)?;
        let own = tables.streams.all().filter(|(_, stream)| stream.context == handle);
        own.map(|(_, stream)| stream.lane.stream)
            .chain(context.per_thread.values().map(|lane| lane.stream))
            .chain([context.null.stream])
            .collect()
    };
    for stream in streams {
        match machine.sim.stream_synchronize(stream) {
            // Another thread has ended it meanwhile: then its work is somebody else's.
            Ok(()) | Err(Error::BadArgument { .. }) => {}
            Err(error) => return Err(code_of(error)),
        }
    }
    Ok(())
}
