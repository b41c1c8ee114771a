//! Frames between two ends of one process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn frames_come_whole_in_order_and_with_their_descriptors() {
    let (one, two) = UnixStream::pair().unwrap();
    let (mut far, near) = UnixStream::pair().unwrap();
    let long = vec![b'x'; LONGEST];
    let sender = std::thread::spawn(move || {
        send(one.as_fd(), b"first", &[near.as_fd(), near.as_fd()], soon()).unwrap();
        send(one.as_fd(), &long, &[], soon()).unwrap();
        send(one.as_fd(), b"", &[near.as_fd()], soon()).unwrap();
    });
    let mut incoming = Incoming::default();
    let first = incoming.wait(two.as_fd(), LONGEST, soon()).unwrap();
    assert_eq!((first.body.as_slice(), first.fds.len()), (b"first".as_slice(), 2));
    assert_eq!(
        incoming.wait(two.as_fd(), LONGEST, soon()).unwrap().body,
        vec![b'x'; LONGEST]
    );
    assert_eq!(incoming.wait(two.as_fd(), LONGEST, soon()).unwrap().fds.len(), 1);
    sender.join().unwrap();
    // What came is the socket that was sent, and is not inherited by programs that this one starts.
    let came = &first.fds[1];
    assert!(
        rustix::io::fcntl_getfd(came)
            .unwrap()
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
    UnixStream::from(came.try_clone().unwrap()).write_all(b"!").unwrap();
    let mut byte = [0];
    far.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
    assert_eq!(incoming.wait(two.as_fd(), LONGEST, soon()).unwrap_err(), Broken::Closed);
}

#[test]
fn silence_ends_at_the_deadline_in_both_directions() {
    let (one, two) = UnixStream::pair().unwrap();
    let brief = || Instant::now() + Duration::from_millis(5);
    let mut incoming = Incoming::default();
    assert_eq!(incoming.wait(one.as_fd(), LONGEST, brief()).unwrap_err(), Broken::Late);
    // Nobody reads.
    assert_eq!(
        send(two.as_fd(), &vec![0; LONGEST], &[], brief()).unwrap_err(),
        Broken::Late
    );
}

#[test]
fn what_is_no_frame_is_told_and_not_kept() {
    let cases: [(&[u8], &str); 2] = [
        (b"GET / HTTP/1.1\r\n", "a frame of 542393671 bytes"),
        (&[1, 0, 0, 0, 1, 0, 0, 0, b'x'], "0 descriptors that announced 1"),
    ];
    for (bytes, told) in cases {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(bytes).unwrap();
        match Incoming::default().wait(two.as_fd(), LONGEST, soon()) {
            Err(Broken::Garbage(what)) => assert!(what.contains(told), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    let (one, two) = UnixStream::pair().unwrap();
    let too_long = send(one.as_fd(), &vec![0; LONGEST + 1], &[], soon()).unwrap_err();
    assert!(matches!(too_long, Broken::Garbage(_)));
    // More descriptors than a frame may have, one by one with its bytes.
    let mut incoming = Incoming::default();
    let flood = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let _ = rustix::net::send(&one, &[100, 0, 0, 0, 0, 0, 0, 0], SendFlags::NOSIGNAL);
            for _ in 0..60 {
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let fds = [one.as_fd()];
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
                let _ = sendmsg(&one, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::NOSIGNAL);
            }
        });
        incoming.wait(two.as_fd(), LONGEST, soon()).unwrap_err()
    });
    assert!(
        matches!(&flood, Broken::Garbage(what) if what.contains("descriptors")),
        "{flood}"
    );
}
