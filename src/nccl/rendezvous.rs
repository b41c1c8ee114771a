//! Ranks of several hosts find each other: NCCL's id goes from rank 0 to all over TCP.
//!
//! Tensor parallelism across hosts is NCCL's work, not these kernels': there is no group over several hosts. What is here lets
//! processes make one clique's [`Communicators`](super::Communicators) from what launchers tell them: the address of rank 0's host
//! and a port (`MASTER_ADDR`, `MASTER_PORT`).
//!
//! Each rank says in one frame of fixed size who it is, rank 0 answers when all have come: with the id, or with why there is none,
//! so that every rank hears who is missing or has come with another world, group or version of NCCL. Whoever does not speak
//! like this is shown the door. The group's bytes tell one job's ranks from another's; they are no secret kept: the
//! network between the hosts is to be trusted, as NCCL itself trusts it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::library::{UniqueId, dotted};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"tw-nccl\0";
/// Of the frames in this file.
const PROTOCOL: u32 = 1;
/// Magic, protocol, rank, world, version of NCCL, group.
const HELLO: usize = 8 + 4 * 4 + 128;
/// The longest reason.
const LONGEST: usize = 4096;
/// How long one connection may take to speak, or to listen.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const NAP: Duration = Duration::from_millis(2);
/// The most ranks of a clique.
const MOST_RANKS: usize = 1 << 16;

/// One rank of several hosts' that wants the id.
#[derive(Debug, Clone, Copy)]
pub struct Meeting<'a> {
    /// Rank 0's host, and a port that is free there. (torchrun keeps a store of its own at `MASTER_PORT`: take another.)
    pub at: (&'a str, u16),
    /// Any bytes that all ranks of the clique share, and no others'.
    pub group: &'a [u8; 128],
    /// Which rank this is.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
    /// The version of NCCL here ([`Library::code`](super::Library::code)).
    pub version: u32,
    /// Bound on the whole of it, but for what the resolver of names takes.
    pub deadline: Duration,
}

/// The clique's id: rank 0 mints it, all others hear it.
///
/// # Errors
/// [`Error::Missing`] names the ranks that did not come in time; [`Error::Mismatch`] one that has another world, group or version
/// of NCCL, as rank 0 sees it, and [`Error::Aborted`] is how the others hear of all these; [`Error::Unavailable`] for an address
/// that cannot be had; [`Error::BadArgument`] for a rank beyond the world.
pub fn meet(meeting: &Meeting<'_>, mint: impl FnOnce() -> Result<UniqueId>) -> Result<UniqueId> {
    let Meeting { rank, world, .. } = *meeting;
    if world > MOST_RANKS {
        return Err(Error::bad_argument("world", world, format!("at most {MOST_RANKS}")));
    }
    if rank >= world {
        let expected = format!("below the world size, {world}");
        return Err(Error::bad_argument("rank", rank, expected));
    }
    let begin = Instant::now();
    let (host, port) = meeting.at;
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| unavailable(host, port, &error.to_string()))?
        .collect();
    if rank > 0 {
        return ask(meeting, &found, begin);
    }
    let id = mint()?;
    let listener = listen(&found).map_err(|error| unavailable(host, port, &error.to_string()))?;
    serve(meeting, &listener, id, begin)
}

fn unavailable(host: &str, port: u16, reason: &str) -> Error {
    Error::Unavailable {
        what: format!("the rendezvous at {host}:{port}"),
        reason: reason.to_string(),
    }
}

/// At the first of these that is this host's; behind a translation of addresses none is, and all of this host's are taken.
fn listen(found: &[SocketAddr]) -> std::io::Result<TcpListener> {
    let any = found.first().map(|at| {
        let ip: IpAddr = match at {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(ip, at.port())
    });
    let mut last = ErrorKind::AddrNotAvailable.into();
    for at in found.iter().copied().chain(any) {
        match TcpListener::bind(at) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a rank says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hello {
    rank: u32,
    world: u32,
    version: u32,
    group: [u8; 128],
}

impl Hello {
    fn of(meeting: &Meeting<'_>) -> Hello {
        // Both are at most MOST_RANKS.
        Hello {
            rank: meeting.rank as u32,
            world: meeting.world as u32,
            version: meeting.version,
            group: *meeting.group,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [PROTOCOL, self.rank, self.world, self.version] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.group);
        bytes
    }

    /// `None`: of somebody who speaks otherwise.
    fn from_bytes(bytes: &[u8; HELLO]) -> Option<Hello> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let number = |at: usize| Some(u32::from_le_bytes(rest.get(4 * at..4 * at + 4)?.try_into().ok()?));
        if number(0)? != PROTOCOL {
            return None;
        }
        Some(Hello {
            rank: number(1)?,
            world: number(2)?,
            version: number(3)?,
            group: rest.get(16..)?.try_into().ok()?,
        })
    }
}

/// What is left of a time, never zero: a socket would take that for no bound.
fn left(begin: Instant, deadline: Duration) -> Option<Duration> {
    deadline.checked_sub(begin.elapsed()).filter(|left| !left.is_zero())
}

/// Reads all of `into` within `patience`, however the bytes come.
fn read(stream: &mut TcpStream, into: &mut [u8], patience: Duration) -> std::io::Result<()> {
    let begin = Instant::now();
    let mut got = 0;
    while got < into.len() {
        let left = left(begin, patience).ok_or(ErrorKind::TimedOut)?;
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut into[got..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => got += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Rank 0: waits for all, then answers all.
fn serve(meeting: &Meeting<'_>, listener: &TcpListener, id: UniqueId, begin: Instant) -> Result<UniqueId> {
    let socket = |error: std::io::Error| unavailable(meeting.at.0, meeting.at.1, &error.to_string());
    listener.set_nonblocking(true).map_err(socket)?;
    let zero = Hello::of(meeting);
    let mut came: BTreeMap<u32, TcpStream> = BTreeMap::new();
    let (mut strangers, mut differs) = (0, None);
    let outcome = loop {
        if came.len() + 1 >= meeting.world {
            break Ok(());
        }
        let Some(left) = left(begin, meeting.deadline) else {
            let absent = (1..meeting.world).filter(|rank| !came.contains_key(&(*rank as u32)));
            let at = match strangers {
                0 => "the rendezvous".to_string(),
                n => format!("the rendezvous, where {n} came that do not speak as ranks do"),
            };
            break Err(Error::Missing {
                at,
                rank: 0,
                missing: absent.collect(),
                left: Vec::new(),
                waited: begin.elapsed(),
            });
        };
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Nobody, or one that went before it was let in.
            Err(_) => {
                std::thread::sleep(NAP.min(left));
                continue;
            }
        };
        let mut bytes = [0; HELLO];
        let heard = stream
            .set_nonblocking(false)
            .and_then(|()| read(&mut stream, &mut bytes, PATIENCE.min(left)));
        match heard.ok().and_then(|()| Hello::from_bytes(&bytes)) {
            None => strangers += 1,
            Some(hello) => match difference(&hello, &zero, came.contains_key(&hello.rank)) {
                None => drop(came.insert(hello.rank, stream)),
                Some(error) => {
                    differs = Some(stream);
                    break Err(error);
                }
            },
        }
    };
    let answer = match &outcome {
        Ok(()) => [&0u32.to_le_bytes()[..], &id.0].concat(),
        Err(error) => {
            let words: Vec<u8> = error.to_string().into_bytes().into_iter().take(LONGEST).collect();
            [&(words.len() as u32).to_le_bytes()[..], &words].concat()
        }
    };
    // Who differs has no number of its own; it hears of a failure alone.
    let differs = differs.map(|stream| (zero.rank, stream));
    for (rank, mut stream) in came.into_iter().chain(differs) {
        let told = stream
            .set_write_timeout(Some(PATIENCE))
            .and_then(|()| stream.write_all(&answer));
        if let (Err(error), Ok(())) = (told, &outcome) {
            let why = format!("it closed its connection while the ranks met ({error})");
            return Err(Error::PeerExited {
                rank: rank as usize,
                why,
            });
        }
    }
    outcome.map(|()| id)
}

/// What a rank has otherwise than rank 0.
fn difference(one: &Hello, zero: &Hello, again: bool) -> Option<Error> {
    let differ = |what: &str, ours: String, theirs: String| {
        Some(Error::Mismatch {
            rank: one.rank as usize,
            peer: 0,
            what: what.to_string(),
            ours,
            theirs,
        })
    };
    if one.world != zero.world {
        return differ("the world size", one.world.to_string(), zero.world.to_string());
    }
    if one.group != zero.group {
        return differ("the group's bytes", "another".to_string(), "its own".to_string());
    }
    if one.version != zero.version {
        return differ("the version of NCCL", dotted(one.version), dotted(zero.version));
    }
    if again || one.rank == 0 || one.rank >= one.world {
        let expected = "a rank of its own for each, below the world size";
        return Some(Error::bad_argument("rank", one.rank, expected));
    }
    None
}

/// Another rank: says who it is, until somebody answers.
fn ask(meeting: &Meeting<'_>, found: &[SocketAddr], begin: Instant) -> Result<UniqueId> {
    let (host, port) = meeting.at;
    let missing = || Error::Missing {
        at: format!("the rendezvous at {host}:{port}"),
        rank: meeting.rank,
        missing: vec![0],
        left: Vec::new(),
        waited: begin.elapsed(),
    };
    let broken = |error: &std::io::Error| Error::Aborted {
        why: format!("the answer of {host}:{port} broke off: {error}"),
    };
    let hello = Hello::of(meeting).to_bytes();
    loop {
        for at in found {
            let left = left(begin, meeting.deadline).ok_or_else(missing)?;
            let Ok(mut stream) = TcpStream::connect_timeout(at, left) else {
                continue;
            };
            let sent = stream
                .set_write_timeout(Some(PATIENCE))
                .and_then(|()| stream.write_all(&hello));
            // The answer's length, little-endian: its first byte takes as long as the other ranks do.
            let mut first = [0];
            if sent.and_then(|()| read(&mut stream, &mut first, left)).is_err() {
                // Nobody, or somebody who went: it may be the port's owner of before.
                continue;
            }
            // Who has begun to answer knows this rank: another hello would be a second rank of its number.
            let mut rest = [0; 3];
            let heard = read(&mut stream, &mut rest, PATIENCE);
            match heard.map(|()| u32::from_le_bytes([first[0], rest[0], rest[1], rest[2]]) as usize) {
                Ok(0) => {
                    let mut id = [0; 128];
                    return read(&mut stream, &mut id, PATIENCE)
                        .map(|()| UniqueId(id))
                        .map_err(|error| broken(&error));
                }
                Ok(length) if length <= LONGEST => {
                    let mut words = vec![0; length];
                    let why = match read(&mut stream, &mut words, PATIENCE) {
                        Ok(()) => String::from_utf8_lossy(&words).into_owned(),
                        Err(error) => error.to_string(),
                    };
                    return Err(Error::Aborted { why });
                }
                Ok(length) => {
                    let why = format!("{host}:{port} answers with {length} bytes: it is no rank 0");
                    return Err(Error::Aborted { why });
                }
                Err(error) => return Err(broken(&error)),
            }
        }
        std::thread::sleep(NAP.min(left(begin, meeting.deadline).ok_or_else(missing)?));
    }
}

#[cfg(test)]
mod tests;
