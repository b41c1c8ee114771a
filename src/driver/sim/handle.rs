//! [`SimNode`]: a handle on the node's thread, and what no real machine offers: faults, a digest of the schedule, its time.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::arena::Arena;
use super::arguments::{check_clock, check_faults, check_links, check_seen};
use super::character::Faults;
use super::config::{Fault, LaunchHook, SimConfig};
use super::launch::share_of;
use super::node::Node;
use super::shared::{Ask, bad_stream};
use super::stream::{Command, StreamKey};
use super::table::{Entry, entries};
use super::timed::{self, Usage};
use crate::driver::{Place, Stream};
use crate::error::{Error, Result};

/// A simulated node. Its thread, its memory and whatever still runs on it end with it.
pub struct SimNode {
    // First: its thread is joined before the arena, which it uses, can go.
    pub(super) node: Node,
    pub(super) arena: Arc<Arena>,
    pub(super) kernels: HashMap<&'static str, Entry>,
    /// The devices that are seen, by the machine's numbers.
    pub(super) seen: Vec<usize>,
    pub(super) sms: u32,
    pub(super) hook: Option<LaunchHook>,
    /// As it was made; faults have changed since.
    pub(super) config: SimConfig,
    faults: Mutex<Vec<Fault>>,
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimNode")
            .field("seen", &self.seen)
            .field("sms", &self.sms)
            .finish_non_exhaustive()
    }
}

impl SimNode {
    /// Starts a node.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a number of devices or SMs out of range or a fault that names a device that is not
    /// there; [`Error::Driver`] where the system does not give addresses or a thread.
    pub fn new(config: SimConfig) -> Result<SimNode> {
        if !(1..=16).contains(&config.gpus) {
            return Err(Error::bad_argument("gpus", config.gpus, "1 to 16"));
        }
        if !(1..=256).contains(&config.sms) {
            return Err(Error::bad_argument("sms", config.sms, "1 to 256"));
        }
        check_faults(&config.faults, config.gpus)?;
        check_links(&config.links, config.gpus)?;
        let seen = config.seen();
        check_seen(&seen, config.gpus)?;
        if let Some(node) = &config.clock {
            node.check()?;
        }
        check_clock(&config)?;
        let mut entries = if config.computes { entries()? } else { timed::entries() };
        if config.computes && config.clock.is_some() {
            let on_clock: HashSet<_> = timed::entries().into_iter().map(|e| e.name).collect();
            entries.retain(|e| on_clock.contains(e.name));
        }
        let kernels = entries.into_iter().map(|e| (e.name, e)).collect();
        let arena = Arc::new(Arena::new(config.gpus, !config.computes)?);
        if config.free_running {
            arena.outside.run_free();
        }
        let (sms, hook) = (config.sms, config.launch_hook.clone());
        let faults = Mutex::new(config.faults.clone());
        let node = Node::start(config.clone(), arena.clone())?;
        Ok(SimNode {
            node,
            arena,
            kernels,
            seen,
            sms,
            hook,
            config,
            faults,
        })
    }

    /// Plants one more fault, between two launches or under a running kernel.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a device that is not there.
    pub fn plant(&self, fault: Fault) -> Result<()> {
        check_faults(&[fault], self.config.gpus)?;
        check_clock(&SimConfig {
            faults: vec![fault],
            ..self.config.clone()
        })?;
        let mut planted = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        planted.push(fault);
        let faults = Faults::new(&planted);
        self.node.shared.ask(|answer| Ask::Plant { faults, answer })
    }

    /// Takes all planted faults away.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn clear_faults(&self) -> Result<()> {
        let mut planted = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        planted.clear();
        self.node.shared.ask(|answer| Ask::Plant {
            faults: Faults::default(),
            answer,
        })
    }

    /// A digest of everything the schedule did so far: equal for equal runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn schedule_digest(&self) -> Result<u64> {
        Ok(self.node.shared.ask(|answer| Ask::State { answer })?.0)
    }

    /// Simulated nanoseconds so far.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn simulated_time_ns(&self) -> Result<u64> {
        Ok(self.node.shared.ask(|answer| Ask::State { answer })?.1)
    }

    /// How busy the units of a node with a clock were; nothing of one without.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the node's thread has ended.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        self.node.shared.ask(|answer| Ask::Usage { answer })
    }

    /// Names of the kernels compiled in.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.kernels.keys().copied().collect();
        names.sort_unstable();
        names
    }

    pub(super) fn sms_of(&self, place: Place) -> u32 {
        share_of(self.sms, place.share, place.shares).len() as u32
    }

    pub(super) fn enqueue(&self, stream: Stream, command: Command) -> Result<u64> {
        self.node.shared.lock().enqueue(stream.0, command)
    }

    /// Enqueues a command and blocks until it is done.
    pub(super) fn run(&self, stream: Stream, command: Command) -> Result<()> {
        let position = self.enqueue(stream, command)?;
        self.node.shared.wait(stream.0, position)
    }

    pub(super) fn stream_key(&self, stream: Stream) -> Result<StreamKey> {
        self.node
            .shared
            .lock()
            .streams
            .get(&stream.0)
            .map(|h| h.key)
            .ok_or_else(|| bad_stream(stream.0))
    }
}
