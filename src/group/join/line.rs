//! A socket between two ranks that have joined, and packets through it: of this host, where the kernel keeps packets whole; or
//! TCP, where each has its length, a little-endian u32, before it.
//!
//! A packet is sent whole or not at all. TCP may take a part where a peer has not listened for long: the line ends then, which the
//! peer hears as this rank's end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use super::wire::{Broken, ready};

/// The longest packet.
pub(super) const LONGEST: usize = 32 << 10;
/// Room for many packets of one that is slow to listen.
const ROOM: usize = 256 << 10;
/// A host that is gone says nothing: when it is first asked whether it is there, how often again, and after how many questions
/// without an answer, or how long without one for what was sent, it counts as gone.
const IDLE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(2);
const QUESTIONS: u32 = 5;
const UNANSWERED: Duration = Duration::from_secs(15);

#[derive(Debug)]
enum Kind {
    Packets,
    /// What has come of the next packet. One thread listens.
    Stream(Mutex<Vec<u8>>),
}

#[derive(Debug)]
pub(crate) struct Line {
    socket: OwnedFd,
    kind: Kind,
    /// Held while a packet goes out: those of two threads do not mix.
    sending: Mutex<()>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Packets, perhaps none.
    Packets(Vec<Vec<u8>>),
    /// These, and then the end, in words.
    End(Vec<Vec<u8>>, String),
}

impl Line {
    /// One end of a pair on this host.
    pub fn packets(socket: OwnedFd) -> Line {
        Line {
            socket,
            kind: Kind::Packets,
            sending: Mutex::new(()),
        }
    }

    /// A TCP connection to another host.
    pub fn stream(socket: OwnedFd) -> Result<Line, Errno> {
        sockopt::set_socket_send_buffer_size(&socket, ROOM)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, IDLE)?;
        sockopt::set_tcp_keepintvl(&socket, AGAIN)?;
        sockopt::set_tcp_keepcnt(&socket, QUESTIONS)?;
        sockopt::set_tcp_user_timeout(&socket, UNANSWERED.as_millis() as u32)?;
        Ok(Line {
            kind: Kind::Stream(Mutex::default()),
            ..Line::packets(socket)
        })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a packet, and waits until `until` for room. Nothing is held meanwhile.
    pub fn say(&self, packet: &[u8], until: Instant) -> Result<(), Broken> {
        let framed;
        let bytes = match self.kind {
            Kind::Packets => packet,
            Kind::Stream(_) => {
                framed = [&(packet.len() as u32).to_le_bytes(), packet].concat();
                &framed
            }
        };
        loop {
            let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = send(&self.socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if matches!(sent, Ok(part) if part < bytes.len()) {
                let _ = shutdown(&self.socket, Shutdown::Both);
            }
            drop(sending);
            match sent {
                Ok(part) if part < bytes.len() => return Err(Broken::Late),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !ready(&mut [PollFd::new(&self.socket, PollFlags::OUT)], until)? {
                        return Err(Broken::Late);
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Broken::Closed),
                Err(errno) => return Err(Broken::System("send", errno)),
            }
        }
    }

    /// What is there, without waiting, by way of `room`, which has [`LONGEST`] bytes.
    pub fn hear(&self, room: &mut [u8]) -> Came {
        let flags = match self.kind {
            // The whole length is told of a packet that was cut.
            Kind::Packets => RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            Kind::Stream(_) => RecvFlags::DONTWAIT,
        };
        let bytes = match recv(&self.socket, &mut *room, flags) {
            // A reset, told once, says that the peer closed with words of ours unread. It overtakes what the peer said before.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNRESET) => return Came::Packets(Vec::new()),
            // No packet is empty.
            Ok((_, 0)) => return Came::End(Vec::new(), self.over().to_string()),
            Ok((_, bytes)) if bytes > room.len() => return Came::End(Vec::new(), too_long(bytes)),
            Ok((_, bytes)) => &room[..bytes],
            Err(errno) => return Came::End(Vec::new(), format!("its socket failed: {errno}")),
        };
        let Kind::Stream(coming) = &self.kind else {
            return Came::Packets(vec![bytes.to_vec()]);
        };
        let mut coming = coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.extend_from_slice(bytes);
        let mut packets = Vec::new();
        while let Some((length, rest)) = coming.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > LONGEST {
                return Came::End(packets, too_long(length));
            }
            let Some(packet) = rest.get(..length) else { break };
            packets.push(packet.to_vec());
            coming.drain(..4 + length);
        }
        Came::Packets(packets)
    }

    fn over(&self) -> &'static str {
        match self.kind {
            Kind::Packets => "its process ended",
            Kind::Stream(_) => "its process ended, or the way to its host",
        }
    }
}

fn too_long(bytes: usize) -> String {
    format!("it sent a packet of {bytes} bytes")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let far = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("a connection");
        let near = listener.accept().expect("a connection").0;
        near.set_nonblocking(true).expect("a socket");
        (Line::stream(near.into()).expect("a line"), far)
    }

    /// What comes until so many packets have, or the end.
    fn heard(line: &Line, packets: usize) -> (Vec<Vec<u8>>, Option<String>) {
        let (mut all, mut room) = (Vec::new(), vec![0; LONGEST]);
        loop {
            let until = Instant::now() + Duration::from_secs(60);
            assert!(ready(&mut [PollFd::from_borrowed_fd(line.socket(), PollFlags::IN)], until).expect("a poll"));
            match line.hear(&mut room) {
                Came::Packets(more) => all.extend(more),
                Came::End(more, why) => {
                    all.extend(more);
                    return (all, Some(why));
                }
            }
            if all.len() >= packets {
                return (all, None);
            }
        }
    }

    #[test]
    fn packets_come_whole_however_the_bytes_do() {
        let (line, mut far) = connected();
        let long = vec![b'x'; LONGEST];
        let framed = |packet: &[u8]| [&(packet.len() as u32).to_le_bytes()[..], packet].concat();
        let all = [framed(b"one"), framed(b"two"), framed(&long)].concat();
        for piece in [&all[..2], &all[2..9], &all[9..]] {
            far.write_all(piece).expect("it is open");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (packets, end) = heard(&line, 3);
        assert_eq!((packets, end), (vec![b"one".to_vec(), b"two".to_vec(), long], None));
        // Half a packet is none.
        far.write_all(&framed(b"three")[..6]).expect("it is open");
        drop(far);
        let (packets, end) = heard(&line, 1);
        assert_eq!(
            (packets.len(), end.as_deref()),
            (0, Some("its process ended, or the way to its host"))
        );
    }

    #[test]
    fn what_is_no_packet_ends_it() {
        let (line, mut far) = connected();
        far.write_all(b"\x01\0\0\0aGET / HTTP/1.1\r\n\r\n").expect("it is open");
        let (packets, end) = heard(&line, 2);
        assert_eq!(packets, [b"a"]);
        let words = u32::from_le_bytes(*b"GET ");
        assert_eq!(end, Some(format!("it sent a packet of {words} bytes")));
    }

    /// Nobody listens: the line is full some day, and nothing blocks.
    #[test]
    fn who_does_not_listen_is_not_waited_for() {
        let (line, _far) = connected();
        let packet = vec![b'x'; LONGEST];
        let mut said = 0;
        while line.say(&packet, Instant::now()).is_ok() {
            said += 1;
            assert!(said < 10_000, "it never fills");
        }
        assert!(said > 1);
    }
}
