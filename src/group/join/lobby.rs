//! Who knocks at rank 0: the listener, and connections that have not greeted yet. Whoever is no rank of this group, by user,
//! by language or by id, is told so and let go; nobody else notices.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::venue::{Caller, Venue};
use super::wire::{self, Broken, Incoming};
use super::words::{Answer, Greeting, MAGIC, PROTOCOL, Preamble, Process};

/// The longest greeting.
const LONGEST_GREETING: usize = 64 << 10;
/// How long a connection may take to greet.
const MANNERS: Duration = Duration::from_secs(5);
/// Connections that have not greeted; the oldest makes room for the next.
const MOST_STRANGERS: usize = 64;
/// Of those sent away, these many are told of where a rank is missing.
const MOST_REFUSED: usize = 8;

/// A connection that has greeted.
#[derive(Debug)]
pub(super) struct Guest {
    pub socket: OwnedFd,
    pub incoming: Incoming,
    pub greeting: Greeting,
}

#[derive(Debug)]
struct Stranger {
    socket: OwnedFd,
    incoming: Incoming,
    who: Caller,
    until: Instant,
}

/// What became of a stranger's bytes.
enum Heard {
    More,
    Greeting(Greeting),
    Nonsense(String),
}

#[derive(Debug)]
pub(super) struct Lobby {
    venue: Venue,
    listener: OwnedFd,
    /// What a greeting must name.
    group: String,
    strangers: Vec<Stranger>,
    refused: Vec<String>,
}

impl Lobby {
    /// Listens there; `None`: somebody does already.
    pub fn open(venue: &Venue, group: String) -> Result<Option<Lobby>, Broken> {
        let lobby = |listener| Lobby {
            venue: venue.clone(),
            listener,
            group,
            strangers: Vec::new(),
            refused: Vec::new(),
        };
        Ok(venue.listen()?.map(lobby))
    }

    /// Where it listens, of an address between hosts.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        TcpListener::from(self.listener.try_clone()?).local_addr()
    }

    /// Waits until somebody greets, or one of `others` speaks or goes, or `until`. Returns those who greeted, and the indices of
    /// the others.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], until: Instant) -> Result<(Vec<Guest>, Vec<usize>), Broken> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(1 + self.strangers.len() + others.len());
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        fds.push(watch(self.listener.as_fd()));
        fds.extend(self.strangers.iter().map(|stranger| watch(stranger.socket.as_fd())));
        fds.extend(others.iter().map(|other| watch(*other)));
        let rude = self.strangers.iter().map(|stranger| stranger.until).min();
        wire::ready(&mut fds, rude.map_or(until, |rude| rude.min(until)))?;
        let spoke: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (knocked, spoke) = spoke.split_at(1);
        let (strangers, others) = spoke.split_at(self.strangers.len());
        let guests = self.listen_to(strangers);
        if knocked[0] {
            self.let_in();
        }
        let spoke = others.iter().enumerate().filter(|(_, spoke)| **spoke);
        Ok((guests, spoke.map(|(index, _)| index).collect()))
    }

    fn let_in(&mut self) {
        let (socket, who) = match self.venue.let_in(&self.listener) {
            Ok(Some(caller)) => caller,
            // One that is gone again is no concern of those who joined.
            Ok(None) => return,
            // Without a descriptor to spare it goes on knocking: others may be heard meanwhile, and some be freed.
            Err(_) => return std::thread::sleep(Duration::from_millis(1)),
        };
        match self.venue.foreigner(socket.as_fd()) {
            Ok(None) => {}
            Ok(Some((pid, user))) => {
                let ours = self.venue.user();
                let why = format!("this group is of user {ours}, and process {pid} of user {user}");
                return self.refuse(&socket, why);
            }
            Err(_) => return,
        }
        if self.strangers.len() == MOST_STRANGERS {
            let oldest = self.strangers.remove(0);
            self.refuse(&oldest.socket, format!("{} did not greet", oldest.who.words));
        }
        self.strangers.push(Stranger {
            socket,
            incoming: Incoming::default(),
            who,
            until: Instant::now() + MANNERS,
        });
    }

    fn listen_to(&mut self, spoke: &[bool]) -> Vec<Guest> {
        let (mut guests, now) = (Vec::new(), Instant::now());
        for (mut stranger, spoke) in std::mem::take(&mut self.strangers).into_iter().zip(spoke) {
            let heard = match spoke {
                true => self.hear(&mut stranger),
                false if now >= stranger.until => Heard::Nonsense("it did not greet".to_string()),
                false => Heard::More,
            };
            match heard {
                Heard::More => self.strangers.push(stranger),
                Heard::Greeting(greeting) => guests.push(Guest {
                    socket: stranger.socket,
                    incoming: stranger.incoming,
                    greeting,
                }),
                Heard::Nonsense(why) => self.refuse(&stranger.socket, format!("{}: {why}", stranger.who.words)),
            }
        }
        guests
    }

    fn hear(&self, stranger: &mut Stranger) -> Heard {
        let frame = match stranger.incoming.read(stranger.socket.as_fd(), LONGEST_GREETING) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Heard::More,
            Err(broken) => return Heard::Nonsense(broken.to_string()),
        };
        let preamble: Preamble = match serde_json::from_slice(&frame.body) {
            Ok(preamble) => preamble,
            Err(error) => return Heard::Nonsense(format!("no greeting: {error}")),
        };
        if preamble.magic != MAGIC || preamble.group != self.group {
            return Heard::Nonsense("its greeting is not of this group".to_string());
        }
        if preamble.rank >= preamble.world {
            return Heard::Nonsense(format!("it is rank {} of {}", preamble.rank, preamble.world));
        }
        // Of another version of this crate: nothing more is understood, and it is told why.
        let other = || Greeting {
            magic: preamble.magic.clone(),
            protocol: preamble.protocol,
            group: preamble.group.clone(),
            rank: preamble.rank,
            world: preamble.world,
            patience_ms: u64::MAX,
            process: Process {
                pid: stranger.who.pid,
                nonce: 0,
                driver: 0,
            },
            agreed: Vec::new(),
        };
        if preamble.protocol != PROTOCOL {
            return Heard::Greeting(other());
        }
        match serde_json::from_slice(&frame.body) {
            Ok(greeting) => Heard::Greeting(greeting),
            Err(error) => Heard::Nonsense(format!("no greeting: {error}")),
        }
    }

    /// Sends one away.
    pub fn refuse(&mut self, socket: &OwnedFd, why: String) {
        tell(socket.as_fd(), &Answer::Refused(why.clone()));
        if self.refused.len() < MOST_REFUSED {
            self.refused.push(why);
        }
    }

    /// Who was sent away, in words; empty where nobody was.
    pub fn refusals(&self) -> String {
        match self.refused.is_empty() {
            true => String::new(),
            false => format!(" (turned away: {})", self.refused.join("; ")),
        }
    }
}

/// A last word, for whoever still listens: it is not waited for.
pub(super) fn tell(socket: BorrowedFd<'_>, answer: &Answer) {
    if let Ok(body) = serde_json::to_vec(answer) {
        let _ = wire::send(socket, &body, &[], Instant::now());
    }
}
