//! Frames over a stream socket, of this host or between hosts: `[length: u32][descriptors: u32][JSON]`, little endian, the file descriptors
//! attached to the first bytes; there are none between hosts. Every wait ends at a time that the caller gives; what a peer sends is bounded before it is kept.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The longest body.
pub(super) const LONGEST: usize = 4 << 20;
/// The most descriptors of a frame: two for each rank of a group.
pub(super) const MOST_FDS: usize = 32;
const HEADER: usize = 8;

/// Why a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer has closed its end, or died.
    Closed,
    /// The time was up.
    Late,
    /// What came is no frame.
    Garbage(String),
    /// A call failed.
    System(&'static str, Errno),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Closed => f.write_str("it closed the connection"),
            Broken::Late => f.write_str("the time was up"),
            Broken::Garbage(what) => f.write_str(what),
            Broken::System(call, errno) => write!(f, "{call}: {errno}"),
        }
    }
}

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// A frame that is coming in, in as many pieces as it likes. No byte behind it is read.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    header: [u8; HEADER],
    got: usize,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Incoming {
    /// Takes what is there, without waiting: a frame of at most `longest` bytes once all of it is.
    pub fn read(&mut self, socket: BorrowedFd<'_>, longest: usize) -> Result<Option<Frame>, Broken> {
        while self.got < HEADER {
            let mut piece = [0; HEADER];
            let wanted = HEADER - self.got;
            let Some(bytes) = self.receive(socket, &mut piece[..wanted])? else {
                return Ok(None);
            };
            self.header[self.got..self.got + bytes].copy_from_slice(&piece[..bytes]);
            self.got += bytes;
        }
        let [a, b, c, d, e, f, g, h] = self.header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let fds = u32::from_le_bytes([e, f, g, h]) as usize;
        if length > longest || fds > MOST_FDS {
            return Err(Broken::Garbage(format!(
                "a frame of {length} bytes and {fds} descriptors: expected at most {longest} and {MOST_FDS}"
            )));
        }
        // Memory follows what comes, not what is announced.
        let mut piece = [0; 16 << 10];
        while self.body.len() < length {
            let wanted = piece.len().min(length - self.body.len());
            let Some(bytes) = self.receive(socket, &mut piece[..wanted])? else {
                return Ok(None);
            };
            self.body.extend_from_slice(&piece[..bytes]);
        }
        let whole = std::mem::take(self);
        if whole.fds.len() != fds {
            let came = whole.fds.len();
            return Err(Broken::Garbage(format!(
                "a frame with {came} descriptors that announced {fds}"
            )));
        }
        Ok(Some(Frame {
            body: whole.body,
            fds: whole.fds,
        }))
    }

    /// Bytes that are there, at least one; `None`: none are.
    fn receive(&mut self, socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Option<usize>, Broken> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET | Errno::PIPE | Errno::TIMEDOUT | Errno::HOSTUNREACH) => return Err(Broken::Closed),
            Err(errno) => return Err(Broken::System("recvmsg", errno)),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        // Truncated control data: the kernel has closed what did not fit, here or for want of free descriptors.
        if got.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > MOST_FDS {
            let what = "more descriptors than a frame may have, or than this process may open";
            return Err(Broken::Garbage(what.to_string()));
        }
        match got.bytes {
            0 => Err(Broken::Closed),
            bytes => Ok(Some(bytes)),
        }
    }

    /// A whole frame, waited for until `until`.
    pub fn wait(&mut self, socket: BorrowedFd<'_>, longest: usize, until: Instant) -> Result<Frame, Broken> {
        loop {
            if let Some(frame) = self.read(socket, longest)? {
                return Ok(frame);
            }
            if !ready(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], until)? {
                return Err(Broken::Late);
            }
        }
    }
}

/// Sends a frame whole. The descriptors stay open here.
pub(super) fn send(socket: BorrowedFd<'_>, body: &[u8], fds: &[BorrowedFd<'_>], until: Instant) -> Result<(), Broken> {
    if body.len() > LONGEST || fds.len() > MOST_FDS {
        let (bytes, fds) = (body.len(), fds.len());
        return Err(Broken::Garbage(format!(
            "{bytes} bytes and {fds} descriptors to send: expected at most {LONGEST} and {MOST_FDS}"
        )));
    }
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend((fds.len() as u32).to_le_bytes());
    bytes.extend(body);
    let mut sent = 0;
    while sent < bytes.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        // They travel with the first byte, once.
        if sent == 0 && !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Broken::Garbage(format!("{} descriptors do not fit", fds.len())));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(socket, &[IoSlice::new(&bytes[sent..])], &mut ancillary, flags) {
            Ok(more) => sent += more,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !ready(&mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)], until)? {
                    return Err(Broken::Late);
                }
            }
            Err(Errno::PIPE | Errno::CONNRESET | Errno::TIMEDOUT | Errno::HOSTUNREACH) => return Err(Broken::Closed),
            Err(errno) => return Err(Broken::System("sendmsg", errno)),
        }
    }
    Ok(())
}

/// Waits until one of `fds` has something, and tells whether one has before `until`.
pub(super) fn ready(fds: &mut [PollFd<'_>], until: Instant) -> Result<bool, Broken> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(fds, Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(Broken::System("poll", errno)),
        }
    }
}

/// At most a day at a time: whoever waits longer comes again.
fn timespec(left: Duration) -> Timespec {
    let left = left.min(Duration::from_secs(86_400));
    Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// Borrows all of them.
pub(super) fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
