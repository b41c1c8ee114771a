//! The crate's one error type.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::abi;
use crate::route::Path;

/// What a wait for another rank waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WaitKind {
    /// The peer's first word of this operation: it never launched, or launched late.
    Hello,
    /// The peer's partial of an output tile.
    Partial,
    /// A reduced tile from its owner.
    Result,
    /// A row block of the peer's input.
    Rows,
    /// A one-shot packet.
    Packet,
    /// The peer's word that it has consumed a staging half.
    Credit,
    /// The rank's own CTAs, which meet before a tail.
    Ctas,
}

impl WaitKind {
    /// Of a `TW_WAIT_*` of `csrc/abi.h`.
    pub(crate) fn from_code(code: u32) -> Option<WaitKind> {
        Some(match code {
            abi::TW_WAIT_HELLO => WaitKind::Hello,
            abi::TW_WAIT_PARTIAL => WaitKind::Partial,
            abi::TW_WAIT_RESULT => WaitKind::Result,
            abi::TW_WAIT_ROWS => WaitKind::Rows,
            abi::TW_WAIT_PACKET => WaitKind::Packet,
            abi::TW_WAIT_CREDIT => WaitKind::Credit,
            abi::TW_WAIT_CTAS => WaitKind::Ctas,
            _ => return None,
        })
    }
}

impl std::fmt::Display for WaitKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WaitKind::Hello => "hello",
            WaitKind::Partial => "partial",
            WaitKind::Result => "result",
            WaitKind::Rows => "rows",
            WaitKind::Packet => "packet",
            WaitKind::Credit => "credit",
            WaitKind::Ctas => "CTAs",
        })
    }
}

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WaitCause {
    /// The deadline passed.
    Deadline,
    /// Another rank, or the host, raised the abort word.
    Abort,
    /// The peer's hello carries another hash.
    Disagreed,
}

impl std::fmt::Display for WaitCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WaitCause::Deadline => "deadline",
            WaitCause::Abort => "abort",
            WaitCause::Disagreed => "disagreed",
        })
    }
}

/// One rank's first unsatisfied wait in a failed operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitRecord {
    /// Operation, by its name in the program (`gemm-all-reduce`).
    pub op: String,
    /// Number of the operation in its group, from 1.
    pub epoch: u64,
    /// The rank that waited.
    pub rank: usize,
    /// The rank it waited for.
    pub peer: usize,
    /// What it waited for.
    pub kind: WaitKind,
    /// Why it gave up.
    pub cause: WaitCause,
    /// Tile, row block or packet index; 0 for a hello.
    pub tile: u32,
    /// The word that would have satisfied the wait.
    pub expected: u64,
    /// The word that was there.
    pub seen: u64,
    /// How long it waited, in nanoseconds (simulated time on the simulated node).
    pub waited_ns: u64,
}

impl std::fmt::Display for WaitRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (epoch {}): rank {} waited {:.3} ms for rank {}'s {}",
            self.op,
            self.epoch,
            self.rank,
            self.waited_ns as f64 / 1e6,
            self.peer,
            self.kind,
        )?;
        match self.kind {
            WaitKind::Hello | WaitKind::Credit | WaitKind::Ctas => {}
            WaitKind::Rows => write!(f, " of block {}", self.tile)?,
            WaitKind::Partial | WaitKind::Result | WaitKind::Packet => write!(f, " of tile {}", self.tile)?,
        }
        write!(
            f,
            ": expected {:#x}, saw {:#x} ({})",
            self.expected, self.seen, self.cause
        )
    }
}

/// Everything that can go wrong. Cheap to clone; a poisoned group returns the same error again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is unusable; nothing was launched or written.
    #[error("{name} is {value}: expected {expected}")]
    BadArgument {
        /// The argument.
        name: String,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// An explicitly asked-for route cannot be had.
    #[error("route {path} is not available: {reason}")]
    RouteUnavailable {
        /// The route.
        path: Path,
        /// Why not.
        reason: String,
    },
    /// No kernels for this GPU were built in.
    #[error("no kernels for {arch} were built in (built: {})", if built.is_empty() { "none".into() } else { built.join(", ") })]
    KernelsNotBuilt {
        /// The GPU's architecture.
        arch: String,
        /// The architectures that were built.
        built: Vec<String>,
    },
    /// The group's heap cannot hold what a plan needs.
    #[error("the heap is too small: {what} needs {need} bytes, the group has {have}; raise GroupConfig::heap_bytes")]
    HeapTooSmall {
        /// What needs it.
        what: String,
        /// Bytes needed.
        need: usize,
        /// Bytes present.
        have: usize,
    },
    /// Ranks launched different operations.
    #[error(
        "rank {rank} and rank {peer} disagree in epoch {epoch}: rank {rank} launched {ours}, rank {peer} launched {theirs}"
    )]
    Disagreed {
        /// Number of the operation.
        epoch: u64,
        /// One rank.
        rank: usize,
        /// The other.
        peer: usize,
        /// What `rank` launched.
        ours: String,
        /// What `peer` launched.
        theirs: String,
    },
    /// A wait for another rank was not satisfied.
    #[error("{root}; {}", verdict)]
    Wait {
        /// The wait at the root: `peer` is the culprit.
        root: Box<WaitRecord>,
        /// What is known of the culprit: never launched, still computing, had sent.
        verdict: String,
        /// Every rank's first unsatisfied wait.
        chain: Vec<WaitRecord>,
    },
    /// Other ranks did not come to where the ranks meet.
    #[error("rank {rank} waited {:.3} s at {at}: {}", waited.as_secs_f64(), missing_ranks(missing, left))]
    Missing {
        /// Where, and what else is known of it: the host barrier, the rendezvous.
        at: String,
        /// The rank that waited.
        rank: usize,
        /// The ranks that did not come.
        missing: Vec<usize>,
        /// The ranks that came, and gave up before.
        left: Vec<usize>,
        /// How long it waited.
        waited: std::time::Duration,
    },
    /// Ranks that cannot be of one group: another version, configuration, world, or user.
    #[error("rank {rank} and rank {peer} cannot join: {what} is {ours} on rank {rank} and {theirs} on rank {peer}")]
    Mismatch {
        /// One rank.
        rank: usize,
        /// The other.
        peer: usize,
        /// What they differ in.
        what: String,
        /// What `rank` has.
        ours: String,
        /// What `peer` has.
        theirs: String,
    },
    /// The process of another rank has ended, or left its group, while this one needs it.
    #[error("rank {rank} is gone: {why}")]
    PeerExited {
        /// The rank that is gone.
        rank: usize,
        /// How that was noticed.
        why: String,
    },
    /// The host aborted the group.
    #[error("the group was aborted: {why}")]
    Aborted {
        /// The reason given.
        why: String,
    },
    /// An earlier failure poisoned the group: make a new one.
    #[error("the group is poisoned by an earlier failure: {0}")]
    Poisoned(Arc<Error>),
    /// The simulated machine found a fault in a kernel.
    #[error("the simulated machine found a fault: {report}")]
    Simulator {
        /// What it saw, where, and who.
        report: String,
    },
    /// A device or a library that is not there, or too old.
    #[error("{what} is not available: {reason}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what would help.
        reason: String,
    },
    /// A driver call failed.
    #[error("{call} failed: {message} ({code})")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's code.
        code: i64,
        /// The driver's text for it.
        message: String,
    },
}

fn missing_ranks(missing: &[usize], left: &[usize]) -> String {
    let list = |ranks: &[usize], what: &str| {
        let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
        let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
        (!ranks.is_empty()).then(|| format!("{noun} {} {what}", numbers.join(", ")))
    };
    let parts = [list(missing, "did not come"), list(left, "came, and gave up before")];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

impl Error {
    /// A [`Error::BadArgument`].
    pub fn bad_argument(name: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Error::BadArgument {
            name: name.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const _: () = {
    const fn sendable<T: Send + Sync + Clone + 'static>() {}
    sendable::<Error>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_words() {
        let mut wait = WaitRecord {
            op: "gemm-all-reduce".to_string(),
            epoch: 3,
            rank: 1,
            peer: 2,
            kind: WaitKind::Partial,
            cause: WaitCause::Deadline,
            tile: 7,
            expected: 5,
            seen: 0,
            waited_ns: 2_000_000,
        };
        let text = |what, cause| {
            format!(
                "gemm-all-reduce (epoch 3): rank 1 waited 2.000 ms for rank 2's {what}: expected 0x5, saw 0x0 ({cause})"
            )
        };
        assert_eq!(wait.to_string(), text("partial of tile 7", "deadline"));
        (wait.kind, wait.cause) = (WaitKind::Rows, WaitCause::Abort);
        assert_eq!(wait.to_string(), text("rows of block 7", "abort"));
        (wait.kind, wait.cause) = (WaitKind::Hello, WaitCause::Disagreed);
        assert_eq!(wait.to_string(), text("hello", "disagreed"));
    }
}
