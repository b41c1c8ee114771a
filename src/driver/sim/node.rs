//! The node's thread and how callers talk to it.
//!
//! One thread owns the [`Machine`]. Callers put commands into stream queues and block until a position of a stream is
//! reached; the node advances only while every attached thread is blocked (with none attached: while any thread is), and
//! stops as soon as one blocked call has what it waits for. So what the machine does depends on the program alone, not
//! on when its threads happen to run.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use super::arena::Arena;
use super::clock::join;
use super::config::{Faults, SimConfig};
use super::executor::{Stop, advance};
use super::machine::Machine;
use super::report;
use super::stream::{Command, StreamKey};
use super::table::self_slot;
use crate::error::{Error, Result};

/// Questions that are answered between two bursts, behind no stream.
pub(super) enum Ask {
    Peek {
        addr: u64,
        bytes: u64,
        answer: Sender<Result<Vec<u8>>>,
    },
    Poke {
        addr: u64,
        data: Vec<u8>,
        answer: Sender<Result<()>>,
    },
    Plant {
        faults: Faults,
        answer: Sender<Result<()>>,
    },
    /// Schedule digest, simulated time.
    State {
        answer: Sender<Result<(u64, u64)>>,
    },
}

/// A stream as callers see it.
pub(super) struct Head {
    pub key: StreamKey,
    queue: Vec<Command>,
    enqueued: u64,
    done: u64,
}

impl Head {
    pub fn enqueued(&self) -> u64 {
        self.enqueued
    }
}

struct Waiter {
    stream: usize,
    position: u64,
    thread: ThreadId,
}

#[derive(Default)]
pub(super) struct State {
    pub streams: BTreeMap<usize, Head>,
    pub next_stream: usize,
    pub ordinals: HashMap<(usize, usize, usize), u64>,
    /// The last record of each event that was asked for.
    pub events: BTreeMap<usize, u64>,
    pub next_event: usize,
    pub next_record: u64,
    asks: Vec<Ask>,
    waiters: BTreeMap<u64, Waiter>,
    next_waiter: u64,
    attached: HashMap<ThreadId, usize>,
    advancing: bool,
    dead: Option<Error>,
    shutdown: bool,
    /// Nobody runs the node any more.
    ended: bool,
    pub traffic: Vec<(u64, u64)>,
}

impl State {
    fn reached(&self, w: &Waiter) -> bool {
        self.streams.get(&w.stream).is_none_or(|s| s.done >= w.position)
    }

    fn may_advance(&self) -> bool {
        let blocked = |t: &ThreadId| self.waiters.values().any(|w| w.thread == *t);
        !self.waiters.is_empty() && !self.waiters.values().any(|w| self.reached(w)) && self.attached.keys().all(blocked)
    }

    /// Puts a command behind the work in a stream; its position there.
    pub fn enqueue(&mut self, stream: usize, command: Command) -> Result<u64> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let head = self.streams.get_mut(&stream).ok_or_else(|| bad_stream(stream))?;
        head.queue.push(command);
        head.enqueued += 1;
        Ok(head.enqueued)
    }

    pub fn add_stream(&mut self, device: usize, share: usize, shares: usize) -> usize {
        let ordinal = self.ordinals.entry((device, share, shares)).or_default();
        let key = StreamKey {
            device,
            share,
            shares,
            ordinal: *ordinal,
        };
        *ordinal += 1;
        self.next_stream += 1;
        let head = Head {
            key,
            queue: Vec::new(),
            enqueued: 0,
            done: 0,
        };
        self.streams.insert(self.next_stream, head);
        self.next_stream
    }
}

pub(super) fn bad_stream(stream: usize) -> Error {
    Error::bad_argument("stream", stream, "a live stream of this node")
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// The node's thread sleeps here.
    work: Condvar,
    /// Blocked callers sleep here.
    progress: Condvar,
    attention: AtomicBool,
    patience: Duration,
}

impl Shared {
    /// The state. It stays consistent if a thread dies with the lock: every change is one step.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `stream` has done `position` commands.
    pub fn wait(&self, stream: usize, position: u64) -> Result<()> {
        let mut s = self.lock();
        if let Some(error) = &s.dead {
            return Err(error.clone());
        }
        let me = s.next_waiter;
        s.next_waiter += 1;
        s.waiters.insert(
            me,
            Waiter {
                stream,
                position,
                thread: std::thread::current().id(),
            },
        );
        self.work.notify_one();
        let result = loop {
            if s.waiters.get(&me).is_none_or(|w| s.reached(w)) {
                break Ok(());
            }
            if let Some(error) = &s.dead {
                break Err(error.clone());
            }
            let before = s.streams.get(&stream).map(|h| h.done);
            let (guard, timeout) = self
                .progress
                .wait_timeout(s, self.patience)
                .unwrap_or_else(PoisonError::into_inner);
            s = guard;
            let stuck = timeout.timed_out() && !s.advancing && before == s.streams.get(&stream).map(|h| h.done);
            if stuck && !s.may_advance() && !s.waiters.get(&me).is_none_or(|w| s.reached(w)) {
                break Err(Error::Simulator {
                    report: format!(
                        "the node could not advance for {} s: of {} attached threads only {} are blocked in driver calls; \
                         a thread that waits elsewhere must drop its guard first",
                        self.patience.as_secs(),
                        s.attached.len(),
                        s.waiters.len()
                    ),
                });
            }
        };
        s.waiters.remove(&me);
        // The node may go on if the others are all blocked already.
        self.work.notify_one();
        result
    }

    /// Asks the node's thread and waits for its answer, which comes between two bursts.
    pub fn ask<T>(&self, ask: impl FnOnce(Sender<Result<T>>) -> Ask) -> Result<T> {
        let (answer, answered): (Sender<Result<T>>, Receiver<Result<T>>) = channel();
        {
            let mut s = self.lock();
            if s.ended {
                return Err(gone());
            }
            s.asks.push(ask(answer));
            self.attention.store(true, Ordering::Relaxed);
            self.work.notify_one();
        }
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }

    pub fn attach(&self) -> ThreadId {
        let thread = std::thread::current().id();
        *self.lock().attached.entry(thread).or_default() += 1;
        thread
    }

    pub fn detach(&self, thread: ThreadId) {
        let mut s = self.lock();
        if let Some(n) = s.attached.get_mut(&thread) {
            *n -= 1;
            if *n == 0 {
                s.attached.remove(&thread);
            }
        }
        self.work.notify_one();
    }
}

fn gone() -> Error {
    Error::Unavailable {
        what: "the simulated node".into(),
        reason: "its thread has ended".into(),
    }
}

/// The running node.
pub(super) struct Node {
    pub shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub fn start(config: SimConfig, arena: Arc<Arena>) -> Result<Node> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                traffic: vec![(0, 0); config.gpus],
                ..State::default()
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            attention: AtomicBool::new(false),
            patience: config.patience,
        });
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
            self.shared.attention.store(true, Ordering::Relaxed);
            self.shared.work.notify_one();
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
    let mut s = shared.lock();
    loop {
        // SAFETY: no fiber is running outside `advance`; this thread alone has the machine.
        let machine = unsafe { &mut *m };
        shared.attention.store(false, Ordering::Relaxed);
        for ask in std::mem::take(&mut s.asks) {
            answer(machine, ask);
        }
        if s.shutdown {
            break;
        }
        if s.dead.is_some() || !s.may_advance() {
            s.advancing = false;
            s = shared.work.wait(s).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        s.advancing = true;
        ingest(machine, &mut s);
        drop(s);
        // SAFETY: the machine is this thread's, and `slot` is this thread's `tw_self`.
        let stop = unsafe { advance(m, slot, &shared.attention) };
        s = shared.lock();
        // SAFETY: as above.
        publish(unsafe { &mut *m }, &mut s);
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
        Ask::State { answer } => answer.send(Ok((m.digest, m.now))).is_ok(),
    };
}

fn bad_range(report: String) -> Error {
    Error::bad_argument("address", report, "bytes inside one allocation")
}

/// Takes over what callers have enqueued, in an order that does not depend on theirs.
fn ingest(m: &mut Machine, s: &mut State) {
    m.targets.clear();
    m.satisfied = false;
    let heads = s
        .streams
        .values_mut()
        .filter(|h| h.done < h.enqueued || !h.queue.is_empty());
    for head in heads {
        let stream = m.streams.entry(head.key).or_default();
        for command in head.queue.drain(..) {
            stream.queue.push_back((command, m.host.clone()));
        }
    }
    m.streams_stir = true;
    for w in s.waiters.values() {
        if let Some(head) = s.streams.get(&w.stream) {
            m.targets.push((head.key, w.position));
        }
    }
}

/// Tells callers how far the streams are, and the host what it may now know.
fn publish(m: &mut Machine, s: &mut State) {
    for (key, position) in std::mem::take(&mut m.targets) {
        if let Some(stream) = m.streams.get(&key)
            && stream.done >= position
        {
            join(&mut m.host, &Rc::clone(&stream.rows), &mut Vec::new());
        }
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
}

impl Machine {
    /// Drops everything that runs: no fiber will be resumed again.
    pub fn abandon(&mut self) {
        self.trouble = None;
        for slot in 1..self.slots.len() {
            let cta = self.slots[slot].cta;
            if !cta.is_null() {
                let clock = self.slots[slot].clock;
                self.free_cta(cta, clock);
            }
        }
        self.kernels.clear();
        self.streams.clear();
        self.active.clear();
        self.parked.clear();
        self.watch.clear();
        self.stirred.clear();
    }
}
