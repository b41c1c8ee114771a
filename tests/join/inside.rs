//! What the processes that these tests start do: one rank each, told by environment variables.

use std::io::{BufRead, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use tileweave::Error;

use super::*;

/// Groups that one process joins one after the other.
pub const ROUNDS: usize = 100;

pub const SPEC: &str = "TILEWEAVE_TEST_RANK";

/// One rank's orders: `rank world id m deadline_ms what`.
pub fn orders(rank: usize, world: usize, id: &str, deadline: Duration, what: &str) -> String {
    format!("{rank} {world} {id} {} {what}", deadline.as_millis())
}

/// Says a line to whoever started this process.
fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "@{line}");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
#[ignore = "a child of the tests in `processes`"]
fn one_rank() {
    let Ok(spec) = std::env::var(SPEC) else { return };
    let words: Vec<&str> = spec.splitn(5, ' ').collect();
    let [rank, world, id, deadline, what] = words[..] else {
        panic!("{spec}")
    };
    let (rank, world): (usize, usize) = (rank.parse().unwrap(), world.parse().unwrap());
    let c = Case {
        m: if what == "other" && rank == 1 { 69 } else { 70 },
        ..case(Op::GemmAllReduce, world)
    };
    let deadline = Duration::from_millis(deadline.parse().unwrap());
    let patience = if what.starts_with("impatient") { deadline } else { LONG };
    let config = config(&c).deadline(deadline).joining(patience);
    let (_, node) = sim(world, rank as u64);
    let id = Id::of(id);
    if what == "again" {
        return again(&node, rank, &id, &c, &config);
    }
    if let Some(port) = what.strip_prefix("across ") {
        return across(rank, world, &id, port.parse().unwrap(), &config);
    }
    let before = descriptors();
    let joined = match join(&node, rank, rank, world, &id, &config) {
        Ok(rank) => rank,
        Err(error) => return say(format!("error {error:?}")),
    };
    say("joined");
    let data = Data::new(&c);
    let path = c.routes()[0];
    if what == "leaver" && rank == 1 {
        // It goes with its operation still to be done, and so does the process.
        let mut loaded = Loaded::new(&joined, &c, &data).unwrap();
        let plan = joined.plan(&c.spec(rank, path)).unwrap();
        loaded.launch(&plan, c.m).unwrap();
        return;
    }
    if what == "babbler" && rank == 1 {
        babble();
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        return;
    }
    if what == "replays" {
        return say(format!("error {:?}", replay(&joined, &c, &data)));
    }
    let rounds = if what.ends_with("endless") { usize::MAX } else { 3 };
    let mut result = Ok(Vec::new());
    if what == "silent" && rank == 1 {
        // Until whoever started it says so.
        let _ = std::io::stdin().lock().read_line(&mut String::new());
    } else {
        for _ in 0..rounds {
            result = perform(&joined, &c, &data, path);
            if result.is_err() {
                break;
            }
        }
    }
    match result {
        Ok(bytes) => say(format!(
            "result {}",
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        )),
        Err(error) => say(format!("error {error:?}")),
    }
    drop(joined);
    // What is left behind goes when the next group is made; a group of one makes nothing else.
    drop(join(&node, rank, 0, 1, &id, &config));
    // The thread that listens may hold the group for a moment yet, where a peer goes just now.
    let soon = Instant::now() + Duration::from_secs(5);
    while descriptors() > before && Instant::now() < soon {
        std::thread::sleep(Duration::from_millis(1));
    }
    say(format!("left {}", descriptors() as i64 - before as i64));
}

/// On a host of its own, as it were: it asks for its health until that is bad, or it is told to go.
fn across(rank: usize, world: usize, id: &Id, port: u16, config: &GroupConfig) {
    let joined = super::hosts::across(rank, world, id, ("127.0.0.1", port), config).unwrap();
    say("joined");
    let (told, go) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        let _ = told.send(());
    });
    loop {
        if let Err(error) = joined.health() {
            return say(format!("error {error:?}"));
        }
        if go.recv_timeout(Duration::from_millis(1)).is_ok() {
            return say(format!("went {:?}", joined.health()));
        }
    }
}

/// Says to every peer what is no word of ranks. This process has no sockets but those.
fn babble() {
    for entry in std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if std::fs::read_link(&entry).is_ok_and(|what| what.to_string_lossy().starts_with("socket:")) {
            let fd = entry.file_name().unwrap().to_str().unwrap().parse().unwrap();
            // SAFETY: it is open as long as the group, which this thread holds, and is not closed here.
            let socket = ManuallyDrop::new(unsafe { UnixDatagram::from_raw_fd(fd) });
            socket.send(b"GET / HTTP/1.1").unwrap();
        }
    }
}

/// Replays without an end and without a launch: what `health` says in the end.
fn replay(rank: &Rank, c: &Case, data: &Data) -> Error {
    let plan = rank.plan(&c.spec(rank.rank(), c.routes()[0])).unwrap();
    let mut loaded = Loaded::new(rank, c, data).unwrap();
    let (node, stream) = (rank.node(), rank.stream());
    let driver = node.driver();
    driver.stream_begin_capture(stream).unwrap();
    loaded.launch(&plan, c.m).unwrap();
    let graph = driver.stream_end_capture(stream).unwrap();
    let exec = driver.graph_instantiate(graph, stream).unwrap();
    loop {
        driver.graph_launch(exec, stream).unwrap();
        driver.stream_synchronize(stream).unwrap();
        if let Err(error) = rank.health() {
            return error;
        }
    }
}

/// Groups one after the other by one id, each failed or left in another way.
fn again(node: &Node, rank: usize, id: &Id, c: &Case, config: &GroupConfig) {
    let data = Data::new(c);
    let mut first = None;
    for round in 0..ROUNDS {
        let joined = join(node, rank, rank, c.world, id, config).unwrap();
        let result = perform(&joined, c, &data, c.routes()[0]);
        if round % 3 == rank {
            joined.abort("tired of it");
        }
        // Another's abort may come before this one's result, which counts all the same.
        assert!(result.is_ok() || round % 3 < c.world, "{result:?}");
        drop(joined);
        // What was left of the group before is given back by now, but for streams: the node keeps those.
        first.get_or_insert(descriptors());
    }
    say(format!("grown {}", descriptors().saturating_sub(first.unwrap_or(0))));
}
