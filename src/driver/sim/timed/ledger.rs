//! A unit that serves requests of many, some of them for a moment that is yet to come (bytes that arrive over a link): what
//! is taken of each short span of time is written down, and a request gets what is left from its moment on. So nobody waits
//! for what comes later, and no span is given twice.

use std::collections::VecDeque;

/// A span of time, ps.
const SPAN: u64 = 100_000;
/// Spans kept behind the latest request: turns are taken in the order of time, but for a little.
const KEPT: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Taken of each span, from number `first` on.
    taken: VecDeque<u32>,
    first: u64,
    /// Spans `run` are full.
    run: std::ops::Range<u64>,
    pub busy: u64,
    pub until: u64,
}

impl Ledger {
    /// From `from` on for `time`, of what is left; the end.
    pub fn serve(&mut self, from: u64, time: u64) -> u64 {
        self.busy += time;
        let mut span = (from / SPAN).max(self.first);
        if self.run.contains(&span) {
            span = self.run.end;
        }
        let (mut left, mut end) = (time, from + time);
        while left > 0 {
            let at = (span - self.first) as usize;
            if at >= self.taken.len() {
                self.taken.resize(at + 64, 0);
            }
            let taken = &mut self.taken[at];
            let now = left.min(SPAN - u64::from(*taken));
            *taken += now as u32;
            left -= now;
            // Whoever came to this span before was served before.
            end = end.max(span * SPAN + u64::from(*taken));
            if u64::from(*taken) == SPAN {
                self.filled(span);
            }
            span += 1;
        }
        self.until = self.until.max(end);
        end
    }

    fn filled(&mut self, span: u64) {
        if span == self.run.end {
            self.run.end += 1;
        } else if span > self.run.end {
            self.run = span..span + 1;
        }
    }

    /// Nothing before `time` is asked for any more.
    pub fn forget(&mut self, time: u64) {
        let first = (time / SPAN).saturating_sub(KEPT);
        if first > self.first + KEPT {
            let gone = ((first - self.first) as usize).min(self.taken.len());
            self.taken.drain(..gone);
            self.first = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_later_holds_nobody_up() {
        let mut unit = Ledger::default();
        assert_eq!(unit.serve(50 * SPAN, 10), 50 * SPAN + 10);
        assert_eq!(unit.serve(SPAN, 10), SPAN + 10);
    }

    #[test]
    fn no_span_is_given_twice() {
        let mut unit = Ledger::default();
        for i in 0..40 {
            // Out of order, all within the first ten spans, three times what they hold.
            let from = (i * 7 % 10) * SPAN;
            let end = unit.serve(from, 3 * SPAN / 4);
            assert!(end >= from + 3 * SPAN / 4);
        }
        assert_eq!(unit.busy, 30 * SPAN);
        assert!(unit.taken.iter().all(|taken| u64::from(*taken) <= SPAN));
        assert_eq!(unit.taken.iter().map(|taken| u64::from(*taken)).sum::<u64>(), unit.busy);
        assert!(unit.until >= 30 * SPAN && unit.until <= 31 * SPAN, "{}", unit.until);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut unit = Ledger::default();
        unit.serve(0, SPAN);
        unit.forget(3 * KEPT * SPAN);
        assert!(unit.serve(3 * KEPT * SPAN, 5) == 3 * KEPT * SPAN + 5 && unit.taken.len() < 4 * KEPT as usize);
    }
}
