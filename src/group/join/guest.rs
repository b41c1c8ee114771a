//! A rank other than 0 while it joins: it finds rank 0, and from then on speaks to it alone.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::keeper::{GRACE, take_turn};
use super::venue::Venue;
use super::wire::{self, Broken, Incoming, LONGEST};
use super::words::{Answer, Greeting, Turn, Verdict};
use super::{Heard, Spoken};

#[derive(Debug)]
pub(super) struct Visitor {
    socket: OwnedFd,
    incoming: Incoming,
    rank: usize,
    world: usize,
    until: Instant,
}

/// What becomes of one that knocks.
pub(super) enum Door {
    /// It has its seat.
    Open(Box<Visitor>),
    /// Nobody is there, or nobody any more: it may knock again.
    Nobody,
    /// It is told why not.
    Closed(Verdict),
    /// It alone is sent away.
    Refused(String),
}

/// Knocks once.
pub(super) fn knock(venue: &Venue, greeting: &Greeting, until: Instant) -> Result<Door, Broken> {
    let Some(socket) = venue.connect(until)? else {
        return Ok(Door::Nobody);
    };
    if let Some((pid, theirs)) = venue.foreigner(socket.as_fd())? {
        return Ok(Door::Closed(Verdict::Mismatch {
            rank: greeting.rank,
            peer: 0,
            what: "the user".to_string(),
            ours: venue.user().to_string(),
            theirs: format!("{theirs} (process {pid})"),
        }));
    }
    let body = serde_json::to_vec(greeting).map_err(|error| Broken::Garbage(error.to_string()))?;
    match wire::send(socket.as_fd(), &body, &[], until) {
        // Whoever closes may have said why.
        Ok(()) | Err(Broken::Closed) => {}
        Err(broken) => return Err(broken),
    }
    let mut visitor = Visitor {
        socket,
        incoming: Incoming::default(),
        rank: greeting.rank,
        world: greeting.world,
        until,
    };
    Ok(match visitor.answer() {
        Ok(Answer::Welcome) => Door::Open(Box::new(visitor)),
        Ok(Answer::Stop(verdict)) => Door::Closed(verdict),
        Ok(Answer::Refused(why)) => Door::Refused(why),
        Ok(other) => Door::Closed(garbage(format!("{other:?} for a greeting"))),
        // A listener that ended before it let this one in.
        Err(Broken::Closed) => Door::Nobody,
        // A port may be anybody's.
        Err(Broken::Garbage(what)) if matches!(venue, Venue::Across(_)) => Door::Refused(format!("no rank 0: {what}")),
        Err(broken) => Door::Closed(of_zero(broken, &format!("{venue}, for an answer to its greeting"))),
    })
}

/// Knocks until rank 0 is there. At an address that has been another group's, or a stranger's, it may be there later.
pub(super) fn find(venue: &Venue, greeting: &Greeting, until: Instant) -> Result<Visitor, Door> {
    let mut pause = Duration::from_millis(1);
    let mut refused = String::new();
    loop {
        match knock(venue, &patient(greeting, until), until) {
            Ok(Door::Open(visitor)) => return Ok(*visitor),
            Ok(Door::Nobody) => {}
            Ok(Door::Refused(why)) if matches!(venue, Venue::Across(_)) => {
                refused = format!(", where this rank was turned away: {why}");
            }
            Ok(door) => return Err(door),
            Err(broken) => return Err(Door::Closed(of_zero(broken, &venue.to_string()))),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Door::Closed(Verdict::Missing {
                missing: vec![0],
                at: format!("{venue}{refused}"),
            }));
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// With the time that is left.
pub(super) fn patient(greeting: &Greeting, until: Instant) -> Greeting {
    let left = until.saturating_duration_since(Instant::now());
    Greeting {
        patience_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        ..greeting.clone()
    }
}

impl Visitor {
    /// Both ends of the way to rank 0, between hosts.
    pub fn ends(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        let stream = TcpStream::from(self.socket.try_clone()?);
        Ok((stream.local_addr()?, stream.peer_addr()?))
    }

    /// Waits until all have come; their greetings in order.
    pub fn meet(&mut self) -> Result<Vec<Greeting>, Verdict> {
        match self.answer() {
            Ok(Answer::Met(all)) if all.len() == self.world => Ok(all),
            Ok(Answer::Stop(verdict)) => Err(verdict),
            Ok(other) => Err(garbage(format!("{other:?} where all have come"))),
            Err(broken) => Err(of_zero(broken, "the rendezvous, for all to come")),
        }
    }

    /// As [`Keeper::gather`](super::keeper::Keeper::gather).
    pub fn gather(&mut self, phase: &str, mine: Result<Spoken, String>) -> Result<Vec<Heard>, Verdict> {
        let failed = mine.as_ref().err().cloned();
        let (said, to, fds) = match mine {
            Ok(Spoken { value, fds }) => {
                let (to, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
                (Ok(value), to, fds)
            }
            Err(why) => (Err(why), Vec::new(), Vec::new()),
        };
        let turn = Turn {
            phase: phase.to_string(),
            said,
            to,
        };
        let rank = self.rank;
        let body = serde_json::to_vec(&turn).map_err(|error| Verdict::Failed {
            rank,
            why: error.to_string(),
        })?;
        let until = self.until + GRACE;
        match wire::send(self.socket.as_fd(), &body, &wire::borrowed(&fds), until) {
            // Whoever closes may have said why.
            Ok(()) | Err(Broken::Closed) => {}
            Err(broken) => return Err(of_zero(broken, "the rendezvous, for it to listen")),
        }
        // What was sent is rank 0's to pass on: nobody else's end may be kept open here.
        drop(fds);
        if let Some(why) = failed {
            return Err(Verdict::Failed { rank, why });
        }
        let at = format!("the rendezvous, for what all say of their {phase}");
        match self.answer() {
            Ok(Answer::Go) => {}
            Ok(Answer::Stop(verdict)) => return Err(verdict),
            Ok(other) => return Err(garbage(format!("{other:?} in the middle"))),
            Err(broken) => return Err(of_zero(broken, &at)),
        }
        let mut all = Vec::with_capacity(self.world);
        for _ in 0..self.world {
            let frame = self.frame().map_err(|broken| of_zero(broken, &at))?;
            // Rank 0 may still find that another has gone.
            if let Ok(Answer::Stop(verdict)) = serde_json::from_slice(&frame.body) {
                return Err(verdict);
            }
            let Spoken { value, fds } = take_turn(frame, 0, self.world, phase)?;
            let fds = fds.into_iter().map(|(_, fd)| fd).collect();
            all.push(Heard { value, fds });
        }
        Ok(all)
    }

    fn frame(&mut self) -> Result<wire::Frame, Broken> {
        // Rank 0 hears first whose time is up, and says so: that word is waited for.
        let socket: BorrowedFd<'_> = self.socket.as_fd();
        self.incoming.wait(socket, LONGEST, self.until + GRACE)
    }

    fn answer(&mut self) -> Result<Answer, Broken> {
        let frame = self.frame()?;
        serde_json::from_slice(&frame.body).map_err(|error| Broken::Garbage(error.to_string()))
    }
}

fn garbage(what: String) -> Verdict {
    Verdict::Garbage { rank: 0, what }
}

fn of_zero(broken: Broken, at: &str) -> Verdict {
    match broken {
        Broken::Closed => Verdict::Exited { rank: 0 },
        Broken::Late => Verdict::Missing {
            missing: vec![0],
            at: at.to_string(),
        },
        broken => garbage(broken.to_string()),
    }
}

#[cfg(test)]
impl Visitor {
    /// Says what is no turn.
    pub fn babble(&self) {
        let until = Instant::now() + GRACE;
        wire::send(self.socket.as_fd(), b"[1, 2", &[], until).unwrap();
    }
}
