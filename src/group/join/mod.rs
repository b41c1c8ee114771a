//! How ranks that do not know of each other become a group: of processes, or of threads.
//!
//! They share an [`Id`]. A hash of it names an abstract unix socket, at which rank 0 listens ([`lobby`]) and which the others find
//! ([`guest`]); both ends check the other's user. What follows are phases ([`hall`]): in each, every rank says something to rank 0,
//! which passes it on to all ([`keeper`]), file descriptors included. A rank that cannot go on says so instead, and all hear of it;
//! so they do of one that dies, does not come in time, or differs in what must be equal. Every wait is bounded by one deadline.
//!
//! Ranks of several hosts ([`hosts`]) meet at an address instead ([`venue`]), by the same phases and without descriptors.
//!
//! What remains of it between processes is a socket for each pair of ranks ([`mesh`]): through it a rank learns at once that another
//! has died. `docs/joining.md` tells who says what and what each failure looks like.

mod agreed;
mod doors;
mod environment;
mod guest;
mod hall;
mod hosts;
mod id;
mod keeper;
mod line;
mod lobby;
mod machine;
mod mesh;
mod nccl;
pub(super) mod peers;
mod places;
mod processes;
mod rank;
mod switch;
mod threads;
mod venue;
mod wire;
mod words;

pub use environment::Environment;
pub use id::Id;

use std::os::fd::OwnedFd;

/// What a rank says in a phase.
#[derive(Debug)]
struct Spoken {
    value: serde_json::Value,
    /// With whom each is for; `None`: everybody else.
    fds: Vec<(Option<usize>, OwnedFd)>,
}

/// What it heard of one rank.
#[derive(Debug)]
struct Heard {
    value: serde_json::Value,
    fds: Vec<OwnedFd>,
}
