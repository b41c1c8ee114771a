//! `--graph N`: every rank's part is captured once, and launched N times from then on.
//!
//! The ranks' threads meet between uploading and launching: both may wait for a device, whose kernels wait for the others.

use std::time::Duration;

use tileweave::Node;
use tileweave::driver::GraphExec;

use super::execute::{Lane, on_every_rank};
use crate::failure::Failure;

/// Bound on the ranks' meeting on the host, in wall time: capturing takes no time to speak of.
const MEETING: Duration = Duration::from_secs(60);

/// A rank's part, ready to be launched.
pub struct Captured {
    node: Node,
    exec: GraphExec,
}

impl Drop for Captured {
    fn drop(&mut self) {
        // Whether it can be ended changes nothing for what was run.
        let _ = self.node.driver().graph_exec_destroy(self.exec);
    }
}

impl Captured {
    /// Captures what the lane launches; nothing runs.
    fn new(node: &Node, lane: &mut Lane) -> tileweave::Result<Captured> {
        let (driver, stream) = (node.driver(), lane.rank.stream());
        driver.stream_begin_capture(stream)?;
        let launched = lane.launch();
        let graph = driver.stream_end_capture(stream);
        launched?;
        let graph = graph?;
        let exec = driver.graph_instantiate(graph, stream);
        let destroyed = driver.graph_destroy(graph);
        let node = node.clone();
        let captured = Captured { node, exec: exec? };
        destroyed?;
        driver.graph_upload(captured.exec, stream)?;
        Ok(captured)
    }

    pub fn launch(&self, lane: &Lane) -> tileweave::Result<()> {
        self.node.driver().graph_launch(self.exec, lane.rank.stream())
    }
}

/// Captures every rank's part, and launches all but the last of `replays`.
pub fn capture(node: &Node, lanes: &mut [Lane], replays: u32) -> Result<(), Failure> {
    // Of a rank that fails here nobody must wait: so first all capture, and then all launch.
    on_every_rank(node, lanes, |lane| {
        let captured = Captured::new(node, lane)?;
        lane.graph = Some(captured);
        lane.rank.host_barrier(MEETING)
    })?;
    on_every_rank(node, lanes, |lane| {
        (1..replays).try_for_each(|_| lane.enqueue())?;
        lane.rank.synchronize()
    })?;
    Ok(())
}
