//! Capture and graphs: a stream that captures keeps its commands instead of running them, and a graph is that list, with
//! every parameter as it was; launching it puts copies of the commands behind the work of a stream.
//!
//! A call that CUDA refuses while a stream captures is refused here by CUDA's name for it, and from then on the capture is
//! invalid: so whatever a launch must not do is found by any test that captures one. On the thread that captures that goes
//! for allocations and loading too, a little beyond CUDA, which lets memory come from another stream's pool.
//!
//! One stream is captured, by the thread that began. An event recorded meanwhile is a place in the capture, and no other
//! stream may wait for it: forks and joins are not modelled.

use std::sync::Arc;
use std::thread::ThreadId;

use super::handle::SimNode;
use super::launch::Request;
use super::shared::{State, bad_stream};
use super::stream::{Command, StreamKey};
use crate::driver::{self, GraphExec, Stream};
use crate::error::{Error, Result};

/// The name of the call that waits for a stream.
pub(super) const SYNCHRONIZE: &str = "stream_synchronize";

/// Work that a graph holds, frozen as it was enqueued.
#[derive(Clone)]
enum Step {
    Launch(Box<Request>),
    Fill { dst: u64, byte: u8, bytes: u64 },
    Copy { dst: u64, src: u64, bytes: u64 },
}

impl Step {
    fn command(&self) -> Command {
        match self {
            Step::Launch(request) => Command::Launch(request.clone()),
            &Step::Fill { dst, byte, bytes } => Command::Fill { dst, byte, bytes },
            &Step::Copy { dst, src, bytes } => Command::Copy { dst, src, bytes },
        }
    }
}

/// A stream that captures.
pub(super) struct Capture {
    thread: ThreadId,
    steps: Vec<Step>,
    /// The first call that was refused.
    invalid: Option<&'static str>,
}

/// What a capture left.
#[derive(Clone)]
pub(super) struct Graph {
    /// The stream that it was captured from.
    key: StreamKey,
    steps: Arc<[Step]>,
}

/// A graph that can be launched.
pub(super) struct Executable {
    graph: Graph,
    /// Happens at the end of each launch: launches of one executable follow each other on whatever streams.
    event: usize,
    last: Option<(usize, u64)>,
}

/// When an event was recorded last.
#[derive(Clone, Copy)]
pub(super) enum Recorded {
    Never,
    At(u64),
    /// In this stream's capture, which does not run.
    Captured {
        stream: usize,
    },
}

impl Recorded {
    /// That it was not recorded in a capture, where it never happens.
    pub fn happens(self) -> Result<()> {
        match self {
            Recorded::Captured { .. } => Err(failed("event_elapsed_ms", 907, "CUDA_ERROR_CAPTURED_EVENT")),
            Recorded::Never | Recorded::At(_) => Ok(()),
        }
    }
}

/// CUDA's code and name for what a call may not do.
fn failed(call: &'static str, code: i64, name: &str) -> Error {
    let why = match code {
        901 => "the capture was invalidated by an earlier call",
        905 => "a dependency would cross the boundary of a capture",
        907 => "the event was last recorded in a capture",
        908 => "a capture ends on the thread that began it",
        401 => "the stream does not capture, or does so already",
        _ => "operation not permitted when stream is capturing",
    };
    Error::Driver {
        call,
        code,
        message: format!("{name}: {why}"),
    }
}

fn no_graph(what: &str, handle: usize) -> Error {
    Error::bad_argument(what, handle, "a live one of this node")
}

impl Capture {
    /// Keeps a command for the graph.
    pub fn take(&mut self, command: Command) -> Result<()> {
        if self.invalid.is_some() {
            return Err(failed("launch", 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"));
        }
        let step = match command {
            Command::Launch(request) => Step::Launch(request),
            Command::Fill { dst, byte, bytes } => Step::Fill { dst, byte, bytes },
            Command::Copy { dst, src, bytes } => Step::Copy { dst, src, bytes },
            Command::CopyIn { .. } => return Err(self.refuse("copy_in")),
            Command::CopyOut { .. } => return Err(self.refuse("copy_out")),
            Command::Free { .. } => return Err(self.refuse("free_async")),
            Command::Together(_) => return Err(self.refuse("model_collective")),
            Command::Close => return Err(self.refuse("stream_destroy")),
            // Events are no work in a capture: see `waits_in_capture`.
            Command::Record { .. } => return Err(self.refuse("event_record")),
            Command::Wait { .. } => return Err(self.refuse("stream_wait_event")),
        };
        self.steps.push(step);
        Ok(())
    }

    /// What `call` gets, which may not happen now: it invalidates the capture.
    pub fn refuse(&mut self, call: &'static str) -> Error {
        self.invalid.get_or_insert(call);
        failed(call, 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
    }
}

impl State {
    pub fn captures(&self, stream: Stream) -> Result<bool> {
        let head = self.streams.get(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
        Ok(head.capture.is_some())
    }

    pub fn begin_capture(&mut self, stream: Stream) -> Result<()> {
        let head = self.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
        if head.capture.is_some() {
            return Err(failed("stream_begin_capture", 401, "CUDA_ERROR_ILLEGAL_STATE"));
        }
        head.capture = Some(Capture {
            thread: std::thread::current().id(),
            steps: Vec::new(),
            invalid: None,
        });
        Ok(())
    }

    pub fn end_capture(&mut self, stream: Stream) -> Result<driver::Graph> {
        const CALL: &str = "stream_end_capture";
        let head = self.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
        match &head.capture {
            None => return Err(failed(CALL, 401, "CUDA_ERROR_ILLEGAL_STATE")),
            Some(capture) if capture.thread != std::thread::current().id() => {
                return Err(failed(CALL, 908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"));
            }
            Some(_) => {}
        }
        let (key, capture) = (head.key, head.capture.take());
        let steps = match capture {
            Some(Capture {
                invalid: None, steps, ..
            }) => steps.into(),
            _ => return Err(failed(CALL, 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")),
        };
        self.next_graph += 1;
        self.graphs.insert(self.next_graph, Graph { key, steps });
        Ok(driver::Graph(self.next_graph))
    }

    /// Whether a wait for an event is part of a capture, and so already done: work captured from one stream is in order.
    pub fn waits_in_capture(&mut self, stream: Stream, recorded: Recorded) -> Result<bool> {
        let head = self.streams.get_mut(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
        match (&mut head.capture, recorded) {
            (None, Recorded::Never | Recorded::At(_)) => Ok(false),
            (Some(_), Recorded::Captured { stream: other }) if other == stream.0 => Ok(true),
            (_, Recorded::Captured { stream: other }) => Err(Error::Unavailable {
                what: format!(
                    "a wait of stream {} for an event captured from stream {other}",
                    stream.0
                ),
                reason: "the simulated node captures one stream, without forks and joins".into(),
            }),
            (Some(_), Recorded::Never) => Ok(true),
            (Some(capture), Recorded::At(_)) => {
                capture.refuse("stream_wait_event");
                Err(failed("stream_wait_event", 905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"))
            }
        }
    }

    pub fn instantiate(&mut self, graph: driver::Graph, stream: Stream) -> Result<GraphExec> {
        let graph = self.graphs.get(&graph.0).ok_or_else(|| no_graph("graph", graph.0))?;
        let graph = graph.clone();
        self.check_stream(&graph, stream)?;
        self.next_event += 1;
        self.next_graph += 1;
        let event = self.next_event;
        let executable = Executable {
            graph,
            event,
            last: None,
        };
        self.executables.insert(self.next_graph, executable);
        Ok(GraphExec(self.next_graph))
    }

    /// Kernels of a graph run where they were captured, whatever stream orders it on CUDA; here only on streams there.
    fn check_stream(&self, graph: &Graph, stream: Stream) -> Result<()> {
        let place = |key: StreamKey| (key.device, key.share, key.shares);
        let head = self.streams.get(&stream.0).ok_or_else(|| bad_stream(stream.0))?;
        if place(head.key) == place(graph.key) {
            return Ok(());
        }
        let told = |(device, share, shares)| format!("of device {device}, share {share} of {shares}");
        Err(Error::bad_argument(
            "stream",
            told(place(head.key)),
            format!("one {}, where the graph was captured", told(place(graph.key))),
        ))
    }

    /// A graph to be launched on `stream`.
    pub fn executable(&self, exec: GraphExec, stream: Stream) -> Result<&Executable> {
        let executable = self.executables.get(&exec.0);
        let executable = executable.ok_or_else(|| no_graph("executable graph", exec.0))?;
        self.check_stream(&executable.graph, stream)?;
        Ok(executable)
    }

    pub fn launch_graph(&mut self, exec: GraphExec, stream: Stream) -> Result<()> {
        let &Executable { ref graph, event, last } = self.executable(exec, stream)?;
        let steps = graph.steps.clone();
        if let Some(capture) = self.streams.get_mut(&stream.0).and_then(|head| head.capture.as_mut()) {
            return Err(capture.refuse("graph_launch"));
        }
        if let Some((other, record)) = last
            && other != stream.0
        {
            self.enqueue(stream.0, Command::Wait { event, record })?;
        }
        for step in steps.iter() {
            self.enqueue(stream.0, step.command())?;
        }
        let record = self.next_record + 1;
        self.enqueue(stream.0, Command::Record { event, record })?;
        self.next_record = record;
        if let Some(executable) = self.executables.get_mut(&exec.0) {
            executable.last = Some((stream.0, record));
        }
        Ok(())
    }

    pub fn destroy_executable(&mut self, exec: GraphExec) -> Result<()> {
        let gone = self.executables.remove(&exec.0);
        gone.map(drop).ok_or_else(|| no_graph("executable graph", exec.0))
    }

    pub fn destroy_graph(&mut self, graph: driver::Graph) -> Result<()> {
        let gone = self.graphs.remove(&graph.0);
        gone.map(drop).ok_or_else(|| no_graph("graph", graph.0))
    }
}

impl SimNode {
    /// That the calling thread captures nothing: `call` may wait for a device, which a capture does not.
    pub(super) fn no_capture_here(&self, call: &'static str) -> Result<()> {
        let me = std::thread::current().id();
        let mut s = self.node.shared.lock();
        let mut refused = Ok(());
        let captures = s.streams.values_mut().filter_map(|head| head.capture.as_mut());
        for capture in captures.filter(|capture| capture.thread == me) {
            refused = Err(capture.refuse(call));
        }
        refused
    }
}
