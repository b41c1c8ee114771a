//! Processes, one for each rank: that they find each other and give the same bits, that the end of one is told to the others at
//! once, and that nothing stays behind.

use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Instant;

use super::inside::{ROUNDS, SPEC, orders};
use super::*;
use crate::common::{deep, judge};

/// A process that is one rank. It ends with this value at the latest.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl Process {
    fn start(orders: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "inside::one_rank"])
            .env(SPEC, orders)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Process { child, lines }
    }

    /// What follows `word` on the next line that it says; other lines are not its own.
    fn hear(&mut self, word: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            if let Some(said) = line.strip_prefix('@') {
                return said
                    .strip_prefix(word)
                    .unwrap_or_else(|| panic!("{said:?}, not {word}"))
                    .trim()
                    .to_string();
            }
        }
        panic!("nothing, instead of {word}");
    }

    /// Its error, after whatever else it says.
    fn error(&mut self) -> String {
        let mut lines = self.lines.by_ref().map_while(std::io::Result::ok);
        lines
            .find_map(|line| line.strip_prefix("@error").map(str::to_string))
            .expect("an error")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn name(test: &str) -> String {
    format!("{test}-{}", std::process::id())
}

fn start(test: &str, world: usize, deadline: Duration, what: &str) -> Vec<Process> {
    (0..world)
        .map(|rank| Process::start(&orders(rank, world, &name(test), deadline, what)))
        .collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// Abstract sockets of joining ranks.
fn rendezvous() -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    table.lines().filter(|line| line.contains("@tileweave-")).count()
}

#[test]
fn processes_give_the_bits_of_one_process_and_leave_nothing_behind() {
    let world = 3;
    let mut all = start("bits", world, LONG, "run");
    let mut results = Vec::new();
    for process in &mut all {
        process.hear("joined");
    }
    for process in &mut all {
        results.push(bytes(&process.hear("result")));
    }
    let c = case(Op::GemmAllReduce, world);
    judge(&c, &Data::new(&c), &results, "processes");
    assert_eq!(results, crate::common::run(&c, c.routes()[0], 0).unwrap());
    for process in &mut all {
        assert_eq!(process.hear("left"), "0", "descriptors are left");
        assert!(process.child.wait().unwrap().success());
    }
}

#[test]
fn mismatched_plans_are_named_in_every_process() {
    for process in &mut start("plans", 2, LONG, "other") {
        process.hear("joined");
        let error = process.hear("error");
        assert!(
            error.starts_with("Disagreed") && error.contains("M 70") && error.contains("M 69"),
            "{error}"
        );
    }
}

#[test]
fn a_rank_that_never_launches_is_named_by_the_deadline() {
    let mut all = start("silent", 3, Duration::from_millis(500), "silent");
    for process in &mut all {
        process.hear("joined");
    }
    for rank in [0, 2] {
        let error = all[rank].hear("error");
        assert!(
            error.starts_with("Wait") && error.contains("rank 1 never launched an operation"),
            "{error}"
        );
    }
}

#[test]
fn a_rank_that_never_comes_is_named_in_every_process() {
    let id = name("absent");
    let orders = |rank| orders(rank, 3, &id, Duration::from_millis(400), "impatient");
    let mut here = [0, 1].map(|rank| Process::start(&orders(rank)));
    for process in &mut here {
        let error = process.hear("error");
        assert!(
            error.starts_with("Missing") && error.contains("missing: [2]"),
            "{error}"
        );
    }
}

/// A small generator of the tests' own: moments and victims.
fn draws(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    move |most| {
        state ^= state >> 29;
        state = state.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (state >> 33) % most
    }
}

/// Survivors hear from the kernel, by the end of a socket, whatever the killed one was doing: launching, computing, waiting.
#[test]
fn one_that_is_killed_at_any_moment_is_named_by_all_others_at_once() {
    let world = 3;
    for seed in 0..100 * deep() as u64 {
        let mut draw = draws(seed);
        let victim = draw(world as u64) as usize;
        let mut all = start(&format!("killed{seed}"), world, LONG, "endless");
        all.iter_mut().for_each(|process| drop(process.hear("joined")));
        std::thread::sleep(Duration::from_micros(draw(30_000)));
        let begin = Instant::now();
        all[victim].child.kill().unwrap();
        for (rank, process) in all.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
            let error = process.hear("error");
            // A launch that comes after the news says that the group is poisoned by it.
            let told = format!("PeerExited {{ rank: {victim}");
            let error = error.strip_prefix("Poisoned(").unwrap_or(&error);
            assert!(
                error.starts_with(&told),
                "seed {seed}, rank {rank} of victim {victim}: {error}"
            );
        }
        // What the deadline would end takes a minute.
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "seed {seed}: {took:?}");
    }
}

/// The same while the ranks join, from before the first greeting on: who was not seen is missing, who was seen is gone.
#[test]
fn one_that_is_killed_while_the_ranks_join_is_named_by_all_others() {
    std::thread::scope(|scope| {
        for seed in 0..10 {
            scope.spawn(move || {
                let mut draw = draws(seed);
                let (world, victim) = (3, draw(3) as usize);
                let patience = Duration::from_secs(4);
                let mut all = start(&format!("joining{seed}"), world, patience, "impatient endless");
                std::thread::sleep(Duration::from_micros(draw(60_000)));
                all[victim].child.kill().unwrap();
                for (rank, process) in all.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
                    let error = process.error();
                    let named = [
                        format!("PeerExited {{ rank: {victim}"),
                        format!("Poisoned(PeerExited {{ rank: {victim}"),
                        format!("missing: [{victim}]"),
                    ];
                    assert!(
                        named.iter().any(|named| error.contains(named)),
                        "seed {seed}, rank {rank} of victim {victim}: {error}"
                    );
                }
            });
        }
    });
}

/// Through TCP, which the kernel of a process that ends closes as well.
#[test]
fn one_of_another_host_that_is_killed_is_named_and_one_that_goes_is_not() {
    let world = 3;
    for (round, victim) in [(0, None), (1, Some(0)), (2, Some(1)), (3, Some(2))] {
        let port = super::hosts::free_port("127.0.0.1").unwrap();
        let mut all = start(&format!("across{round}"), world, LONG, &format!("across {port}"));
        all.iter_mut().for_each(|process| drop(process.hear("joined")));
        let Some(victim) = victim else {
            // Its process ends right behind the drop of its last handle; the others stay well.
            for process in &mut all {
                std::io::Write::write_all(process.child.stdin.as_mut().unwrap(), b"go\n").unwrap();
                assert_eq!(process.hear("went"), "Ok(())");
                assert!(process.child.wait().unwrap().success());
            }
            continue;
        };
        let begin = Instant::now();
        all[victim].child.kill().unwrap();
        for (rank, process) in all.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
            let error = process.hear("error");
            let told = format!("PeerExited {{ rank: {victim}");
            assert!(error.starts_with(&told), "rank {rank} of victim {victim}: {error}");
        }
        assert!(begin.elapsed() < LONG / 2, "the deadline ended it");
    }
}

/// Nobody launches then: graphs are replayed, and `health` alone is asked.
#[test]
fn one_that_is_killed_while_graphs_are_replayed_is_named_by_health() {
    for victim in 0..3 {
        let mut all = start(&format!("replays{victim}"), 3, LONG, "replays");
        all.iter_mut().for_each(|process| drop(process.hear("joined")));
        std::thread::sleep(Duration::from_millis(30));
        let begin = Instant::now();
        all[victim].child.kill().unwrap();
        for (rank, process) in all.iter_mut().enumerate().filter(|(rank, _)| *rank != victim) {
            let error = process.hear("error");
            assert!(
                error.starts_with(&format!("PeerExited {{ rank: {victim}")),
                "rank {rank}: {error}"
            );
        }
        assert!(begin.elapsed() < LONG / 2, "the deadline ended it");
    }
}

#[test]
fn one_that_speaks_nonsense_is_named() {
    let mut all = start("babbler", 3, LONG, "babbler");
    for rank in [0, 2] {
        let error = all[rank].error();
        let error = error.trim().strip_prefix("Poisoned(").unwrap_or(error.trim());
        assert!(
            error.starts_with("PeerExited { rank: 1") && error.contains("it sent what is no word of ranks"),
            "rank {rank}: {error}"
        );
    }
}

/// Its farewell says that it has launched what the others wait for; its kernels die with the process all the same.
#[test]
fn one_that_ends_in_good_order_with_work_undone_is_named_at_once() {
    let mut all = start("leaver", 3, LONG, "leaver");
    let begin = Instant::now();
    for rank in [0, 2] {
        let error = all[rank].error();
        let error = error.trim().strip_prefix("Poisoned(").unwrap_or(error.trim());
        assert!(error.starts_with("PeerExited { rank: 1"), "rank {rank}: {error}");
    }
    assert!(begin.elapsed() < LONG / 2, "the deadline ended it");
}

#[test]
fn a_process_joins_again_and_again_by_one_id_and_does_not_grow() {
    for process in &mut start("again", 2, LONG, "again") {
        // A group's sockets and memory are far more than these: one that is just going may still be there.
        let grown: usize = process.hear("grown").parse().unwrap();
        assert!(grown <= 8, "{grown} more descriptors after {ROUNDS} groups");
        assert!(process.child.wait().unwrap().success());
    }
}

#[test]
fn strangers_and_names_are_no_matter() {
    let id = name("strangers");
    let before = rendezvous();
    let mut zero = Process::start(&orders(0, 2, &id, LONG, "run"));
    while rendezvous() == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    for line in table.lines() {
        // Also other tests' rendezvous: strangers are no matter there, either.
        let Some((_, name)) = line.split_once('@').filter(|(_, name)| name.starts_with("tileweave-")) else {
            continue;
        };
        let address = SocketAddr::from_abstract_name(name.trim_end_matches('@')).unwrap();
        if let Ok(mut stranger) = std::os::unix::net::UnixStream::connect_addr(&address) {
            let _ = std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n");
        }
        // Its name is taken while it lives.
        assert!(UnixListener::bind_addr(&address).is_err() || rendezvous() != before + 1);
    }
    let mut one = Process::start(&orders(1, 2, &id, LONG, "run"));
    for process in [&mut zero, &mut one] {
        process.hear("joined");
        process.hear("result");
    }
}
