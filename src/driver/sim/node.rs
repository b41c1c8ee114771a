//! The node's thread: answers questions, takes over what callers have enqueued, and advances the machine when it may.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::arena::Arena;
use super::clock::join;
use super::config::SimConfig;
use super::executor::{Stop, advance};
use super::machine::Machine;
use super::report;
use super::shared::{Ask, Shared, State, gone};
use super::stream::StreamKey;
use super::table::self_slot;
use crate::error::{Error, Result};

/// The running node.
pub(super) struct Node {
    pub shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub fn start(config: SimConfig, arena: Arc<Arena>) -> Result<Node> {
        let shared = Arc::new(Shared::new(config.gpus, config.patience, arena.outside.clone()));
        let theirs = shared.clone();
        let (started, starting) = channel();
        let thread = std::thread::Builder::new()
            .name("simulated node".into())
            .spawn(move || match Machine::new(&config, arena) {
                Ok(machine) => {
                    let _end = End(theirs.clone());
                    let _ = started.send(Ok(()));
                    run(&theirs, machine);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(|e| Error::Driver {
                call: "spawn",
                code: e.raw_os_error().unwrap_or(0).into(),
                message: e.to_string(),
            })?;
        starting.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Node {
            shared,
            thread: Some(thread),
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        {
            let mut s = self.shared.lock();
            s.shutdown = true;
            self.shared.bell.ring();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// However the node's thread ends, nobody goes on waiting for it.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut s = self.0.lock();
        s.ended = true;
        s.dead.get_or_insert_with(gone);
        s.asks.clear();
        self.0.progress.notify_all();
    }
}

/// The node's thread.
fn run(shared: &Shared, machine: Machine) {
    let slot = self_slot();
    let m = Box::into_raw(Box::new(machine));
    // SAFETY: just made.
    unsafe { (*m).me = m };
    let mut s = shared.lock();
    loop {
        // SAFETY: no fiber is running outside `advance`; this thread alone has the machine.
        let machine = unsafe { &mut *m };
        shared.bell.attention.store(false, Ordering::Relaxed);
        for ask in std::mem::take(&mut s.asks) {
            answer(machine, ask);
        }
        if s.shutdown {
            break;
        }
        if s.dead.is_some() || !s.may_advance() {
            s.advancing = false;
            s = shared.bell.work.wait(s).unwrap_or_else(PoisonError::into_inner);
            s.quiet = false;
            continue;
        }
        s.advancing = true;
        ingest(machine, &mut s);
        drop(s);
        // SAFETY: the machine is this thread's, and `slot` is this thread's `tw_self`.
        let stop = unsafe { advance(m, slot, &shared.bell.attention) };
        s = shared.lock();
        // SAFETY: as above.
        publish(unsafe { &mut *m }, &mut s);
        // A caller that rings does so with the lock.
        s.quiet = matches!(stop, Stop::Quiet) && !shared.bell.attention.load(Ordering::Relaxed);
        if let Stop::Fault(report) = stop {
            s.dead = Some(Error::Simulator { report });
            // SAFETY: as above.
            unsafe { &mut *m }.abandon();
            for head in s.streams.values_mut() {
                head.queue.clear();
            }
        }
        shared.progress.notify_all();
    }
    drop(s);
    // SAFETY: made by `Box::into_raw` above; fibers are reset before the slab they stand on goes.
    unsafe {
        (*m).abandon();
        drop(Box::from_raw(m));
    }
}

fn answer(m: &mut Machine, ask: Ask) {
    // A caller that no longer listens is no concern of the node.
    let _ = match ask {
        Ask::Peek { addr, bytes, answer } => answer
            .send(
                m.host_read(addr, bytes, None)
                    .map_err(|t| bad_range(report::stream_trouble(m, t))),
            )
            .is_ok(),
        Ask::Poke { addr, data, answer } => {
            let result = m
                .host_write(addr, &data)
                .map_err(|t| bad_range(report::stream_trouble(m, t)));
            answer.send(result).is_ok()
        }
        Ask::Plant { faults, answer } => {
            m.plant(faults);
            answer.send(Ok(())).is_ok()
        }
        Ask::Happened { event, record, answer } => {
            let happened = m.events.get(&event).is_some_and(|(last, ..)| *last >= record);
            answer.send(Ok(happened)).is_ok()
        }
        Ask::When { event, answer } => answer.send(Ok(m.events.get(&event).map(|(.., at)| *at))).is_ok(),
        Ask::End { key } => m.streams.remove(&key).is_some(),
        Ask::Usage { answer } => {
            let usage = m.timed.as_ref().map_or_else(Vec::new, |timed| timed.usage());
            answer.send(Ok(usage)).is_ok()
        }
        Ask::State { answer } => {
            m.pass_time();
            let now = m.timed.as_ref().map_or(m.now, |timed| timed.now_ns());
            answer.send(Ok((m.digest, now))).is_ok()
        }
    };
}

fn bad_range(report: String) -> Error {
    Error::bad_argument("address", report, "bytes inside one allocation")
}

/// Takes over what callers have enqueued, in an order that does not depend on theirs.
fn ingest(m: &mut Machine, s: &mut State) {
    m.targets.clear();
    m.satisfied = false;
    for (key, position) in std::mem::take(&mut s.found) {
        learn(m, key, position);
    }
    let heads = s
        .streams
        .values_mut()
        .filter(|h| h.done < h.enqueued || !h.queue.is_empty());
    for head in heads {
        let asked = m.timed.as_ref().map_or(0, |timed| timed.now());
        let stream = m.streams.entry(head.key).or_default();
        for command in head.queue.drain(..) {
            stream.queue.push_back((command, m.host.clone(), asked));
        }
    }
    m.streams_stir = true;
    for w in s.waiters.values() {
        if let Some(head) = s.streams.get(&w.stream) {
            m.targets.push((head.key, w.position));
        }
    }
}

/// The host has synchronised with a position of a stream, if that is done.
fn learn(m: &mut Machine, key: StreamKey, position: u64) {
    if let Some(stream) = m.streams.get(&key)
        && stream.done >= position
    {
        join(&mut m.host, &Rc::clone(&stream.rows), &mut Vec::new());
    }
}

/// Tells callers how far the streams are, and the host what it may now know.
fn publish(m: &mut Machine, s: &mut State) {
    for (key, position) in std::mem::take(&mut m.targets) {
        learn(m, key, position);
    }
    if m.linked() {
        m.foreign.tell(&m.host);
    }
    for head in s.streams.values_mut() {
        match m.streams.get(&head.key) {
            Some(stream) => head.done = stream.done,
            // Closed, which was its last command; or not used yet.
            None if head.enqueued > 0 && head.queue.is_empty() => head.done = head.enqueued,
            None => {}
        }
    }
    for (traffic, device) in s.traffic.iter_mut().zip(&m.devices) {
        *traffic = device.traffic;
    }
    // The clock counts lane 0's for its warp.
    if let Some(timed) = m.timed.as_ref().filter(|_| !m.computes) {
        s.traffic.copy_from_slice(timed.traffic());
    }
}

impl Machine {
    /// Drops everything that runs: no fiber will be resumed again.
    pub fn abandon(&mut self) {
        self.trouble = None;
        if let Some(timed) = &mut self.timed {
            timed.abandon();
        }
        for slot in 1..self.slots.len() {
            let cta = self.slots[slot].cta;
            if !cta.is_null() {
                let clock = self.slots[slot].clock;
                self.free_cta(cta, clock);
            }
        }
        self.kernels.clear();
        self.following.clear();
        self.streams.clear();
        self.active.clear();
        self.parked.clear();
        self.watch.clear();
        self.stirred.clear();
        self.loads.clear();
    }
}
