//! Ranks of several hosts, as far as one can be several: all between them goes over TCP, and nothing of a heap is shared. The simulated
//! node has no NCCL, so operations are declined here; what they are by NCCL is `tools/cuda-stand-in`'s to test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Instant;

use tileweave::{Error, NcclPolicy, Numerics, Want};

use super::*;

/// A port that nobody has for the moment.
pub fn free_port(host: &str) -> Option<u16> {
    let listener = TcpListener::bind((host, 0)).ok()?;
    Some(listener.local_addr().unwrap().port())
}

/// Joins across, on device 0 of a node of its own.
pub fn across(rank: usize, world: usize, id: &Id, at: (&str, u16), config: &GroupConfig) -> Result<Rank> {
    let (_, node) = sim(1, rank as u64);
    let stream = stream_on(&**node.driver(), 0);
    // SAFETY: nobody ends the stream, and the group holds its node.
    unsafe { Rank::join_across(&node, stream, rank, world, id, at, config) }
}

fn plain() -> GroupConfig {
    GroupConfig::default().heap_bytes(4 << 20).joining(LONG)
}

/// What becomes of ranks with these configurations.
fn all(host: &str, configs: &[GroupConfig]) -> Vec<Result<Rank>> {
    let (id, port) = (fresh(), free_port(host).unwrap());
    std::thread::scope(|scope| {
        let threads: Vec<_> = configs
            .iter()
            .enumerate()
            .map(|(rank, config)| {
                let id = &id;
                scope.spawn(move || across(rank, configs.len(), id, (host, port), config))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn joined(host: &str, world: usize, config: &GroupConfig) -> Vec<Rank> {
    let all = all(host, &vec![config.clone(); world]);
    all.into_iter().map(|rank| rank.unwrap()).collect()
}

#[test]
fn ranks_meet_by_names_and_by_addresses_of_both_kinds() {
    for host in ["localhost", "127.0.0.1", "::1"] {
        if free_port(host).is_none() {
            println!("skipped: this machine has no {host}");
            continue;
        }
        let ranks = joined(host, 4, &plain());
        assert!(
            ranks
                .iter()
                .enumerate()
                .all(|(index, rank)| (rank.rank(), rank.world()) == (index, 4))
        );
        std::thread::scope(|scope| {
            for rank in &ranks {
                scope.spawn(|| (0..3).for_each(|_| rank.host_barrier(LONG).unwrap()));
            }
        });
        ranks.iter().for_each(|rank| rank.health().unwrap());
    }
}

/// Hosts reach rank 0 by whatever address the name has; its own name may be its loopback's.
#[test]
fn a_name_is_met_at_by_its_addresses() {
    let name = hostname();
    if std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 1)).is_err() {
        println!("skipped: {name} does not resolve");
        return;
    }
    let (id, port) = (fresh(), free_port("0.0.0.0").unwrap());
    std::thread::scope(|scope| {
        for rank in 0..3 {
            let (id, name) = (&id, &name);
            scope.spawn(move || {
                across(rank, 3, id, (name, port), &plain())
                    .unwrap()
                    .host_barrier(LONG)
                    .unwrap()
            });
        }
    });
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .trim()
        .to_string()
}

#[test]
fn plans_decline_with_the_reason_and_explicit_routes_are_refused_by_it() {
    let reason = "ranks on several hosts: what they exchange is NCCL's";
    for (policy, more) in [
        (NcclPolicy::Decline, None),
        (
            NcclPolicy::Own,
            Some("NCCL was not considered: the simulated node has no NCCL"),
        ),
    ] {
        let c = case(Op::GemmAllReduce, 2);
        let ranks = joined("127.0.0.1", 2, &plain().nccl(policy).numerics(Numerics::InSwitch));
        let note = "no switch joins several hosts";
        assert!(
            ranks[0].notes().iter().any(|said| said.contains(note)),
            "{:?}",
            ranks[0].notes()
        );
        for rank in &ranks {
            let spec = c.spec(rank.rank(), Path::Fused);
            let plan = rank.plan(&spec.clone().route(Want::Auto)).unwrap();
            let route = plan.route(c.m);
            assert!(
                route.path == Path::Decline && route.reason.contains(reason),
                "{route:?}"
            );
            assert!(more.is_none_or(|more| route.reason.contains(more)), "{route:?}");
            let data = Data::new(&c);
            let error = Loaded::new(rank, &c, &data).unwrap().launch(&plan, c.m).unwrap_err();
            assert!(matches!(&error, Error::RouteUnavailable { .. }), "{error}");
            for path in [Path::Fused, Path::Unfused] {
                let error = rank.plan(&spec.clone().route(Want::Exactly(path))).unwrap_err();
                assert!(error.to_string().contains(reason), "{error}");
            }
            let error = rank
                .plan(&spec.clone().route(Want::Exactly(Path::Nccl)))
                .unwrap_err()
                .to_string();
            let why = match policy {
                NcclPolicy::Own => "the simulated node has no NCCL",
                _ => "GroupConfig::nccl, NcclPolicy::Own",
            };
            assert!(error.contains(why), "{error}");
        }
    }
    let error = across(0, 2, &fresh(), ("localhost", 1), &plain().nccl(NcclPolicy::Never)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("GroupConfig::nccl is Never: expected Own or Decline"),
        "{error}"
    );
}

#[test]
fn who_differs_is_named_on_every_rank() {
    let other = plain().deadline(Duration::from_secs(77));
    for result in all("127.0.0.1", &[plain(), plain(), other]) {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Mismatch { rank: 2, peer: 0, .. }), "{error}");
        assert!(
            error.to_string().contains("GroupConfig::deadline is 77s on rank 2"),
            "{error}"
        );
    }
}

#[test]
fn who_does_not_come_is_named_and_so_is_an_address_that_nobody_has() {
    let (id, port) = (fresh(), free_port("127.0.0.1").unwrap());
    let brief = plain().joining(Duration::from_millis(300));
    std::thread::scope(|scope| {
        for rank in [0, 2] {
            let (id, brief) = (&id, &brief);
            scope.spawn(move || {
                let error = across(rank, 3, id, ("127.0.0.1", port), brief).unwrap_err();
                assert!(
                    matches!(&error, Error::Missing { missing, .. } if missing == &[1]),
                    "rank {rank}: {error}"
                );
            });
        }
    });
    let error = across(1, 3, &id, ("127.0.0.1", port), &brief).unwrap_err();
    assert!(
        matches!(&error, Error::Missing { missing, .. } if missing == &[0]),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("the rendezvous at 127.0.0.1:{port}")),
        "{error}"
    );
    // Of rank 0: another owner of the port, and an address that is not this host's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = across(0, 3, &id, ("127.0.0.1", port), &brief).unwrap_err().to_string();
    assert!(error.contains("is taken: choose another port"), "{error}");
    let error = across(0, 3, &id, ("192.0.2.1", 29500), &brief).unwrap_err().to_string();
    assert!(
        error.contains("the rendezvous at 192.0.2.1:29500 cannot be kept"),
        "{error}"
    );
}

/// Nobody else notices them, neither where all meet nor afterwards.
#[test]
fn strangers_are_turned_away() {
    let (id, port) = (fresh(), free_port("127.0.0.1").unwrap());
    std::thread::scope(|scope| {
        let zero = scope.spawn(|| across(0, 2, &id, ("127.0.0.1", port), &plain()));
        let connect = || loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                return stream;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let _silent = connect();
        for nonsense in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"\xff\xff\xff\xff\0\0\0\0",
            b"\x02\0\0\0\0\0\0\0{}",
        ] {
            let mut rude = connect();
            rude.write_all(nonsense).unwrap();
            let mut answer = Vec::new();
            let _ = rude.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("Refused"), "{answer}");
        }
        // Another group's rank: it goes on looking for its own rank 0.
        let brief = plain().joining(Duration::from_millis(300));
        let error = across(1, 2, &fresh(), ("127.0.0.1", port), &brief).unwrap_err();
        assert!(
            matches!(&error, Error::Missing { missing, .. } if missing == &[0]),
            "{error}"
        );
        assert!(error.to_string().contains("not of this group"), "{error}");
        let one = across(1, 2, &id, ("127.0.0.1", port), &plain()).unwrap();
        let zero = zero.join().unwrap().unwrap();
        zero.health().and(one.health()).unwrap();
    });
}

/// Two groups whose rank 0 have one address: the second waits for the first.
#[test]
fn groups_take_turns_at_one_port() {
    let port = free_port("127.0.0.1").unwrap();
    let ids = [fresh(), fresh(), fresh()];
    std::thread::scope(|scope| {
        for id in &ids {
            for rank in 0..2 {
                scope.spawn(move || {
                    let rank = across(rank, 2, id, ("127.0.0.1", port), &plain()).unwrap();
                    rank.host_barrier(LONG).unwrap();
                });
            }
        }
    });
}

#[test]
fn a_failure_and_an_orderly_end_are_told_to_all() {
    let mut ranks = joined("127.0.0.1", 3, &plain());
    // One that goes in good order is missed by nobody who needs no more of it.
    ranks.remove(1).close(LONG).unwrap();
    let error = ranks[0].host_barrier(LONG).unwrap_err();
    assert!(
        matches!(&error, Error::Missing { missing, .. } if missing.contains(&1)),
        "{error}"
    );
    ranks.iter().for_each(|rank| rank.health().unwrap());
    ranks[1].abort("the user left");
    let begin = Instant::now();
    while ranks[0].health().is_ok() && begin.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = ranks[0].health().unwrap_err().to_string();
    assert!(
        error.contains("rank 2 gave up") && error.contains("the user left"),
        "{error}"
    );
}

#[test]
fn one_rank_alone_has_nobody_to_meet() {
    let rank = across(0, 1, &fresh(), ("no-such-host.invalid", 1), &plain()).unwrap();
    let c = case(Op::AllReduce, 1);
    assert_eq!(
        perform(&rank, &c, &Data::new(&c), Path::Unfused).unwrap().len(),
        70 * 140 * 2
    );
    let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let error = across(0, 17, &fresh(), (&any.to_string(), 1), &plain())
        .unwrap_err()
        .to_string();
    assert_eq!(error, "world is 17: expected 1 to 16 ranks");
}
