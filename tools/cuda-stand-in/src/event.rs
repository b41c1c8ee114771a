//! Events.

use std::time::Duration;

use cudarc::driver::sys;
use tileweave::Error;
use tileweave::driver::{self, Driver, Stream};

use crate::answer::{Answer, BAD_HANDLE, INVALID, NOT_READY, Out, code_of};
use crate::context::{current, current_place};
use crate::handles::pointer;
use crate::machine::{Machine, machine};
use crate::order;
use crate::stream;

const DISABLE_TIMING: u32 = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
const INTERPROCESS: u32 = sys::CUevent_flags_enum::CU_EVENT_INTERPROCESS as u32;
/// The longest time between two looks at an event that is waited for.
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub context: usize,
    pub sim: driver::Event,
    timing: bool,
    /// Where it was recorded last.
    recorded: Option<Stream>,
}

fn find(machine: &Machine, event: sys::CUevent) -> Answer<Event> {
    machine.lock().events.get(event.addr()).copied()
}

fn happened(machine: &Machine, event: Event) -> Answer<bool> {
    machine.sim.event_done(event.sim).map_err(code_of)
}

/// Waits for an event. Its stream tells where the node has stopped, and may go before.
fn wait(machine: &Machine, event: Event) -> Answer {
    while !happened(machine, event)? {
        let Some(stream) = event.recorded else { return Ok(()) };
        // One that captures by now may not be waited for, and one that is gone cannot.
        if machine.sim.stream_is_capturing(stream).unwrap_or(true) {
            std::thread::sleep(LOOK);
        } else if let Err(error @ Error::Simulator { .. }) = machine.sim.stream_wait(stream, LOOK) {
            return Err(code_of(error));
        }
    }
    Ok(())
}

fn elapsed(ms: &Out<f32>, start: sys::CUevent, end: sys::CUevent) -> Answer {
    let machine = machine()?;
    let both = [find(machine, start)?, find(machine, end)?];
    if both.iter().any(|event| !event.timing || event.recorded.is_none()) {
        return Err(BAD_HANDLE);
    }
    for event in both {
        if !happened(machine, event)? {
            return Err(NOT_READY);
        }
    }
    let between = machine
        .sim
        .event_elapsed_ms(both[0].sim, both[1].sim)
        .map_err(code_of)?;
    ms.put(between.ok_or(NOT_READY)? as f32)
}

calls! {
    fn cuEventCreate(event: Out<sys::CUevent>, flags: u32) {
        let machine = machine()?;
        if flags > 7 || flags & INTERPROCESS != 0 {
            return Err(INVALID);
        }
        let sim = machine.sim.event_create(current_place(machine)?).map_err(code_of)?;
        let mut tables = machine.lock();
        let context = current(&tables)?;
        let timing = flags & DISABLE_TIMING == 0;
        event.put(pointer(tables.events.add(Event { context, sim, timing, recorded: None })))
    }

    fn cuEventDestroy_v2(event: sys::CUevent) {
        let machine = machine()?;
        let gone = machine.lock().events.remove(event.addr())?;
        machine.sim.event_destroy(gone.sim).map_err(code_of)
    }

    fn cuEventRecord(event: sys::CUevent, stream: sys::CUstream) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: sys::CUevent, stream: sys::CUstream, flags: u32) {
        if flags > 1 { Err(INVALID) } else { record(event, stream) }
    }

    fn cuEventQuery(event: sys::CUevent) {
        let machine = machine()?;
        let event = find(machine, event)?;
        match happened(machine, event)? {
            true => Ok(()),
            false => Err(NOT_READY),
        }
    }

    fn cuEventSynchronize(event: sys::CUevent) {
        let machine = machine()?;
        let event = find(machine, event)?;
        wait(machine, event)
    }

    fn cuEventElapsedTime(ms: Out<f32>, start: sys::CUevent, end: sys::CUevent) {
        elapsed(&ms, start, end)
    }

    fn cuEventElapsedTime_v2(ms: Out<f32>, start: sys::CUevent, end: sys::CUevent) {
        elapsed(&ms, start, end)
    }
}

fn record(event: sys::CUevent, stream: sys::CUstream) -> Answer {
    let machine = machine()?;
    let found = stream::find(machine, stream)?;
    let sim = {
        let mut tables = machine.lock();
        let event = tables.events.get_mut(event.addr())?;
        // Of the stream's context; any may wait for it.
        if event.context != found.context {
            return Err(BAD_HANDLE);
        }
        event.recorded = Some(found.lane.stream);
        event.sim
    };
    order::before(machine, &found)?;
    machine.sim.event_record(sim, found.lane.stream).map_err(code_of)
}
