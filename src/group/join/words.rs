//! What ranks say to each other while they join, and what becomes of a join that cannot be.

use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id;
use crate::error::{Error, Result};

pub(super) const MAGIC: &str = "tileweave: join";
/// Of the words in this file.
pub(super) const PROTOCOL: u32 = 1;

/// What tells one driver of one process from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub pid: u32,
    /// Drawn at random by each process: processes of two PID namespaces may have one number.
    pub nonce: u64,
    /// The address of the driver there.
    pub driver: u64,
}

impl Process {
    /// This process, with one of its drivers.
    pub fn here(driver: usize) -> Result<Process> {
        static NONCE: OnceLock<u64> = OnceLock::new();
        let nonce = match NONCE.get() {
            Some(nonce) => *nonce,
            None => {
                let mut bytes = [0; 8];
                id::fill(&mut bytes)?;
                *NONCE.get_or_init(|| u64::from_le_bytes(bytes))
            }
        };
        Ok(Process {
            pid: std::process::id(),
            nonce,
            driver: driver as u64,
        })
    }
}

/// What must be equal on all ranks, by name.
pub(crate) type Agreed = Vec<(String, String)>;

/// The first word of a rank to rank 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub magic: String,
    pub protocol: u32,
    /// A hash of the group's id, unlike the one that names the socket.
    pub group: String,
    pub rank: usize,
    pub world: usize,
    /// How much longer it waits for all to have come.
    pub patience_ms: u64,
    pub process: Process,
    pub agreed: Agreed,
}

/// The part of a greeting that every version of the protocol has.
#[derive(Debug, Deserialize)]
pub(super) struct Preamble {
    pub magic: String,
    pub protocol: u32,
    pub group: String,
    pub rank: usize,
    pub world: usize,
}

/// Rank 0's word to one that greeted, and to all at the end of a phase.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It has a seat: wait for the others.
    Welcome,
    /// It has none, and the group goes on without it.
    Refused(String),
    /// All have come: their greetings, in rank order.
    Met(Vec<Greeting>),
    /// All have spoken: every rank's turn follows, in rank order.
    Go,
    /// There will be no group.
    Stop(Verdict),
}

/// What a rank says in a phase: a value, or why it cannot go on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Turn {
    pub phase: String,
    pub said: Result<Value, String>,
    /// Whom each attached descriptor is for; `None`: everybody.
    pub to: Vec<Option<usize>>,
}

/// Why there is no group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// Ranks did not come, or did not speak, in time.
    Missing { missing: Vec<usize>, at: String },
    /// Two came as one rank.
    Twice { rank: usize, pids: (u32, u32) },
    Mismatch {
        rank: usize,
        peer: usize,
        what: String,
        ours: String,
        theirs: String,
    },
    /// A rank closed its connection.
    Exited { rank: usize },
    /// A rank spoke out of turn, or not the language.
    Garbage { rank: usize, what: String },
    /// A rank could not go on, and said why.
    Failed { rank: usize, why: String },
}

impl Verdict {
    /// What rank `me` is told of it, after so long a wait.
    pub fn error(self, me: usize, waited: Duration) -> Error {
        match self {
            Verdict::Missing { missing, at } => Error::Missing {
                at,
                rank: me,
                missing,
                left: Vec::new(),
                waited,
            },
            Verdict::Twice { rank, pids: (one, two) } => {
                let value = match one == two {
                    true => format!("{rank}, given twice in process {one}"),
                    false => format!("{rank}, given to two: processes {one} and {two}"),
                };
                Error::bad_argument("rank", value, "a rank of its own for each that joins")
            }
            Verdict::Mismatch {
                rank,
                peer,
                what,
                ours,
                theirs,
            } => Error::Mismatch {
                rank,
                peer,
                what,
                ours,
                theirs,
            },
            Verdict::Exited { rank } => Error::PeerExited {
                rank,
                why: "it closed its connection while the ranks joined".to_string(),
            },
            Verdict::Garbage { rank, what } => Error::Aborted {
                why: format!("rank {rank} does not speak as ranks do that join: {what}"),
            },
            Verdict::Failed { rank, why } => Error::Aborted {
                why: format!("rank {rank} could not join: {why}"),
            },
        }
    }
}

/// The first thing that `one`, of a rank, has otherwise than `zero`, of rank 0.
pub(super) fn difference(one: &Greeting, zero: &Greeting) -> Option<Verdict> {
    let differ = |what: &str, ours: String, theirs: String| {
        Some(Verdict::Mismatch {
            rank: one.rank,
            peer: zero.rank,
            what: what.to_string(),
            ours,
            theirs,
        })
    };
    // First: of another protocol's greeting nothing further is known.
    if one.protocol != zero.protocol {
        let (ours, theirs) = (one.protocol.to_string(), zero.protocol.to_string());
        return differ("the protocol of joining", ours, theirs);
    }
    if one.world != zero.world {
        return differ("the world size", one.world.to_string(), zero.world.to_string());
    }
    for (what, theirs) in &zero.agreed {
        let ours = one.agreed.iter().find(|(name, _)| name == what);
        match ours {
            Some((_, ours)) if ours == theirs => {}
            Some((_, ours)) => return differ(what, ours.clone(), theirs.clone()),
            None => return differ(what, "not told".to_string(), theirs.clone()),
        }
    }
    None
}
