//! Captures and graphs.

use cudarc::driver::sys;
use tileweave::driver::{self, Driver};

use crate::answer::{Answer, Code, INVALID, Out, UNSUPPORTED, code_of};
use crate::handles::pointer;
use crate::machine::{Machine, machine};
use crate::{order, stream};

/// A graph, and the context that it was captured in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Graph {
    sim: driver::Graph,
    context: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Executable(driver::GraphExec);

/// Flags of instantiation that change nothing here: freeing on launch, priorities, uploading.
const HARMLESS: u64 = 0b1011;

fn instantiate(exec: &Out<sys::CUgraphExec>, graph: sys::CUgraph, flags: u64) -> Answer {
    if flags & !HARMLESS != 0 {
        return Err(INVALID);
    }
    let machine = machine()?;
    let lane = {
        let tables = machine.lock();
        let graph = tables.graphs.get(graph.addr())?;
        tables
            .contexts
            .get(graph.context)
            .map_err(|_| Code::CUDA_ERROR_CONTEXT_IS_DESTROYED)?
            .null
    };
    let sim = machine.lock().graphs.get(graph.addr())?.sim;
    let ready = machine.sim.graph_instantiate(sim, lane.stream).map_err(code_of)?;
    exec.put(pointer(machine.lock().executables.add(Executable(ready))))
}

fn executable(machine: &Machine, exec: sys::CUgraphExec) -> Answer<driver::GraphExec> {
    Ok(machine.lock().executables.get(exec.addr())?.0)
}

calls! {
    /// Every mode binds this thread alone.
    fn cuStreamBeginCapture_v2(stream: sys::CUstream, mode: u32) {
        let machine = machine()?;
        let found = stream::find(machine, stream)?;
        if mode > 2 {
            return Err(INVALID);
        }
        if found.legacy {
            return Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        machine.sim.stream_begin_capture(found.lane.stream).map_err(code_of)
    }

    /// What was captured invalidly leaves no graph.
    fn cuStreamEndCapture(stream: sys::CUstream, graph: Out<sys::CUgraph>) {
        let machine = machine()?;
        let found = stream::find(machine, stream)?;
        graph.put(std::ptr::null_mut())?;
        let sim = machine.sim.stream_end_capture(found.lane.stream).map_err(code_of)?;
        let context = found.context;
        graph.put(pointer(machine.lock().graphs.add(Graph { sim, context })))
    }

    fn cuStreamIsCapturing(stream: sys::CUstream, status: Out<u32>) {
        let machine = machine()?;
        let found = stream::find(machine, stream)?;
        let capturing = machine.sim.stream_is_capturing(found.lane.stream).map_err(code_of)?;
        status.put(capturing.into())
    }

    fn cuGraphInstantiateWithFlags(exec: Out<sys::CUgraphExec>, graph: sys::CUgraph, flags: u64) {
        instantiate(&exec, graph, flags)
    }

    fn cuGraphUpload(exec: sys::CUgraphExec, stream: sys::CUstream) {
        let machine = machine()?;
        let (exec, found) = (executable(machine, exec)?, stream::find(machine, stream)?);
        machine.sim.graph_upload(exec, found.lane.stream).map_err(code_of)
    }

    fn cuGraphLaunch(exec: sys::CUgraphExec, stream: sys::CUstream) {
        let machine = machine()?;
        let (exec, found) = (executable(machine, exec)?, stream::find(machine, stream)?);
        order::before(machine, &found)?;
        machine.sim.graph_launch(exec, found.lane.stream).map_err(code_of)
    }

    fn cuGraphExecDestroy(exec: sys::CUgraphExec) {
        let machine = machine()?;
        let gone = machine.lock().executables.remove(exec.addr())?;
        machine.sim.graph_exec_destroy(gone.0).map_err(code_of)
    }

    fn cuGraphDestroy(graph: sys::CUgraph) {
        let machine = machine()?;
        let gone = machine.lock().graphs.remove(graph.addr())?;
        machine.sim.graph_destroy(gone.sim).map_err(code_of)
    }

    /// A thread that captures is bound as it was: the mode cannot be exchanged.
    fn cuThreadExchangeStreamCaptureMode(_mode: Out<u32>) {
        Err(UNSUPPORTED)
    }
}
