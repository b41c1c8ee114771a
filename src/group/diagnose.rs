//! Who is to blame: from the control blocks of a failed group to one error.
//!
//! Every rank records its first unsatisfied wait. From a wait that ran into the deadline, the chain of who waits for whom
//! is followed: rank waits for peer; if the peer waits too, in the same operation or an earlier one, it is not the culprit
//! but the next link. The chain ends at
//!
//! - a peer that never launched the operation, or only after the failure was noticed,
//! - a peer that launched it and whose hello is not there: a hello depends on nothing else, so what the peer sends to the
//!   rank is lost, or it was sent too late,
//! - a peer without a wait for another rank: it was still computing, or it had sent what was waited for, and that was lost,
//! - the rank itself, which had not computed its own partial,
//! - a peer that is in the chain already. Waits depend on sends that come earlier in the one order of an operation
//!   (`docs/protocol.md`), so ranks that wait for each other have lost something: the root is the wait for what is sent first.
//!
//! A disagreement is told by two hashes. What they stand for is known where some rank of this process has launched it; the
//! control blocks tell of the last operation alone, and behind the one that failed a graph may hold many more.
//!
//! Two looks are taken. `before` is as things stood when the failure was noticed; `after`, once all kernels have given up,
//! holds every record. Only the first tells who was still computing.

use crate::abi::{self, TwControl, TwDescriptor, TwWaitRecord};
use crate::error::{Error, WaitCause, WaitKind, WaitRecord};
use crate::op::descriptor::{describe, op_name};

/// What a hash stands for, of all that was launched.
pub(super) type Known<'a> = &'a dyn Fn(u64) -> Option<TwDescriptor>;

pub(super) fn diagnose(before: &[TwControl], after: &[TwControl], known: Known<'_>) -> Error {
    let records: Vec<Option<WaitRecord>> = after
        .iter()
        .map(|control| decode(&control.record, after.len()))
        .collect();
    let of_cause = |cause| {
        let all = records.iter().flatten().filter(move |record| record.cause == cause);
        all.min_by_key(|record| (record.epoch, record.rank))
    };
    if let Some(record) = of_cause(WaitCause::Disagreed) {
        return disagreement(record, after, known);
    }
    if let Some(start) = of_cause(WaitCause::Deadline) {
        return follow(start, &records, before, after);
    }
    if after.iter().any(|control| control.abort == abi::TW_ABORT_HOST as u64) {
        return Error::Aborted {
            why: "a host raised the abort word".to_string(),
        };
    }
    // An abort without the record of what caused it: whatever is known is told.
    match of_cause(WaitCause::Abort) {
        Some(start) => follow(start, &records, before, after),
        None => Error::Aborted {
            why: "a rank raised the abort word and left no record".to_string(),
        },
    }
}

/// A complete record in words, `None` for anything else.
fn decode(record: &TwWaitRecord, world: usize) -> Option<WaitRecord> {
    if record.state != abi::TW_RECORD_COMPLETE || record.rank as usize >= world || record.peer as usize >= world {
        return None;
    }
    let kind = WaitKind::from_code(record.kind)?;
    let cause = match record.cause {
        abi::TW_CAUSE_DEADLINE => WaitCause::Deadline,
        abi::TW_CAUSE_ABORT => WaitCause::Abort,
        abi::TW_CAUSE_DISAGREED => WaitCause::Disagreed,
        _ => return None,
    };
    Some(WaitRecord {
        op: op_name(record.op),
        epoch: record.epoch,
        rank: record.rank as usize,
        peer: record.peer as usize,
        kind,
        cause,
        tile: record.tile,
        expected: record.expected,
        seen: record.seen,
        waited_ns: record.waited_ns,
    })
}

fn disagreement(record: &WaitRecord, controls: &[TwControl], known: Known<'_>) -> Error {
    let told = |rank: usize, hash: u64| {
        let control = &controls[rank];
        match known(hash) {
            Some(descriptor) => describe(&descriptor),
            None if control.epoch_started == record.epoch => describe(&control.current),
            // Its hello is here, but its control block speaks of another operation.
            None => format!("an operation of hash {hash:#018x}"),
        }
    };
    Error::Disagreed {
        epoch: record.epoch,
        rank: record.rank,
        peer: record.peer,
        ours: told(record.rank, record.expected),
        theirs: told(record.peer, record.seen),
    }
}

/// Follows the chain from `start` to its root.
fn follow(start: &WaitRecord, records: &[Option<WaitRecord>], before: &[TwControl], after: &[TwControl]) -> Error {
    let mut path = vec![start];
    let verdict = loop {
        let wait = path[path.len() - 1];
        let peer = &after[wait.peer];
        let name = format!("rank {}", wait.peer);
        if wait.peer == wait.rank {
            break match wait.kind {
                WaitKind::Ctas => format!("not all CTAs of {name} came to where they meet"),
                _ => format!("{name} was still computing what its own sum needs"),
            };
        }
        if peer.epoch_started < wait.epoch {
            break match peer.epoch_started {
                0 => format!("{name} never launched an operation"),
                last => format!("{name} never launched it: its last operation is epoch {last}"),
            };
        }
        if before[wait.peer].epoch_started < wait.epoch {
            break format!("{name} launched it only after that");
        }
        let hello = after[wait.rank].hello[(wait.epoch & 1) as usize][wait.peer].epoch;
        if hello != wait.epoch {
            break format!("{name} launched it, but its hello did not arrive: lost, or sent too late");
        }
        // A wait for the rank's own partial is computing, not waiting for anybody.
        let waited = |record: &&WaitRecord| record.epoch <= wait.epoch && record.peer != record.rank;
        match records[wait.peer].as_ref().filter(waited) {
            Some(next) if path.iter().any(|link| link.rank == next.rank) => {
                let verdict = cycle(&path, next.rank);
                // The chain ends with the root.
                let first = path.iter().position(|link| link.rank == next.rank).unwrap_or(0);
                let root = (first..path.len())
                    .min_by_key(|i| (order(path[*i].kind), path[*i].tile))
                    .unwrap_or(first);
                path[first..].rotate_left(root + 1 - first);
                break verdict;
            }
            Some(next) => path.push(next),
            None if before[wait.peer].epoch_finished < wait.epoch => {
                break format!("{name} waited for nobody and had not finished: it was still computing");
            }
            None => break format!("{name} had finished it: what it sent did not arrive"),
        }
    };
    let root = Box::new(path[path.len() - 1].clone());
    let others = records
        .iter()
        .flatten()
        .filter(|record| path.iter().all(|link| link.rank != record.rank));
    let chain = path.iter().copied().chain(others).cloned().collect();
    Error::Wait { root, verdict, chain }
}

/// What is sent first: a hello depends on nothing, rows and partials on the hello and credits before them, a result on
/// partials; a credit on all of a round.
fn order(kind: WaitKind) -> u32 {
    match kind {
        WaitKind::Hello => 0,
        WaitKind::Rows | WaitKind::Partial | WaitKind::Packet => 1,
        WaitKind::Result => 2,
        WaitKind::Credit => 3,
        WaitKind::Ctas => 4,
    }
}

/// The ranks from `first` to the end of the chain wait for each other.
fn cycle(path: &[&WaitRecord], first: usize) -> String {
    let members = path.iter().skip_while(|link| link.rank != first);
    let links: Vec<String> = members
        .map(|link| format!("rank {} for rank {}", link.rank, link.peer))
        .collect();
    format!(
        "these wait for each other, so something that was sent did not arrive: {}",
        links.join(", ")
    )
}

#[cfg(test)]
mod tests;
