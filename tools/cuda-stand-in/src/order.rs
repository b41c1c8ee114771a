//! The legacy default stream's implicit order: work in it begins after all earlier work in the context's blocking
//! streams, and work in those after all earlier work in it. Streams made with `CU_STREAM_NON_BLOCKING` have no part in
//! that.

use tileweave::driver::Driver;

use crate::answer::{Answer, Code, code_of};
use crate::machine::Machine;
use crate::stream::{Found, Lane};

/// Before something is put into a stream.
pub(crate) fn before(machine: &Machine, found: &Found) -> Answer {
    if !found.blocking {
        return Ok(());
    }
    let captures = |lane: &Lane| machine.sim.stream_is_capturing(lane.stream).map_err(code_of);
    let (others, null): (Vec<Lane>, Lane) = {
        let tables = machine.lock();
        let context = tables.contexts.get(found.context)?;
        let blocking = tables
            .streams
            .all()
            .filter(|(_, stream)| stream.context == found.context && stream.blocking);
        let all = blocking
            .map(|(_, stream)| stream.lane)
            .chain(context.per_thread.values().copied());
        (all.collect(), context.null)
    };
    if !found.legacy {
        // What is captured depends on nothing that runs now.
        return if captures(&found.lane)? {
            Ok(())
        } else {
            follow(machine, found.lane, null)
        };
    }
    for other in others {
        if captures(&other)? {
            return Err(Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        follow(machine, found.lane, other)?;
    }
    Ok(())
}

/// `later` waits for what is in `earlier` now.
fn follow(machine: &Machine, later: Lane, earlier: Lane) -> Answer {
    machine
        .sim
        .event_record(earlier.mark, earlier.stream)
        .map_err(code_of)?;
    machine
        .sim
        .stream_wait_event(later.stream, earlier.mark)
        .map_err(code_of)
}
