//! Threads as ranks.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::super::venue::{address, socket};
use super::super::wire;
use super::*;

/// An id that no other test has.
fn fresh() -> Id {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    Id::of(format!("{} {next}", std::process::id()))
}

fn comer(rank: usize, world: usize, patience: Duration) -> Comer {
    Comer {
        rank,
        world,
        process: Process::here(rank).unwrap(),
        agreed: vec![("the heap".to_string(), "64".to_string())],
        until: Instant::now() + patience,
    }
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

fn enter(id: &Id, rank: usize, world: usize) -> Result<(Hall, Vec<Process>)> {
    Hall::enter(id, comer(rank, world, LONG))
}

/// What becomes of each of `comers`, at once.
fn all(id: Id, comers: Vec<Comer>) -> Vec<Result<(Hall, Vec<Process>)>> {
    let threads: Vec<_> = comers
        .into_iter()
        .map(|comer| std::thread::spawn(move || Hall::enter(&id, comer)))
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// A connection to the rendezvous of `id`, which knows nothing of ranks.
fn stranger(id: &Id) -> UnixStream {
    let name = format!("tileweave-{}", &id.digest("rendezvous")[..32]);
    loop {
        let socket = socket().unwrap();
        if rustix::net::connect(&socket, &address(&name).unwrap()).is_ok() {
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn all_meet_and_hear_what_each_says_and_gives() {
    for world in [1, 2, 5, 16] {
        let id = fresh();
        std::thread::scope(|scope| {
            for rank in (0..world).rev() {
                scope.spawn(move || {
                    let (mut hall, processes) = enter(&id, rank, world).unwrap();
                    let drivers: Vec<u64> = processes.iter().map(|process| process.driver).collect();
                    assert_eq!(drivers, (0..world as u64).collect::<Vec<_>>());
                    for round in 0..3u64 {
                        let said = hall
                            .gather("number", Ok((rank as u64 + 10 * round, Given::new())))
                            .unwrap();
                        let said: Vec<u64> = said.into_iter().map(|(value, _)| value).collect();
                        assert_eq!(
                            said,
                            (0..world as u64).map(|rank| rank + 10 * round).collect::<Vec<_>>()
                        );
                    }
                    // One for everybody, one for the next alone.
                    let next = (rank + 1) % world;
                    let (to_all, mut from_all) = UnixStream::pair().unwrap();
                    let (to_next, mut from_next) = UnixStream::pair().unwrap();
                    let mut given: Given = vec![(None, to_all.into())];
                    if next != rank {
                        given.push((Some(next), to_next.into()));
                    }
                    let mut came = hall.gather("sockets", Ok(((), given))).unwrap();
                    for (from, ((), fds)) in came.iter_mut().enumerate() {
                        let expected = match from {
                            _ if from == rank => 0,
                            _ if (from + 1) % world == rank => 2,
                            _ => 1,
                        };
                        assert_eq!(fds.len(), expected, "from {from} to {rank} of {world}");
                        for fd in fds.drain(..) {
                            UnixStream::from(fd).write_all(&[rank as u8]).unwrap();
                        }
                    }
                    // Every end but those that were given is closed by now, so these come to an end.
                    let (mut everybody, mut one) = (Vec::new(), Vec::new());
                    hall.gather("end", Ok(((), Given::new()))).unwrap();
                    from_all.read_to_end(&mut everybody).unwrap();
                    everybody.sort_unstable();
                    assert_eq!(
                        everybody,
                        (0..world as u8).filter(|r| *r != rank as u8).collect::<Vec<_>>()
                    );
                    if next != rank {
                        from_next.read_to_end(&mut one).unwrap();
                        assert_eq!(one, [next as u8]);
                    }
                });
            }
        });
    }
}

#[test]
fn who_does_not_come_is_told_to_all_who_did() {
    let id = fresh();
    // The patience of rank 1 ends first, and everybody hears of it then.
    let comers = vec![comer(0, 5, LONG), comer(1, 5, SHORT), comer(3, 5, LONG)];
    for (result, me) in all(id, comers).into_iter().zip([0, 1, 3]) {
        match result.unwrap_err() {
            Error::Missing { rank, missing, at, .. } => {
                assert_eq!((rank, missing, at.as_str()), (me, vec![2, 4], "the rendezvous"));
            }
            other => panic!("{other}"),
        }
    }
    let error = Hall::enter(&id, comer(1, 2, SHORT)).unwrap_err();
    assert!(
        matches!(&error, Error::Missing { missing, .. } if missing == &[0]),
        "{error}"
    );
    // An id is not spent by a join that came to nothing.
    assert!(
        all(id, (0..3).map(|rank| comer(rank, 3, LONG)).collect())
            .iter()
            .all(Result::is_ok)
    );
}

#[test]
fn whoever_differs_is_named_on_every_rank() {
    let mut other = comer(1, 3, LONG);
    other.agreed[0].1 = "65".to_string();
    let mut less = comer(1, 3, LONG);
    less.agreed.clear();
    let cases = [
        (
            other,
            "rank 1 and rank 0 cannot join: the heap is 65 on rank 1 and 64 on rank 0",
        ),
        (
            less,
            "rank 1 and rank 0 cannot join: the heap is not told on rank 1 and 64 on rank 0",
        ),
        (
            comer(1, 4, LONG),
            "rank 1 and rank 0 cannot join: the world size is 4 on rank 1 and 3 on rank 0",
        ),
        (comer(2, 3, LONG), "rank is 2, given twice in process"),
        (comer(0, 3, LONG), "rank is 0, given twice in process"),
    ];
    for (odd, told) in cases {
        let twice = told.starts_with("rank is 2");
        let mut comers = vec![comer(0, 3, LONG), odd, comer(2, 3, LONG)];
        // The last one comes to a group that does not wait for the missing one for long.
        if !twice && !told.starts_with("rank is 0") && comers[1].world == 3 {
            comers.rotate_left(1);
        }
        for result in all(fresh(), comers) {
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }
    let error = enter(&fresh(), 3, 3).unwrap_err().to_string();
    assert_eq!(error, "rank is 3: expected below the world size, 3");
}

#[test]
fn ranks_of_different_ids_miss_each_other() {
    let ids = [fresh(), fresh()];
    std::thread::scope(|scope| {
        for (rank, id) in ids.iter().enumerate() {
            scope.spawn(move || {
                let error = Hall::enter(id, comer(rank, 2, SHORT)).unwrap_err();
                assert!(
                    matches!(&error, Error::Missing { missing, .. } if missing == &[1 - rank]),
                    "rank {rank}: {error}"
                );
            });
        }
    });
}

/// Of such a rank nothing is understood but who it is; it is told why all the same.
#[test]
fn another_protocol_is_refused_by_name() {
    let id = fresh();
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| enter(&id, 0, 2));
        let mut other = stranger(&id);
        let greeting = serde_json::json!({
            "magic": MAGIC, "protocol": PROTOCOL + 1, "group": id.digest("greeting"), "rank": 1, "world": 2,
            "news": "of later versions",
        });
        let body = serde_json::to_vec(&greeting).unwrap();
        wire::send(other.as_fd(), &body, &[], Instant::now() + LONG).unwrap();
        let error = zero.join().unwrap().unwrap_err().to_string();
        let (ours, theirs) = (PROTOCOL + 1, PROTOCOL);
        let told = format!("the protocol of joining is {ours} on rank 1 and {theirs} on rank 0");
        assert!(error.contains(&told), "{error}");
        let mut answer = Vec::new();
        let _ = other.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).contains("the protocol of joining"));
    });
}

#[test]
fn strangers_are_turned_away_and_nobody_else_notices() {
    let id = fresh();
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| enter(&id, 0, 2));
        let silent = stranger(&id);
        for nonsense in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x02\0\0\0\0\0\0\0{}",
            b"\x04\0\0\0\0\0\0\0\xff\xff\xff\xff",
            b"\x04\0\0\0\0\0\0\0",
        ] {
            let mut rude = stranger(&id);
            rude.write_all(nonsense).unwrap();
            rude.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            let _ = rude.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("Refused"), "{answer}");
        }
        // A rank of a group whose id only looks the same from outside.
        let mut other = stranger(&id);
        let greeting = Greeting {
            magic: MAGIC.to_string(),
            protocol: PROTOCOL,
            group: fresh().digest("greeting"),
            rank: 1,
            world: 2,
            patience_ms: 0,
            process: Process::here(0).unwrap(),
            agreed: Vec::new(),
        };
        let body = serde_json::to_vec(&greeting).unwrap();
        wire::send(other.as_fd(), &body, &[], Instant::now() + LONG).unwrap();
        let mut answer = Vec::new();
        let _ = other.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).contains("not of this group"));
        let one = enter(&id, 1, 2);
        assert!(one.is_ok() && zero.join().unwrap().is_ok());
        drop(silent);
    });
}

#[test]
fn another_user_is_refused_by_both_ends() {
    let id = fresh();
    let other = user() + 1;
    std::thread::scope(|scope| {
        // Rank 0 takes this user for another.
        let zero = scope.spawn(|| Hall::enter_as(other, &id, comer(0, 2, Duration::from_millis(300))));
        drop(stranger(&id));
        let error = Hall::enter_as(user(), &id, comer(1, 2, LONG)).unwrap_err().to_string();
        assert!(error.contains(&format!("this group is of user {other}")), "{error}");
        let error = zero.join().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("rank 1 did not come") && error.contains("turned away: this group"),
            "{error}"
        );
    });
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| enter(&id, 0, 2));
        drop(stranger(&id));
        let error = Hall::enter_as(other, &id, comer(1, 2, LONG)).unwrap_err().to_string();
        let told = format!(
            "rank 1 and rank 0 cannot join: the user is {other} on rank 1 and {} (process",
            user()
        );
        assert!(error.starts_with(&told), "{error}");
        assert!(enter(&id, 1, 2).is_ok() && zero.join().unwrap().is_ok());
    });
}

#[test]
fn one_that_fails_or_leaves_between_phases_is_named_to_all() {
    for culprit in 0..3 {
        for leaves in [false, true] {
            let id = fresh();
            std::thread::scope(|scope| {
                for rank in 0..3 {
                    scope.spawn(move || {
                        let (mut hall, _) = enter(&id, rank, 3).unwrap();
                        if rank == culprit && leaves {
                            return;
                        }
                        let mine = match rank == culprit {
                            true => Err(Error::bad_argument("the heap", 5, "more")),
                            false => Ok((rank, Given::new())),
                        };
                        let error = hall.gather("heaps", mine).unwrap_err().to_string();
                        let told = match (rank == culprit, leaves) {
                            (true, _) => "the heap is 5: expected more".to_string(),
                            (_, false) => format!("rank {culprit} could not join: the heap is 5: expected more"),
                            (_, true) => format!("rank {culprit} is gone: it closed its connection"),
                        };
                        assert!(error.contains(&told), "{error}");
                    });
                }
            });
        }
    }
}

#[test]
fn one_that_greets_and_then_speaks_nonsense_is_named() {
    let id = fresh();
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| {
            let (mut hall, _) = enter(&id, 0, 3).unwrap();
            hall.gather("heaps", Ok((0, Given::new())))
        });
        let two = scope.spawn(|| {
            let (mut hall, _) = enter(&id, 2, 3).unwrap();
            hall.gather("heaps", Ok((0, Given::new())))
        });
        let (hall, _) = enter(&id, 1, 3).unwrap();
        let Role::Visitor(visitor) = &hall.role else { panic!() };
        visitor.babble();
        for error in [zero.join().unwrap().unwrap_err(), two.join().unwrap().unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("rank 1 does not speak as ranks do that join"), "{error}");
        }
        drop(hall);
    });
}

#[test]
fn one_that_says_nothing_is_waited_for_until_the_deadline() {
    let id = fresh();
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| enter(&id, 1, 2).unwrap());
        let (mut hall, _) = Hall::enter(&id, comer(0, 2, Duration::from_millis(200))).unwrap();
        let error = hall.gather("heaps", Ok((0, Given::new()))).unwrap_err();
        assert!(
            matches!(&error, Error::Missing { missing, .. } if missing == &[1]),
            "{error}"
        );
        drop(silent);
    });
}

#[test]
fn one_too_many_is_told_that_the_group_is_complete() {
    let id = fresh();
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            let (mut hall, _) = enter(&id, 1, 2).unwrap();
            let late = enter(&id, 1, 2).unwrap_err().to_string();
            assert!(late.contains("all ranks have come"), "{late}");
            hall.gather("heaps", Ok((1, Given::new()))).unwrap()
        });
        let (mut hall, _) = enter(&id, 0, 2).unwrap();
        assert_eq!(hall.gather("heaps", Ok((0, Given::new()))).unwrap().len(), 2);
        one.join().unwrap();
    });
}
