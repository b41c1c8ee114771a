//! Waiting for NCCL with an end in sight: its communicators are asked until they are done.

use std::time::{Duration, Instant};

/// Until then one only gives way: calls that need nothing of peers are done sooner.
const BRISK: Duration = Duration::from_micros(200);
/// The longest time between two looks.
const LONGEST_NAP: Duration = Duration::from_millis(1);

/// A wait that began when this was made.
pub(super) struct Wait {
    begin: Instant,
    patience: Duration,
}

impl Wait {
    pub(super) fn new(patience: Duration) -> Wait {
        Wait {
            begin: Instant::now(),
            patience,
        }
    }

    /// Rests until the next look; `false` where time has run out.
    pub(super) fn rest(&self) -> bool {
        let waited = self.begin.elapsed();
        if waited >= self.patience {
            return false;
        }
        if waited < BRISK {
            std::thread::yield_now();
        } else {
            std::thread::sleep((waited / 4).min(LONGEST_NAP).min(self.patience - waited));
        }
        true
    }
}
