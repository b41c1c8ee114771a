//! What kernels on the clock asked of the machine, warp by warp, for the kernels that compute to follow (`docs/clock.md`, "Both").

use std::collections::{HashMap, VecDeque};

use super::super::rng::AddressMap;

/// A warp: its kernel's number, its block, its number there.
pub(in super::super) type WarpName = (u64, u32, u32);

/// What a warp asked for, as far as it has not been followed.
#[derive(Debug, Default)]
struct Part {
    calls: VecDeque<u64>,
    asked: u64,
    followed: u64,
    /// Looks at the time: how many calls came before, and what it was (ns).
    looks: VecDeque<(u64, u64)>,
    time: u64,
    over: bool,
}

/// A warp's next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Next {
    Call(u64),
    /// It has not come so far.
    Later,
    /// It has left its kernel.
    Over,
}

#[derive(Debug, Default)]
pub(in super::super) struct Script {
    warps: HashMap<WarpName, Part>,
    /// In which order warps came to counters: who is last goes on differently, so the order is part of what is followed.
    counters: AddressMap<VecDeque<WarpName>>,
    /// Something has come since somebody found that it had not.
    pub moved: bool,
}

impl Script {
    pub fn asked(&mut self, who: WarpName, what: u64) {
        let part = self.warps.entry(who).or_default();
        part.calls.push_back(what);
        part.asked += 1;
        self.moved = true;
    }

    pub fn looked(&mut self, who: WarpName, ns: u64) {
        let part = self.warps.entry(who).or_default();
        part.looks.push_back((part.asked, ns));
    }

    pub fn counted(&mut self, addr: u64, who: WarpName) {
        self.counters.entry(addr).or_default().push_back(who);
        self.moved = true;
    }

    pub fn over(&mut self, who: WarpName) {
        self.warps.entry(who).or_default().over = true;
        self.moved = true;
    }

    pub fn next(&mut self, who: WarpName) -> Next {
        let part = self.warps.entry(who).or_default();
        match part.calls.pop_front() {
            Some(call) => {
                part.followed += 1;
                Next::Call(call)
            }
            None if part.over => Next::Over,
            None => Next::Later,
        }
    }

    /// What the time was when the warp last looked at this place; none where it may still look again.
    pub fn time(&mut self, who: WarpName) -> Option<u64> {
        let part = self.warps.entry(who).or_default();
        if part.calls.is_empty() && !part.over {
            return None;
        }
        while let Some((before, ns)) = part.looks.front().copied()
            && before <= part.followed
        {
            part.time = ns;
            part.looks.pop_front();
        }
        Some(part.time)
    }

    /// Whether it is this warp's turn at a counter; then it has had it.
    pub fn turn(&mut self, addr: u64, who: WarpName) -> bool {
        let Some(order) = self.counters.get_mut(&addr) else {
            return false;
        };
        if order.front() != Some(&who) {
            return false;
        }
        order.pop_front();
        if order.is_empty() {
            self.counters.remove(&addr);
        }
        self.moved = true;
        true
    }

    /// The warp has been followed to its end; what it asked for beyond that, if anything.
    pub fn left(&mut self, who: WarpName) -> Option<u64> {
        self.warps.remove(&who)?.calls.front().copied()
    }

    pub fn clear(&mut self) {
        *self = Script::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WarpName = (1, 0, 0);
    const OTHER: WarpName = (1, 0, 1);

    #[test]
    fn calls_are_followed_in_their_order() {
        let mut script = Script::default();
        assert_eq!(script.next(ONE), Next::Later);
        script.asked(ONE, 7);
        script.asked(OTHER, 8);
        script.asked(ONE, 9);
        assert!(script.moved);
        assert_eq!([script.next(ONE), script.next(ONE)], [Next::Call(7), Next::Call(9)]);
        assert_eq!(script.next(ONE), Next::Later);
        script.over(ONE);
        assert_eq!(script.next(ONE), Next::Over);
        assert_eq!(script.left(ONE), None);
        // Who leaves early has something left.
        assert_eq!(script.left(OTHER), Some(8));
        assert_eq!(script.left(OTHER), None);
    }

    #[test]
    fn warps_come_to_a_counter_in_the_clocks_order() {
        let mut script = Script::default();
        script.counted(16, OTHER);
        script.counted(16, ONE);
        script.counted(24, ONE);
        assert!(!script.turn(16, ONE) && script.turn(24, ONE));
        assert!(script.turn(16, OTHER) && script.turn(16, ONE));
        assert!(!script.turn(16, ONE) && !script.turn(32, ONE));
    }

    /// A look is told what the last one at the same place was told: between the same two calls.
    #[test]
    fn time_is_told_by_place() {
        let mut script = Script::default();
        script.looked(ONE, 10);
        assert_eq!(script.time(ONE), None, "it may look again before its next call");
        script.looked(ONE, 20);
        script.asked(ONE, 7);
        script.looked(ONE, 30);
        script.asked(ONE, 8);
        assert_eq!([script.time(ONE), script.time(ONE)], [Some(20), Some(20)]);
        assert_eq!(script.next(ONE), Next::Call(7));
        assert_eq!(script.time(ONE), Some(30));
        assert_eq!(script.next(ONE), Next::Call(8));
        assert_eq!(script.time(ONE), None);
        script.over(ONE);
        assert_eq!(script.time(ONE), Some(30));
    }
}
