//! Memory that several nodes have: each process drives its own, and they meet in what one exports and another imports.
//!
//! A node is *linked* while memory of another node is mapped in it. Then it keeps the wall's time, because others do not
//! stop when it does; where nothing can run it naps and looks at the polled words again, because somebody else may have
//! written them; and it runs whatever is enqueued by itself, as a device does, whether or not anybody waits. A node that
//! has only exported is not linked: whoever waits for others maps what they wait with.
//!
//! Stores to shared memory (imported, or exported) stay on their way as all do, late and in any order, and become real one
//! by one. What a release covers is written before it, wherever it goes: the reader may be a process that knows no clocks.
//! What others have written is ordered for all that this node knows, as what the host wrote; who acquires a shared word
//! may know of everything that was ever released to others, since that may be what they answered.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::clock::{Rows, Snapshot, join, join_one};
use super::machine::Machine;
use super::shadow::UNALLOCATED;

/// Naps are a quarter of the wait so far, within these bounds: what is waited for is found late by a quarter at most.
const NAPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(500));
/// While something runs, polled words are looked at again after this, and after so many times as long as the last look took: there
/// may be thousands of them.
const GLANCE: Duration = Duration::from_micros(20);
const GLANCE_SHARE: u32 = 8;
/// Turns given away by polling threads, with nothing else happening, after which a linked node naps between them.
const SPINS: u64 = 10_000;

/// What an arena tells of memory that it has in common with others.
#[derive(Debug, Default)]
pub(super) struct Outside {
    imported: AtomicUsize,
    free_running: AtomicBool,
    version: AtomicU64,
}

impl Outside {
    /// Whether memory of another arena is mapped.
    pub fn linked(&self) -> bool {
        self.imported.load(Ordering::Relaxed) > 0 || self.free_running.load(Ordering::Relaxed)
    }

    /// The node is linked whatever it maps, from here on.
    pub fn run_free(&self) {
        self.free_running.store(true, Ordering::Relaxed);
    }

    /// Shared memory was mapped or unmapped, or mapped memory was exported. Under the arena's lock.
    pub fn changed(&self, imported: bool, mapped: bool) {
        if imported && mapped {
            self.imported.fetch_add(1, Ordering::Relaxed);
        } else if imported {
            self.imported.fetch_sub(1, Ordering::Relaxed);
        }
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// What the machine keeps of others.
#[derive(Debug)]
pub(super) struct Foreign {
    outside: Arc<Outside>,
    /// Shared memory as of `version`: start and end.
    ranges: Vec<(u64, u64)>,
    version: u64,
    /// What releases to others have told.
    told: Rc<Rows>,
    /// When the machine's time was last that of the wall.
    clock: Option<Instant>,
    glanced: Option<Instant>,
    /// How long that took.
    glance: Duration,
    /// Since when it has rested, how many bursts it had run then, and whether its threads only polled.
    since: Option<Instant>,
    bursts: u64,
    spun: bool,
    patience: Duration,
}

impl Foreign {
    pub fn new(outside: Arc<Outside>, patience: Duration) -> Foreign {
        Foreign {
            outside,
            ranges: Vec::new(),
            version: 0,
            told: Rc::default(),
            clock: None,
            glanced: None,
            glance: Duration::ZERO,
            since: None,
            bursts: 0,
            spun: false,
            patience,
        }
    }

    /// Whether copies take memory as they find it.
    pub fn runs_free(&self) -> bool {
        self.outside.free_running.load(Ordering::Relaxed)
    }

    /// All clocks start anew.
    pub fn forget(&mut self) {
        self.told = Rc::default();
    }

    /// Others may know what the host knows.
    pub fn tell(&mut self, rows: &Rc<Rows>) {
        join(&mut self.told, rows, &mut Vec::new());
    }

    fn tell_release(&mut self, s: &Snapshot) {
        join(&mut self.told, &s.view.others, &mut Vec::new());
        join_one(&mut self.told, s.slot, s.row());
    }
}

/// What a linked node does where nothing can run.
pub(super) enum Rest {
    /// It has waited a while, or found something to do.
    Rested,
    /// No kernel runs: only a caller can change anything.
    Quiet,
    /// Nothing can come any more, or nothing has for too long.
    Stuck(String),
}

impl Machine {
    pub fn linked(&self) -> bool {
        self.foreign.outside.linked()
    }

    /// Whether other nodes may have the memory at `addr`.
    pub fn is_shared(&mut self, addr: u64) -> bool {
        if !self.linked() {
            return false;
        }
        let version = self.foreign.outside.version.load(Ordering::Acquire);
        if version != self.foreign.version {
            self.foreign.ranges = self.arena.lock().shared_ranges();
            self.foreign.version = version;
        }
        self.foreign
            .ranges
            .iter()
            .any(|(start, end)| (*start..*end).contains(&addr))
    }

    /// A release is about to reach its word: what it covers is written first, so that no other process can find it missing.
    pub fn cover(&mut self, addr: u64, s: &Snapshot) {
        if !self.is_shared(addr) {
            return;
        }
        for id in self.pending.covered(|store| s.knows(store.tag)) {
            self.deliver(id);
        }
        self.foreign.tell_release(s);
    }

    /// What an acquire of the shared word at `addr` may have been told.
    pub fn told(&mut self, addr: u64) -> Option<Rc<Rows>> {
        self.is_shared(addr).then(|| self.foreign.told.clone())
    }

    /// A linked node's time is the wall's.
    pub fn pass_time(&mut self) {
        if !self.linked() {
            self.foreign.clock = None;
            return;
        }
        let wall = Instant::now();
        if let Some(before) = self.foreign.clock.replace(wall) {
            self.now += wall.saturating_duration_since(before).as_nanos() as u64;
        }
    }

    /// Between two bursts of a linked node.
    pub fn glance_outside(&mut self) {
        self.pass_time();
        let Some(wall) = self.foreign.clock else { return };
        let pause = GLANCE.max(self.foreign.glance * GLANCE_SHARE);
        let since = |then| wall.saturating_duration_since(then);
        if self.foreign.glanced.is_none_or(|then| since(then) >= pause) {
            self.look_outside();
        }
    }

    /// Has the watchers of shared words that others have changed look again.
    fn look_outside(&mut self) {
        let begin = Instant::now();
        self.foreign.glanced = self.foreign.clock;
        let words: Vec<u64> = self.watch.keys().copied().collect();
        for word in words {
            if self.is_shared(8 * word) && self.was_changed(word) {
                self.fruitless = 0;
                self.touched(8 * word, 8);
            }
        }
        self.wake_stirred();
        self.foreign.glance = begin.elapsed();
    }

    /// Whether a watched word is not what one of its watchers saw.
    fn was_changed(&self, word: u64) -> bool {
        // SAFETY: watched words are in the arena, whose shadow is readable everywhere. Unmapped since, it is not looked at.
        if unsafe { *self.layout.shadow(8 * word) } == UNALLOCATED {
            return false;
        }
        let now = Self::read_word(8 * word);
        self.watch.get(&word).into_iter().flatten().any(|id| {
            // SAFETY: live, and only read: between turns nobody else refers to a fiber.
            let fiber = self.find(*id).map(|f| unsafe { &*f });
            fiber.is_some_and(|f| f.polled.iter().any(|p| p.addr / 8 == word && p.seen != now))
        })
    }

    /// Whether the threads of a linked node only poll. Then it rests between their turns.
    pub fn spins(&self) -> bool {
        self.fruitless > SPINS && self.linked()
    }

    /// Nothing can run here, and nothing is on its way that anybody must wait for.
    pub fn rest(&mut self) -> Rest {
        self.pass_time();
        self.wake_due();
        self.look_outside();
        let spins = self.spins();
        let before = (
            std::mem::replace(&mut self.foreign.bursts, self.bursts),
            std::mem::replace(&mut self.foreign.spun, spins),
        );
        if before.1 != spins || !spins && before.0 != self.bursts {
            self.foreign.since = None;
        }
        if !self.active.is_empty() && !spins {
            return Rest::Rested;
        }
        let rested = self.foreign.since.is_some();
        let waited = self.foreign.since.get_or_insert_with(Instant::now).elapsed();
        // Data that no release covers comes late, after the words that were sent with it, but it comes.
        if rested && self.character.data_one_in != 0 {
            self.write_all();
        }
        let end = self.next_deadline();
        if end.is_none() && self.watch.is_empty() && !spins {
            return match self.threads_live {
                0 => Rest::Quiet,
                _ => Rest::Stuck("nothing can run any more".into()),
            };
        }
        if end.is_none() && waited > self.foreign.patience {
            let seconds = self.foreign.patience.as_secs_f32();
            return Rest::Stuck(format!("nothing has come from other processes for {seconds} s"));
        }
        let nap = (waited / 4).clamp(NAPS.0, NAPS.1).max(2 * self.foreign.glance);
        let left = end.map_or(nap, |end| Duration::from_nanos(end.saturating_sub(self.now)));
        std::thread::sleep(nap.min(left));
        Rest::Rested
    }

    fn write_all(&mut self) {
        for signal in [true, false] {
            while let Some(id) = self.pending.any(signal, &mut self.rng) {
                self.deliver(id);
            }
        }
    }
}
