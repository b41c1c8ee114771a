use super::*;

const GROUP: [u8; 128] = [7; 128];
const LONG: Duration = Duration::from_secs(30);

fn meeting(port: u16, rank: usize, world: usize, deadline: Duration) -> Meeting<'static> {
    Meeting {
        at: ("127.0.0.1", port),
        group: &GROUP,
        rank,
        world,
        version: 22703,
        deadline,
    }
}

/// What becomes of rank 0 and of those who ask it.
fn all(zero: Meeting<'_>, others: Vec<Meeting<'static>>) -> (Result<UniqueId>, Vec<Result<UniqueId>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    std::thread::scope(|scope| {
        let others: Vec<_> = others
            .into_iter()
            .map(|meeting| scope.spawn(move || ask(&meeting, &[at], Instant::now())))
            .collect();
        let served = serve(&zero, &listener, UniqueId([42; 128]), Instant::now());
        (
            served,
            others
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect(),
        )
    })
}

#[test]
fn all_hear_rank_0s_id() {
    for world in [1, 2, 5, 32] {
        let others = (1..world).rev().map(|rank| meeting(0, rank, world, LONG)).collect();
        let (zero, others) = all(meeting(0, 0, world, LONG), others);
        assert_eq!(zero.expect("an id").0, [42; 128]);
        for other in others {
            assert_eq!(other.expect("an id").0, [42; 128]);
        }
    }
}

#[test]
fn who_does_not_come_is_told_to_all_who_did() {
    let short = Duration::from_secs(3);
    let (zero, others) = all(meeting(0, 0, 4, short), vec![meeting(0, 2, 4, LONG)]);
    let Err(Error::Missing { missing, .. }) = &zero else {
        panic!("{zero:?}")
    };
    assert_eq!(missing, &[1, 3]);
    let told = others[0].as_ref().expect_err("none").to_string();
    assert!(told.contains("ranks 1, 3 did not come"), "{told}");
}

#[test]
fn whoever_differs_is_named_to_all() {
    const OTHER: [u8; 128] = [8; 128];
    let of = |rank| meeting(0, rank, 3, LONG);
    for (one, what) in [
        (Meeting { world: 4, ..of(1) }, "the world size"),
        (Meeting { group: &OTHER, ..of(1) }, "the group's bytes"),
        (
            Meeting {
                version: 21801,
                ..of(1)
            },
            "the version of NCCL",
        ),
    ] {
        let (zero, others) = all(of(0), vec![one]);
        let error = zero.expect_err("none");
        assert!(
            matches!(&error, Error::Mismatch { rank: 1, what: named, .. } if named == what),
            "{error:?}"
        );
        assert!(others[0].as_ref().expect_err("none").to_string().contains(what));
    }
    let (zero, others) = all(of(0), vec![of(1), of(1)]);
    assert!(
        zero.expect_err("none")
            .to_string()
            .starts_with("rank is 1: expected a rank of its own")
    );
    assert!(others.iter().any(|other| other.is_err()));
}

#[test]
fn strangers_do_not_keep_the_ranks() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    let mut garbage = TcpStream::connect(at).expect("a connection");
    garbage.write_all(&[b'x'; 4 * HELLO]).expect("room");
    drop(TcpStream::connect(at).expect("a connection"));
    std::thread::scope(|scope| {
        let one = scope.spawn(move || ask(&meeting(0, 1, 2, LONG), &[at], Instant::now()));
        let zero = serve(&meeting(0, 0, 2, LONG), &listener, UniqueId([1; 128]), Instant::now());
        assert_eq!(zero.expect("an id"), one.join().expect("no panic").expect("an id"));
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_asked_for_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address");
    for answer in [&[0u8][..], &[0; 4], &[0; 40]] {
        std::thread::scope(|scope| {
            let one = scope.spawn(move || ask(&meeting(0, 1, 2, LONG), &[at], Instant::now()));
            // Who closes without a word may be somebody else: the rank comes again.
            drop(listener.accept().expect("a rank"));
            let (mut stream, _) = listener.accept().expect("the same rank");
            let mut hello = [0; HELLO];
            read(&mut stream, &mut hello, LONG).expect("its hello");
            stream.write_all(answer).expect("room");
            drop(stream);
            let error = one.join().expect("no panic").expect_err("no id").to_string();
            assert!(error.contains("broke off"), "{error}");
        });
    }
    listener.set_nonblocking(true).expect("a listener");
    assert!(listener.accept().is_err(), "a second hello");
}

#[test]
fn nobody_to_ask_ends_at_the_deadline() {
    let free = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let short = meeting(free.port(), 1, 2, Duration::from_millis(50));
    let error = meet(&short, || panic!("rank 0 mints")).expect_err("nobody");
    assert!(
        matches!(&error, Error::Missing { missing, .. } if missing == &[0]),
        "{error:?}"
    );
    let error = meet(&meeting(1, 2, 2, LONG), || panic!("rank 0 mints")).expect_err("no such rank");
    assert_eq!(error.to_string(), "rank is 2: expected below the world size, 2");
}
