//! How callers talk to the node's thread.
//!
//! One thread owns the machine ([`node`](super::node)). Callers put commands into stream queues and block until a position of a stream is
//! reached; the node advances only while every attached thread is blocked (with none attached: while any thread is), and
//! stops as soon as one blocked call has what it waits for. So what the machine does depends on the program alone, not
//! on when its threads happen to run. A [linked](super::foreign) node advances whenever there is work.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use super::capture::{Capture, Executable, Recorded};
use super::character::Faults;
use super::foreign::Outside;
use super::stream::{Command, StreamKey};
use super::timed::Usage;
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
    /// Whether the event's record of this number, or a later one, has happened.
    Happened {
        event: usize,
        record: u64,
        answer: Sender<Result<bool>>,
    },
    /// A stream without work is no more.
    End {
        key: StreamKey,
    },
    /// When the last record of an event that has happened did, in the node's time.
    When {
        event: usize,
        answer: Sender<Result<Option<u64>>>,
    },
    /// How busy the clock's units were.
    Usage {
        answer: Sender<Result<Vec<Usage>>>,
    },
    /// What kernels asked of the machine.
    /// Schedule digest, simulated time.
    State {
        answer: Sender<Result<(u64, u64)>>,
    },
}

/// A stream as callers see it.
pub(super) struct Head {
    pub key: StreamKey,
    /// Not taken over by the node yet.
    pub queue: Vec<Command>,
    /// Commands so far, and how many of them are done.
    pub enqueued: u64,
    pub done: u64,
    /// Commands go here while there is one.
    pub capture: Option<Capture>,
}

impl Head {
    /// No work is left, and none is captured.
    pub fn is_idle(&self) -> bool {
        self.done >= self.enqueued && self.capture.is_none()
    }
}

/// A blocked call.
pub(super) struct Waiter {
    pub stream: usize,
    pub position: u64,
    thread: ThreadId,
}

/// Calls the node's thread. Rung with the state's lock held, so that it is not missed by one who is about to sleep.
#[derive(Default)]
pub(super) struct Bell {
    /// The node's thread should look up between two bursts.
    pub attention: AtomicBool,
    /// The node's thread sleeps here.
    pub work: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        self.attention.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }
}

#[derive(Default)]
pub(super) struct State {
    pub streams: BTreeMap<usize, Head>,
    pub next_stream: usize,
    pub ordinals: HashMap<(usize, usize, usize), u64>,
    /// The last record of each event that was asked for.
    pub events: BTreeMap<usize, Recorded>,
    pub next_event: usize,
    pub next_record: u64,
    pub asks: Vec<Ask>,
    pub waiters: BTreeMap<u64, Waiter>,
    next_waiter: u64,
    attached: HashMap<ThreadId, usize>,
    /// Threads that wait for each other outside the driver.
    elsewhere: HashMap<ThreadId, usize>,
    pub graphs: BTreeMap<usize, super::capture::Graph>,
    pub executables: BTreeMap<usize, Executable>,
    pub next_graph: usize,
    pub advancing: bool,
    /// A linked node that has found nothing to do.
    pub quiet: bool,
    /// Positions of streams that callers found done at once: the host has synchronised with them.
    pub found: BTreeMap<StreamKey, u64>,
    outside: Arc<Outside>,
    bell: Arc<Bell>,
    pub dead: Option<Error>,
    pub shutdown: bool,
    /// Nobody runs the node any more.
    pub ended: bool,
    pub traffic: Vec<(u64, u64)>,
}

impl State {
    fn reached(&self, w: &Waiter) -> bool {
        self.streams.get(&w.stream).is_none_or(|s| s.done >= w.position)
    }

    pub fn may_advance(&self) -> bool {
        if self.outside.linked() {
            return !self.quiet && self.streams.values().any(|h| h.done < h.enqueued);
        }
        let blocked = |t: &ThreadId| self.elsewhere.contains_key(t) || self.waiters.values().any(|w| w.thread == *t);
        !self.waiters.is_empty() && !self.waiters.values().any(|w| self.reached(w)) && self.attached.keys().all(blocked)
    }

    /// Puts a command behind the work in a stream, or into its capture; its position there.
    pub fn enqueue(&mut self, stream: usize, command: Command) -> Result<u64> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let head = self.streams.get_mut(&stream).ok_or_else(|| bad_stream(stream))?;
        if let Some(capture) = &mut head.capture {
            return capture.take(command).map(|()| head.enqueued);
        }
        head.queue.push(command);
        head.enqueued += 1;
        let position = head.enqueued;
        if self.outside.linked() {
            self.bell.ring();
        }
        Ok(position)
    }

    /// A caller has found `stream` at `position` without waiting. Where the node runs by itself the host learns by that.
    pub fn find_done(&mut self, stream: usize, position: u64) {
        if self.outside.linked()
            && let Some(head) = self.streams.get(&stream)
        {
            self.found.insert(head.key, position);
        }
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
            capture: None,
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
    pub bell: Arc<Bell>,
    /// Blocked callers sleep here.
    pub progress: Condvar,
    patience: Duration,
}

impl Shared {
    pub fn new(gpus: usize, patience: Duration, outside: Arc<Outside>) -> Shared {
        let bell: Arc<Bell> = Arc::default();
        Shared {
            state: Mutex::new(State {
                traffic: vec![(0, 0); gpus],
                outside,
                bell: bell.clone(),
                ..State::default()
            }),
            bell,
            progress: Condvar::new(),
            patience,
        }
    }

    /// The state. It stays consistent if a thread dies with the lock: every change is one step.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `stream` has done `position` commands.
    pub fn wait(&self, stream: usize, position: u64) -> Result<()> {
        self.wait_at_most(stream, position, None).map(drop)
    }

    /// The same, until `end` at the latest; whether it has.
    pub fn wait_at_most(&self, stream: usize, position: u64, end: Option<Instant>) -> Result<bool> {
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
        self.bell.work.notify_one();
        let result = loop {
            if s.waiters.get(&me).is_none_or(|w| s.reached(w)) {
                s.find_done(stream, position);
                break Ok(true);
            }
            if let Some(error) = &s.dead {
                break Err(error.clone());
            }
            let left = end.map_or(self.patience, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break Ok(false);
            }
            let before = s.streams.get(&stream).map(|h| h.done);
            let (guard, timeout) = self
                .progress
                .wait_timeout(s, left.min(self.patience))
                .unwrap_or_else(PoisonError::into_inner);
            s = guard;
            let stuck = timeout.timed_out()
                && left >= self.patience
                && !s.advancing
                && before == s.streams.get(&stream).map(|h| h.done);
            if stuck && s.outside.linked() {
                break Err(Error::Simulator {
                    report: format!(
                        "the stream waits for what nobody has enqueued in {} s",
                        self.patience.as_secs()
                    ),
                });
            }
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
        self.bell.work.notify_one();
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
            self.bell.ring();
        }
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Has a linked node look for work.
    pub fn wake(&self) {
        let s = self.lock();
        if s.outside.linked() {
            self.bell.ring();
        }
    }

    pub fn attach(&self) -> ThreadId {
        let thread = std::thread::current().id();
        *self.lock().attached.entry(thread).or_default() += 1;
        thread
    }

    pub fn detach(&self, thread: ThreadId) {
        leave(&mut self.lock().attached, thread);
        self.bell.work.notify_one();
    }

    /// The calling thread waits for other threads, and holds nobody up.
    pub fn go_elsewhere(&self) -> ThreadId {
        let thread = std::thread::current().id();
        *self.lock().elsewhere.entry(thread).or_default() += 1;
        self.bell.work.notify_one();
        thread
    }

    /// It runs again. No wake-up: with one thread less that is blocked, the node can only do less.
    pub fn come_back(&self, thread: ThreadId) {
        leave(&mut self.lock().elsewhere, thread);
    }
}

fn leave(threads: &mut HashMap<ThreadId, usize>, thread: ThreadId) {
    if let Some(n) = threads.get_mut(&thread) {
        *n -= 1;
        if *n == 0 {
            threads.remove(&thread);
        }
    }
}

pub(super) fn gone() -> Error {
    Error::Unavailable {
        what: "the simulated node".into(),
        reason: "its thread has ended".into(),
    }
}
