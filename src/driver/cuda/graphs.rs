//! Capture and graphs. The streams' contexts are current where a call needs one: see `calls.rs`.

use cudarc::driver::sys;

use crate::driver::{Graph, GraphExec};
use crate::error::Result;

fn graph_of(graph: Graph) -> sys::CUgraph {
    std::ptr::with_exposed_provenance_mut(graph.0)
}

fn exec_of(exec: GraphExec) -> sys::CUgraphExec {
    std::ptr::with_exposed_provenance_mut(exec.0)
}

/// Begins a capture that binds the calling thread alone: what may wait for the device is refused here, where it is a
/// mistake, while threads of other ranks go on as they like. (The global mode would refuse it to them, too; the relaxed
/// one to nobody.)
pub(super) fn begin(stream: sys::CUstream) -> Result<()> {
    let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive: the caller's word.
    unsafe { cu!(cuStreamBeginCapture_v2(stream, mode)) }
}

pub(super) fn end(stream: sys::CUstream) -> Result<Graph> {
    let mut graph = std::ptr::null_mut();
    // SAFETY: `graph` outlives the call; the stream is alive: the caller's word.
    unsafe { cu!(cuStreamEndCapture(stream, &mut graph)) }?;
    Ok(Graph(graph.expose_provenance()))
}

/// Whether the stream captures, also in a capture that is invalid by now.
pub(super) fn is_capturing(stream: sys::CUstream) -> Result<bool> {
    use sys::CUstreamCaptureStatus_enum as Status;
    let mut status = Status::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: `status` outlives the call; the stream is alive: the caller's word.
    unsafe { cu!(cuStreamIsCapturing(stream, &mut status)) }?;
    Ok(status != Status::CU_STREAM_CAPTURE_STATUS_NONE)
}

pub(super) fn instantiate(graph: Graph) -> Result<GraphExec> {
    let mut exec = std::ptr::null_mut();
    // SAFETY: `exec` outlives the call; the graph is alive: the caller's word; 0 is the flag for no option.
    unsafe { cu!(cuGraphInstantiateWithFlags(&mut exec, graph_of(graph), 0)) }?;
    Ok(GraphExec(exec.expose_provenance()))
}

pub(super) fn upload(exec: GraphExec, stream: sys::CUstream) -> Result<()> {
    // SAFETY: both are alive: the caller's word.
    unsafe { cu!(cuGraphUpload(exec_of(exec), stream)) }
}

pub(super) fn launch(exec: GraphExec, stream: sys::CUstream) -> Result<()> {
    // SAFETY: both are alive: the caller's word. What its kernels do with the addresses that were captured is the
    // business of who captured them.
    unsafe { cu!(cuGraphLaunch(exec_of(exec), stream)) }
}

pub(super) fn destroy_exec(exec: GraphExec) -> Result<()> {
    // SAFETY: alive until here, and ends here: the contract of the call.
    unsafe { cu!(cuGraphExecDestroy(exec_of(exec))) }
}

pub(super) fn destroy(graph: Graph) -> Result<()> {
    // SAFETY: as above.
    unsafe { cu!(cuGraphDestroy(graph_of(graph))) }
}
