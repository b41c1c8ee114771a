//! Where ranks meet: at a name that only this host has, or at an address that several hosts reach.
//!
//! On one host the kernel tells who is at the other end, and only processes of one user are let in. Between hosts nobody can
//! tell: whoever knows the group's id is a rank, and the network is trusted, as NCCL trusts it.

use std::io::ErrorKind;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::wire::Broken;
use crate::error::{Error, Result};

/// How long one address may take to answer a knock before the next is tried.
const KNOCK: Duration = Duration::from_secs(2);
/// Connections that wait to be let in.
const BACKLOG: i32 = 64;

#[derive(Debug, Clone)]
pub(super) enum Venue {
    /// An abstract unix socket's name, for processes of this user.
    Here {
        name: String,
        user: u32,
    },
    Across(Address),
}

/// What several hosts reach.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// As it was given.
    host: String,
    found: Vec<SocketAddr>,
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Caller {
    pub words: String,
    /// 0 where nobody knows.
    pub pid: u32,
}

impl Address {
    /// Takes as long as the resolver of names does.
    pub fn resolve(host: &str, port: u16) -> Result<Address> {
        let found = (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let refused = |reason: String| Error::Unavailable {
            what: format!("the rendezvous at {host}:{port}"),
            reason,
        };
        match found {
            Ok(found) if !found.is_empty() => Ok(Address {
                host: host.to_string(),
                found,
            }),
            Ok(_) => Err(refused("the name has no address".to_string())),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// One that is known already.
    pub fn of(at: SocketAddr) -> Address {
        Address {
            host: at.ip().to_string(),
            found: vec![at],
        }
    }

    /// Whether nobody else's ranks can be meant.
    pub fn is_this_host_alone(&self) -> bool {
        self.is_literal() && self.found.iter().all(|at| at.ip().is_loopback())
    }

    fn is_literal(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok()
    }

    /// Where its owner listens, in order of preference: at the address, if that is this host's. A host's own name often stands for its
    /// loopback, which no other host reaches: then, and behind a translation of addresses, at all of this host's.
    pub fn own(&self) -> impl Iterator<Item = SocketAddr> {
        let meant = self.is_literal();
        let any = self
            .found
            .first()
            .map(|at| SocketAddr::new(unspecified(at.ip()), at.port()));
        let reached = self.found.iter().copied();
        reached
            .filter(move |at| meant || !at.ip().is_loopback())
            .chain(any.filter(move |_| !meant))
    }
}

/// All addresses of this host, of one's family.
pub(super) fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl std::fmt::Display for Venue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the rendezvous")?;
        match self {
            Venue::Here { .. } => Ok(()),
            Venue::Across(Address { host, found }) => {
                write!(f, " at {host}:{}", found.first().map_or(0, SocketAddr::port))
            }
        }
    }
}

impl Venue {
    /// A listening socket; `None`: somebody listens there already.
    pub fn listen(&self) -> Result<Option<OwnedFd>, Broken> {
        match self {
            Venue::Here { name, .. } => {
                let listener = socket()?;
                match rustix::net::bind(&listener, &address(name)?) {
                    Ok(()) => {}
                    Err(Errno::ADDRINUSE) => return Ok(None),
                    Err(errno) => return Err(Broken::System("bind", errno)),
                }
                rustix::net::listen(&listener, BACKLOG).map_err(|errno| Broken::System("listen", errno))?;
                Ok(Some(listener))
            }
            Venue::Across(address) => {
                let mut last = Broken::System("bind", Errno::ADDRNOTAVAIL);
                for at in address.own() {
                    match TcpListener::bind(at) {
                        Ok(listener) => {
                            listener.set_nonblocking(true).map_err(|error| of_io("fcntl", &error))?;
                            return Ok(Some(listener.into()));
                        }
                        Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(None),
                        Err(error) => last = of_io("bind", &error),
                    }
                }
                Err(last)
            }
        }
    }

    /// A connection, at most until `until`; `None`: nobody listens, or more knock than are let in at once.
    pub fn connect(&self, until: Instant) -> Result<Option<OwnedFd>, Broken> {
        match self {
            Venue::Here { name, .. } => {
                let socket = socket()?;
                match rustix::net::connect(&socket, &address(name)?) {
                    Ok(()) => Ok(Some(socket)),
                    Err(Errno::CONNREFUSED | Errno::NOENT | Errno::AGAIN | Errno::INTR) => Ok(None),
                    Err(errno) => Err(Broken::System("connect", errno)),
                }
            }
            Venue::Across(address) => {
                for at in &address.found {
                    let left = until.saturating_duration_since(Instant::now()).min(KNOCK);
                    // A host that is not up yet is nobody, too.
                    if let (false, Ok(stream)) = (left.is_zero(), TcpStream::connect_timeout(at, left.max(TICK))) {
                        return prepared(stream).map(Some);
                    }
                }
                Ok(None)
            }
        }
    }

    /// Somebody who knocked, ready to be spoken to; `None`: one that is gone again.
    pub fn let_in(&self, listener: &OwnedFd) -> Result<Option<(OwnedFd, Caller)>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        match self {
            Venue::Here { .. } => {
                let caller = |(pid, _)| Caller {
                    words: format!("process {pid}"),
                    pid,
                };
                Ok(peer_of(socket.as_fd()).ok().map(caller).map(|caller| (socket, caller)))
            }
            Venue::Across(_) => {
                let stream = TcpStream::from(socket);
                let words = stream.peer_addr().map_or("a stranger".to_string(), |at| at.to_string());
                Ok(prepared(stream).ok().map(|socket| (socket, Caller { words, pid: 0 })))
            }
        }
    }

    /// Whose processes meet there.
    pub fn user(&self) -> u32 {
        match self {
            Venue::Here { user, .. } => *user,
            Venue::Across(_) => user(),
        }
    }

    /// Process and user at the other end, where that user's may not meet here; `None`: they may, or nobody can tell.
    pub fn foreigner(&self, socket: BorrowedFd<'_>) -> Result<Option<(u32, u32)>, Broken> {
        match self {
            Venue::Here { user, .. } => {
                let (pid, theirs) = peer_of(socket)?;
                Ok((theirs != *user).then_some((pid, theirs)))
            }
            Venue::Across(_) => Ok(None),
        }
    }
}

/// `connect_timeout` takes none for an error.
const TICK: Duration = Duration::from_millis(1);

fn of_io(call: &'static str, error: &std::io::Error) -> Broken {
    Broken::System(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// Words between hosts are short, and waited for.
fn prepared(stream: TcpStream) -> Result<OwnedFd, Broken> {
    let set = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
    set.map_err(|error| of_io("setsockopt", &error))?;
    Ok(stream.into())
}

/// Process and user at the other end of a socket. A process of another PID namespace has number 0 here, which `rustix` has no
/// value for.
fn peer_of(socket: BorrowedFd<'_>) -> Result<(u32, u32), Broken> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and `size` outlive the call, and `size` is that of `peer`.
    let result = unsafe {
        let peer = (&raw mut peer).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, peer, &mut size)
    };
    match result {
        0 => Ok((peer.pid as u32, peer.uid)),
        _ => Err(Broken::System("getsockopt(SO_PEERCRED)", Errno::INVAL)),
    }
}

/// The user of this process.
pub(crate) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub(super) fn socket() -> Result<OwnedFd, Broken> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| Broken::System("socket", errno))
}

pub(super) fn address(name: &str) -> Result<SocketAddrUnix, Broken> {
    SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(|errno| Broken::System("abstract name", errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(host: &str, found: &[&str]) -> Vec<String> {
        let found = found.iter().map(|at| at.parse().expect("an address")).collect();
        let host = host.to_string();
        Address { host, found }.own().map(|at| at.to_string()).collect()
    }

    #[test]
    fn a_name_for_the_loopback_is_listened_at_for_all_hosts_and_what_was_meant_as_it_was() {
        assert_eq!(
            own("localhost", &["[::1]:5", "127.0.0.1:5"]),
            ["[::1]:5", "127.0.0.1:5"]
        );
        assert_eq!(own("127.0.0.1", &["127.0.0.1:5"]), ["127.0.0.1:5"]);
        assert_eq!(own("10.0.0.7", &["10.0.0.7:5"]), ["10.0.0.7:5"]);
        assert_eq!(own("node1", &["127.0.1.1:5"]), ["0.0.0.0:5"]);
        assert_eq!(
            own("node1", &["[fd00::1]:5", "10.0.0.7:5"]),
            ["[fd00::1]:5", "10.0.0.7:5", "[::]:5"]
        );
    }

    #[test]
    fn what_is_no_host_is_named() {
        let error = Address::resolve("no-such-host.invalid", 5)
            .expect_err("no host")
            .to_string();
        assert!(error.contains("the rendezvous at no-such-host.invalid:5"), "{error}");
    }
}
