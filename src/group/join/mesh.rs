//! What remains between processes that have joined: a socket for each pair of ranks, and one thread that listens to all of its
//! rank's. A socket ([`Line`]) that closes without a farewell is a rank that died; everybody hears of it at once, from the kernel.
//!
//! A packet is a JSON word. A rank says when it comes to the host barrier and when it gives up there, why the group has failed, and
//! what it has launched when it goes in good order. What a peer sends is bounded; a peer that sends anything else counts as lost.
//!
//! A rank that goes may leave kernels behind that still run. Its sockets stay open with them ([`Mesh::line`]), unheard, so that
//! their end comes when the kernels are done, or with the process: peers look then how far it has come.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::hall::{Given, Hall};
use super::line::{Came, LONGEST, Line};
use super::wire::{Broken, ready};
use crate::error::{Error, Result, WaitRecord};

/// How often one that waits here looks for a failure that nobody wakes it for: kernels only write it down.
const LOOK: Duration = Duration::from_millis(20);
/// How long a peer's thread may take to make room for a packet. It never waits for anybody, so it only has to be scheduled.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// It has come to the host barrier, as often.
    Barrier(u64),
    /// It has given up there, in that round.
    Left(u64),
    /// The group has failed.
    Failed(Reason),
    /// It goes in good order: operations launched, where that is known.
    Farewell(Option<u64>),
}

/// Why a group failed, as one rank tells the others: they return the same error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    Gone {
        rank: usize,
        why: String,
    },
    Disagreed {
        epoch: u64,
        rank: usize,
        peer: usize,
        ours: String,
        theirs: String,
    },
    Wait {
        root: Box<WaitRecord>,
        verdict: String,
        chain: Vec<WaitRecord>,
    },
    Other(String),
}

/// What a peer has said last of the host barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    At(u64),
    Left(u64),
}

/// What is known of a peer.
#[derive(Debug)]
struct Peer {
    seat: Seat,
    farewell: Option<Option<u64>>,
    /// Nothing more comes from it, and it said no farewell.
    lost: bool,
}

/// What the listening thread tells the group. It may be called until the mesh is dropped.
pub(crate) trait Hears: Send + Sync {
    /// `peer` died, or speaks nonsense.
    fn lost(&self, peer: usize, why: &str);
    /// `peer` knows that the group has failed.
    fn failed(&self, peer: usize, reason: Reason);
    /// `peer` has gone in good order, having launched so many operations.
    fn farewell(&self, _peer: usize, _launched: Option<u64>) {}
    /// `peer`, which has said farewell, has ended: its kernels are done, or its process is gone and they with it.
    fn ended(&self, _peer: usize) {}
}

#[derive(Debug)]
struct Inner {
    rank: usize,
    /// By rank; none for this one.
    lines: Vec<Option<Line>>,
    /// Wakes the thread, which then ends.
    end: OwnedFd,
    ended: AtomicBool,
    peers: Mutex<Vec<Peer>>,
    changed: Condvar,
}

#[derive(Debug)]
pub(crate) struct Mesh {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mesh {
    /// Makes a socket for each pair of ranks, in a phase of its own: the lower rank does, and gives the other its end.
    pub fn join(hall: &mut Hall, rank: usize, world: usize) -> Result<Mesh> {
        let mut lines: Vec<Option<Line>> = (0..world).map(|_| None).collect();
        let made = (rank + 1..world).map(|peer| {
            let (near, far) = pair()?;
            lines[peer] = Some(Line::packets(near));
            Ok((Some(peer), far))
        });
        let made: Result<Given> = made.collect();
        let heard = hall.gather("sockets", made.map(|given| ((), given)))?;
        for (peer, ((), mut fds)) in heard.into_iter().enumerate() {
            if fds.len() != usize::from(peer < rank) {
                let (value, expected) = (fds.len(), "one from each lower rank");
                return Err(Error::bad_argument(
                    format!("sockets from rank {peer}"),
                    value,
                    expected,
                ));
            }
            if let Some(fd) = fds.pop() {
                lines[peer] = Some(Line::packets(fd));
            }
        }
        Mesh::of(rank, lines)
    }

    /// Of a line to every other rank.
    pub fn of(rank: usize, lines: Vec<Option<Line>>) -> Result<Mesh> {
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed("eventfd", errno))?;
        let peer = || Peer {
            seat: Seat::At(0),
            farewell: None,
            lost: false,
        };
        let inner = Inner {
            rank,
            end,
            ended: AtomicBool::new(false),
            peers: Mutex::new(lines.iter().map(|_| peer()).collect()),
            lines,
            changed: Condvar::new(),
        };
        Ok(Mesh {
            inner: Arc::new(inner),
            thread: Mutex::new(None),
        })
    }

    /// Begins to listen. Words that came before are heard now.
    pub fn listen(&self, hears: Arc<dyn Hears>) -> Result<()> {
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new()
            .name(format!("tileweave {}", self.inner.rank))
            .spawn(move || inner.run(&*hears))
            .map_err(|error| Error::Driver {
                call: "spawn",
                code: error.raw_os_error().unwrap_or(0).into(),
                message: error.to_string(),
            })?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Tells all that the group has failed. Whoever cannot be told will see this rank's socket close.
    pub fn failed(&self, reason: Reason) {
        self.inner.say_to_all(&Word::Failed(reason), Duration::ZERO);
    }

    /// Tells all that this rank goes in good order. Does not wait.
    pub fn farewell(&self, launched: Option<u64>) {
        self.inner.say_to_all(&Word::Farewell(launched), Duration::ZERO);
    }

    /// Its sockets, for whoever is to keep them open longer than the mesh.
    pub fn line(&self) -> Arc<dyn std::fmt::Debug + Send + Sync> {
        self.inner.clone()
    }

    /// `peer`, which has gone, turned out to have come so far.
    pub fn gone_after(&self, peer: usize, operations: u64) {
        self.inner.lock()[peer].farewell = Some(Some(operations));
    }

    /// What `peer` had launched when it went in good order; `None`: it has not gone.
    pub fn gone(&self, peer: usize) -> Option<Option<u64>> {
        self.inner.lock()[peer].farewell
    }

    /// Comes to the host barrier in `round` (from 1), and waits for all, at most until `until` or `failed`: who is absent, and who has
    /// left; none is neither once all have come.
    pub fn meet(&self, round: u64, until: Instant, failed: impl Fn() -> bool) -> (Vec<usize>, Vec<usize>) {
        self.inner.say_to_all(&Word::Barrier(round), PATIENCE);
        let rank = self.inner.rank;
        let here = |seat: Seat| match seat {
            Seat::At(at) => at >= round,
            // It has been there.
            Seat::Left(at) => at > round,
        };
        let over = |peers: &[Peer]| {
            let mut others = (0..peers.len()).filter(|peer| *peer != rank && !here(peers[*peer].seat));
            // One that has gone, or is lost, will not come any more.
            let silent = |peer: usize| peers[peer].farewell.is_some() || peers[peer].lost;
            others.clone().next().is_none() || others.any(silent)
        };
        self.inner.wait(until, over, failed);
        let peers = self.inner.lock();
        let others = (0..peers.len()).filter(|peer| *peer != rank && !here(peers[*peer].seat));
        let (left, absent): (Vec<usize>, Vec<usize>) = others.partition(|peer| peers[*peer].seat == Seat::Left(round));
        drop(peers);
        if !(absent.is_empty() && left.is_empty()) {
            self.inner.say_to_all(&Word::Left(round), PATIENCE);
        }
        (absent, left)
    }

    /// Whoever waits here looks again.
    pub fn wake(&self) {
        // Under the lock: one that has just looked is waiting by now.
        drop(self.inner.lock());
        self.inner.changed.notify_all();
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.inner.end, &1u64.to_ne_bytes());
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The thread itself may hold the last of what owns the mesh.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    /// Whole at every moment, whatever happened to a thread that held it.
    fn lock(&self) -> MutexGuard<'_, Vec<Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, `until`, or `failed`, which is asked without the lock: it may well come back here.
    fn wait(&self, until: Instant, done: impl Fn(&[Peer]) -> bool, failed: impl Fn() -> bool) {
        while !failed() {
            let peers = self.lock();
            let left = until.saturating_duration_since(Instant::now());
            if done(&peers) || left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(peers, left.min(LOOK));
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn say_to_all(&self, word: &Word, patience: Duration) {
        for peer in 0..self.lines.len() {
            // One that is lost is heard of from the thread that listens.
            let _ = self.say(peer, word, patience);
        }
    }

    fn say(&self, peer: usize, word: &Word, patience: Duration) -> Result<(), Broken> {
        let Some(line) = self.lines.get(peer).and_then(Option::as_ref) else {
            return Ok(());
        };
        // Nobody listens at a socket that is only kept open: it would be full some day.
        if self.lock()[peer].farewell.is_some() {
            return Ok(());
        }
        let packet = serde_json::to_vec(word).map_err(|error| Broken::Garbage(error.to_string()))?;
        line.say(&packet, Instant::now() + patience)
    }

    /// The thread that listens, until the mesh is dropped.
    fn run(&self, hears: &dyn Hears) {
        let mut open: Vec<usize> = (0..self.lines.len())
            .filter(|peer| self.lines[*peer].is_some())
            .collect();
        let mut room = vec![0; LONGEST];
        loop {
            let mut fds = vec![PollFd::new(&self.end, PollFlags::IN)];
            fds.extend(open.iter().filter_map(|peer| {
                Some(PollFd::from_borrowed_fd(
                    self.lines[*peer].as_ref()?.socket(),
                    PollFlags::IN,
                ))
            }));
            let day = Instant::now() + Duration::from_secs(86_400);
            let polled = ready(&mut fds, day);
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            if polled.is_err() {
                // Without memory for a poll nothing can be heard of: the deadline bounds every wait all the same.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let spoke: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut still = Vec::with_capacity(open.len());
            for (peer, spoke) in open.into_iter().zip(&spoke[1..]) {
                if !spoke || self.hear(peer, &mut room, hears) {
                    still.push(peer);
                }
            }
            open = still;
        }
    }

    /// Hears what `peer` has said; whether more may come.
    fn hear(&self, peer: usize, room: &mut [u8], hears: &dyn Hears) -> bool {
        let Some(line) = &self.lines[peer] else {
            return false;
        };
        let (packets, end) = match line.hear(room) {
            Came::Packets(packets) => (packets, None),
            Came::End(packets, why) => (packets, Some(why)),
        };
        let taken = packets
            .iter()
            .try_for_each(|packet| match serde_json::from_slice(packet) {
                Ok(word) => self.take_in(peer, word, hears),
                Err(error) => Err(format!("it sent what is no word of ranks: {error}")),
            });
        let lost = match (taken, end) {
            (Ok(()), None) => return true,
            (Err(why), _) | (Ok(()), Some(why)) => why,
        };
        let mut peers = self.lock();
        let gone = peers[peer].farewell.is_some();
        peers[peer].lost = !gone;
        drop(peers);
        match gone {
            true => hears.ended(peer),
            false => hears.lost(peer, &lost),
        }
        self.changed.notify_all();
        false
    }

    fn take_in(&self, peer: usize, word: Word, hears: &dyn Hears) -> Result<(), String> {
        let mut peers = self.lock();
        match word {
            Word::Barrier(round) => peers[peer].seat = Seat::At(round),
            Word::Left(round) => peers[peer].seat = Seat::Left(round),
            Word::Failed(reason) => {
                drop(peers);
                hears.failed(peer, reason);
            }
            Word::Farewell(launched) => {
                peers[peer].farewell = Some(launched);
                drop(peers);
                hears.farewell(peer, launched);
            }
        }
        self.changed.notify_all();
        Ok(())
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(|errno| failed("socketpair", errno))
}

fn failed(call: &'static str, errno: Errno) -> Error {
    Error::Driver {
        call,
        code: errno.raw_os_error().into(),
        message: errno.to_string(),
    }
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
