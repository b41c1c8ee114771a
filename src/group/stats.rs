//! What a rank has done since its group began, as its kernels count it.

use std::time::Duration;

use crate::abi::{TW_PATH_FUSED, TW_PATH_UNFUSED, TwReport};

/// Operations of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PathStats {
    /// How many ended well.
    pub operations: u64,
    /// Payload bytes that left this rank's memory over the links, whoever moved them.
    pub bytes_sent: u64,
}

/// What a rank has done since its group began: of operations that have ended, replays of graphs among them. Its kernels write
/// it into memory of the host as they end, so asking costs no call of the driver; an operation that is still running is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// By the fused kernels.
    pub fused: PathStats,
    /// By our collectives alone, or behind a GEMM.
    pub unfused: PathStats,
    /// Words to peers: hellos (two each), tile signals, credits.
    pub signals_sent: u64,
    /// By rank: the longest that a kernel of this rank has waited for a word of that rank which then came. Waits that were
    /// given up are in the error.
    pub longest_wait: Vec<Duration>,
}

impl Stats {
    pub(super) fn of(report: &TwReport, world: usize) -> Stats {
        let path = |path: u32| PathStats {
            operations: report.operations[path as usize],
            bytes_sent: report.bytes_sent[path as usize],
        };
        let waits = report.longest_wait_ns.iter().take(world);
        Stats {
            fused: path(TW_PATH_FUSED),
            unfused: path(TW_PATH_UNFUSED),
            signals_sent: report.signals_sent,
            longest_wait: waits.map(|ns| Duration::from_nanos(*ns)).collect(),
        }
    }

    /// Operations that ended well, by whatever path.
    pub fn operations(&self) -> u64 {
        self.fused.operations + self.unfused.operations
    }

    /// Payload bytes that left this rank's memory over the links, by whatever path.
    pub fn bytes_sent(&self) -> u64 {
        self.fused.bytes_sent + self.unfused.bytes_sent
    }

    /// The rank that this one has waited for longest, and how long; `None` where it never had to wait.
    pub fn straggler(&self) -> Option<(usize, Duration)> {
        let waits = self.longest_wait.iter().copied().enumerate();
        waits.max_by_key(|(_, wait)| *wait).filter(|(_, wait)| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_and_the_straggler() {
        let mut report = TwReport::default();
        assert_eq!(Stats::of(&report, 3).straggler(), None);
        report.operations = [2, 3];
        report.bytes_sent = [10, 20];
        report.longest_wait_ns[..3].copy_from_slice(&[5, 9, 7]);
        let stats = Stats::of(&report, 3);
        assert_eq!(
            (stats.operations(), stats.bytes_sent(), stats.longest_wait.len()),
            (5, 30, 3)
        );
        assert_eq!(stats.straggler(), Some((1, Duration::from_nanos(9))));
    }
}
