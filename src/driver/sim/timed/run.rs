//! The run loop: whose turn it is. And what streams do besides kernels.

use corosensei::CoroutineResult;

use super::super::machine::Machine;
use super::super::stream::StreamKey;
use super::super::together::Together;
use super::self_c::WarpC;
use super::table::self_slot;
use super::warp::{Wait, Warp};
use super::{SLACK, Timed};

/// What came of a turn.
pub(in super::super) enum Stepped {
    Ran,
    /// Nobody can run.
    Waits,
    Trouble(String),
}

/// A turn of the earliest warp.
///
/// # Safety
/// `m` is live, has a clock, and nobody else uses it.
pub(in super::super) unsafe fn step(m: *mut Machine) -> Stepped {
    // SAFETY: no fiber is running; the borrow ends before one does.
    let next = unsafe { (*m).timed.as_mut().and_then(|timed| timed.next()) };
    let Some(next) = next else { return Stepped::Waits };
    // SAFETY: a live warp; the only reference to its coroutine, which callbacks never touch.
    let over = unsafe {
        *self_slot() = (&raw mut (*next).c).cast::<WarpC>();
        match &mut (*next).co {
            Some(co) => matches!(co.resume(()), CoroutineResult::Return(())),
            None => true,
        }
    };
    // SAFETY: no fiber is running.
    let m = unsafe { &mut *m };
    if let Some(trouble) = m.timed.as_mut().and_then(|timed| timed.trouble.take()) {
        return Stepped::Trouble(trouble);
    }
    if over {
        m.warp_left(next);
    }
    Stepped::Ran
}

/// Nothing can run, and somebody waits.
pub(in super::super) fn stuck(m: &Machine) -> String {
    let mut said = String::from("deadlock on the clocked node: nothing can run any more");
    let waits = m
        .timed
        .iter()
        .flat_map(|timed| &timed.warps)
        .filter(|(w, _)| !w.is_null());
    for (w, _) in waits.take(24) {
        // SAFETY: live, and suspended.
        let w = unsafe { &**w };
        // SAFETY: a warp's CTA outlives it.
        let (gpu, kernel) = unsafe { ((*w.cta).gpu, (*w.cta).kernel) };
        let kernels = m.timed.as_ref().map(|timed| &timed.kernels);
        let kernel = kernels.and_then(|all| all.get(&kernel)).map_or("?", |k| k.entry.name);
        said += &format!(
            "\n  {kernel}, device {gpu}, block {}, thread {}: {:?} since {} ns",
            w.c.block,
            w.c.thread,
            w.wait,
            w.c.now / 1000
        );
    }
    said
}

impl Timed {
    /// The earliest warp whose turn it is, with how far it may go.
    fn next(&mut self) -> Option<*mut Warp> {
        while let Some(std::cmp::Reverse((at, _, who))) = self.turns.pop() {
            let Some(w) = self.find(who) else { continue };
            if at / (100 * super::rates::US) > self.time / (100 * super::rates::US) {
                self.gpus.iter_mut().for_each(|gpu| gpu.forget(at));
            }
            self.time = self.time.max(at);
            *self.horizon = self.turns.peek().map_or(u64::MAX, |next| next.0.0 + SLACK);
            // SAFETY: live, and suspended.
            let w = unsafe { &mut *w };
            w.stamp += 1;
            self.warps[w.index as usize].1 = w.stamp;
            // One that waits until a time, and it has come.
            if let Wait::Word(until) = w.wait {
                w.wait = Wait::Nothing;
                w.c.now = w.c.now.max(until);
            }
            return Some(w);
        }
        None
    }

    /// The time so far, ps.
    pub fn now(&self) -> u64 {
        self.time
    }

    /// A stream's next command, which the host enqueued at `asked`: it takes until `until` of when it can begin; the end.
    pub fn stream_takes(&mut self, key: StreamKey, asked: u64, until: impl FnOnce(u64) -> u64) -> u64 {
        let from = self.streams.get(&key).copied().unwrap_or(0).max(asked);
        let end = until(from);
        self.streams.insert(key, end);
        self.time = self.time.max(from);
        end
    }

    /// A collective of these streams, from the last one's arrival on. Its bytes take links' time from others, and are longer under
    /// way where others take theirs; alone they take what the model says.
    pub fn together(&mut self, streams: &[StreamKey], asked: u64, what: Together) {
        let ends = streams.iter().filter_map(|key| self.streams.get(key).copied());
        let from = ends.max().unwrap_or(0).max(asked);
        let moving = ((what.bytes as f64 * self.rates.link) as u64).min(what.takes);
        let mut end = from + what.takes;
        for key in streams {
            let gpu = &mut self.gpus[key.device];
            // Behind what calls and steps take.
            let begins = from + (what.takes - moving);
            end = end
                .max(gpu.out.serve(begins, moving))
                .max(gpu.into.serve(begins, moving));
        }
        for key in streams {
            self.stream_takes(*key, asked, |_| end);
        }
    }
}
