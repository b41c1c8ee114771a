//! The run loop: whose turn it is. And what streams do besides kernels.

use std::sync::atomic::{AtomicBool, Ordering};

use corosensei::CoroutineResult;

use super::super::executor::Stop;
use super::super::machine::Machine;
use super::super::report;
use super::super::stream::StreamKey;
use super::self_c::WarpC;
use super::table::self_slot;
use super::warp::{Wait, Warp};
use super::{SLACK, Timed};

/// Advances the node.
///
/// # Safety
/// `m` is live, has a clock, and nobody else uses it.
pub(in super::super) unsafe fn advance(m: *mut Machine, attention: &AtomicBool) -> Stop {
    let slot = self_slot();
    loop {
        let next = {
            // SAFETY: no fiber is running; the borrow ends before one does.
            let m = unsafe { &mut *m };
            if attention.load(Ordering::Relaxed) {
                return Stop::Attention;
            }
            if m.streams_stir {
                match m.step_streams() {
                    Ok(moved) => m.streams_stir = moved,
                    Err(trouble) => return Stop::Fault(report::stream_trouble(m, trouble)),
                }
            }
            if m.satisfied {
                return Stop::Satisfied;
            }
            if m.streams_stir {
                continue;
            }
            match m.timed.as_mut().and_then(|timed| timed.next()) {
                Some(w) => w,
                None => return Stop::Fault(stuck(m)),
            }
        };
        // SAFETY: a live warp; the only reference to its coroutine, which callbacks never touch.
        let over = unsafe {
            *slot = (&raw mut (*next).c).cast::<WarpC>();
            match &mut (*next).co {
                Some(co) => matches!(co.resume(()), CoroutineResult::Return(())),
                None => true,
            }
        };
        // SAFETY: no fiber is running.
        let m = unsafe { &mut *m };
        if let Some(trouble) = m.timed.as_mut().and_then(|timed| timed.trouble.take()) {
            return Stop::Fault(trouble);
        }
        if over {
            m.warp_left(next);
        }
    }
}

/// Nothing can run, and somebody waits.
fn stuck(m: &Machine) -> String {
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
        let kernel = m.kernels.get(&kernel).map_or("?", |k| k.entry.name);
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

    /// What callers enqueue now begins now.
    pub fn asked_now(&mut self) {
        self.asked = self.time;
    }

    /// When a stream's next command can begin, and that it takes until `until` of that.
    pub fn stream_takes(&mut self, key: StreamKey, until: impl FnOnce(u64) -> u64) -> u64 {
        let from = self.streams.get(&key).copied().unwrap_or(0).max(self.asked);
        let end = until(from);
        self.streams.insert(key, end);
        self.time = self.time.max(from);
        end
    }

    /// A command cannot begin before another stream's event.
    pub fn stream_waits(&mut self, key: StreamKey, ns: u64) {
        self.stream_takes(key, |from| from.max(ns * 1000));
    }
}
