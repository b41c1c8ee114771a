//! Streams. A handle is 0 or 1 for the legacy default stream of the current context, 2 for the thread's own default
//! stream there, or what a call made. What the legacy stream waits for, and who waits for it, is in `order.rs`.

use std::time::Duration;

use cudarc::driver::sys;
use tileweave::driver::{Driver, Event, Place, Stream};

use crate::answer::{Answer, BAD_HANDLE, Code, INVALID, NO_CONTEXT, NOT_READY, Out, UNSUPPORTED, code_of};
use crate::context::current;
use crate::handles::pointer;
use crate::machine::{Machine, Tables, machine};

const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
const NON_BLOCKING: u32 = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;

/// A stream of the node, and an event of it for who waits for it implicitly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    pub stream: Stream,
    pub mark: Event,
}

/// A stream that a call made.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    pub context: usize,
    pub lane: Lane,
    /// Whether it waits for the legacy default stream, and that for it.
    pub blocking: bool,
}

/// What a stream's handle stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub context: usize,
    pub lane: Lane,
    pub legacy: bool,
    pub blocking: bool,
}

impl Lane {
    pub fn new(machine: &Machine, place: Place) -> Answer<Lane> {
        let stream = machine.sim.stream_create(place).map_err(code_of)?;
        let mark = machine.sim.event_create(place).map_err(code_of)?;
        Ok(Lane { stream, mark })
    }

    /// Ends it as soon as its work is done, and does not wait for that.
    pub fn end(self, machine: &Machine, tables: &mut Tables) {
        let _ = machine.sim.event_destroy(self.mark);
        tables.dying.push(self.stream);
        reap(machine, tables);
    }
}

/// Ends the streams that have run dry since their handles went.
pub(crate) fn reap(machine: &Machine, tables: &mut Tables) {
    tables.dying.retain(|stream| {
        let done = machine.sim.stream_wait(*stream, Duration::ZERO).unwrap_or(true);
        if done {
            // Idle, so this waits for nothing but the closing itself. Nobody is left to hear of a failure.
            let _ = machine.sim.stream_destroy(*stream);
        }
        !done
    });
}

/// What a handle stands for.
pub(crate) fn find(machine: &Machine, handle: sys::CUstream) -> Answer<Found> {
    let (handle, mut tables) = (handle.addr(), machine.lock());
    if handle > PER_THREAD {
        let entry = tables.streams.get(handle)?;
        tables
            .contexts
            .get(entry.context)
            .map_err(|_| Code::CUDA_ERROR_CONTEXT_IS_DESTROYED)?;
        return Ok(Found {
            context: entry.context,
            lane: entry.lane,
            legacy: false,
            blocking: entry.blocking,
        });
    }
    let context = current(&tables)?;
    let entry = tables.contexts.get_mut(context)?;
    let found = |lane, legacy| Found {
        context,
        lane,
        legacy,
        blocking: true,
    };
    if handle <= LEGACY {
        return Ok(found(entry.null, true));
    }
    let me = std::thread::current().id();
    let lane = match entry.per_thread.get(&me) {
        Some(lane) => *lane,
        None => {
            let lane = Lane::new(machine, entry.place)?;
            entry.per_thread.insert(me, lane);
            lane
        }
    };
    Ok(found(lane, false))
}

/// A stream that work may be put into: one of the context that is current.
pub(crate) fn find_current(machine: &Machine, handle: sys::CUstream) -> Answer<Found> {
    let found = find(machine, handle)?;
    match current(&machine.lock())? == found.context {
        true => Ok(found),
        false => Err(BAD_HANDLE),
    }
}

fn create(stream: &Out<sys::CUstream>, context: usize, flags: u32) -> Answer {
    if flags & !NON_BLOCKING != 0 {
        return Err(INVALID);
    }
    let machine = machine()?;
    let place = machine.lock().contexts.get(context).map_err(|_| NO_CONTEXT)?.place;
    let lane = Lane::new(machine, place)?;
    let mut tables = machine.lock();
    reap(machine, &mut tables);
    let blocking = flags & NON_BLOCKING == 0;
    stream.put(pointer(tables.streams.add(StreamEntry {
        context,
        lane,
        blocking,
    })))
}

calls! {
    fn cuStreamCreate(stream: Out<sys::CUstream>, flags: u32) {
        let context = current(&machine()?.lock())?;
        create(&stream, context, flags)
    }

    /// All streams have the one priority that there is.
    fn cuStreamCreateWithPriority(stream: Out<sys::CUstream>, flags: u32, _priority: i32) {
        let context = current(&machine()?.lock())?;
        create(&stream, context, flags)
    }

    /// On CUDA a green context's streams never wait for the legacy stream: the flag has to say so.
    fn cuGreenCtxStreamCreate(stream: Out<sys::CUstream>, green: sys::CUgreenCtx, flags: u32, _priority: i32) {
        if flags != NON_BLOCKING {
            return Err(INVALID);
        }
        create(&stream, green.addr(), flags)
    }

    fn cuStreamDestroy_v2(stream: sys::CUstream) {
        let machine = machine()?;
        let found = find(machine, stream)?;
        if stream.addr() <= PER_THREAD {
            return Err(BAD_HANDLE);
        }
        // The capture goes with its stream.
        if machine.sim.stream_is_capturing(found.lane.stream).map_err(code_of)? {
            return Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        let mut tables = machine.lock();
        tables.streams.remove(stream.addr())?.lane.end(machine, &mut tables);
        Ok(())
    }

    fn cuStreamSynchronize(stream: sys::CUstream) {
        let machine = machine()?;
        let found = find(machine, stream)?;
        crate::order::before(machine, &found)?;
        machine.sim.stream_synchronize(found.lane.stream).map_err(code_of)
    }

    fn cuStreamQuery(stream: sys::CUstream) {
        let machine = machine()?;
        let found = find(machine, stream)?;
        match machine.sim.stream_wait(found.lane.stream, Duration::ZERO).map_err(code_of)? {
            true => Ok(()),
            false => Err(NOT_READY),
        }
    }

    fn cuStreamGetCtx(stream: sys::CUstream, context: Out<sys::CUcontext>) {
        context.put(pointer(find(machine()?, stream)?.context))
    }

    fn cuStreamGetFlags(stream: sys::CUstream, flags: Out<u32>) {
        let found = find(machine()?, stream)?;
        flags.put(if found.blocking { 0 } else { NON_BLOCKING })
    }

    fn cuStreamGetPriority(stream: sys::CUstream, priority: Out<i32>) {
        find(machine()?, stream)?;
        priority.put(0)
    }

    fn cuStreamWaitEvent(stream: sys::CUstream, event: sys::CUevent, flags: u32) {
        let machine = machine()?;
        if flags > 1 {
            return Err(INVALID);
        }
        let found = find(machine, stream)?;
        let event = machine.lock().events.get(event.addr())?.sim;
        crate::order::before(machine, &found)?;
        machine.sim.stream_wait_event(found.lane.stream, event).map_err(code_of)
    }

    fn cuStreamAttachMemAsync(_stream: sys::CUstream, _pointer: u64, _bytes: usize, _flags: u32) {
        Err(UNSUPPORTED)
    }
}
