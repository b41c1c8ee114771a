//! Real processes: tests of this file start the test program anew for the ignored ones, which play the other rank.
//!
//! The child opens the parent's heap as `/proc/PID/fd/N`, tells its own descriptor on the standard error, and goes on when
//! its standard input says so.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tileweave::driver::Driver;
use tileweave::driver::sim::SimConfig;

use super::side::Side;
use super::{BYTES, ROUNDS, expected};
use crate::support::{HEAP, STAGING};

const HEAP_OF: &str = "TILEWEAVE_TEST_HEAP";
/// Rounds that nobody lives to see.
const FOR_EVER: u32 = 20_000;

/// Rank 0 of this process, the child with rank 1, and the child's input.
struct Other {
    side: Side,
    child: Child,
    input: ChildStdin,
}

fn open(fd: &str) -> OwnedFd {
    File::options().read(true).write(true).open(fd).unwrap().into()
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

fn start(test: &str, seed: u64) -> Other {
    let (mut side, fd) = Side::new(SimConfig::new(2, seed), 0);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            &format!("processes::inside::{test}"),
        ])
        .env(HEAP_OF, name(&fd))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    side.import(1, &open(line.trim()));
    let input = child.stdin.take().unwrap();
    Other { side, child, input }
}

/// The child's half of [`start`].
fn joined() -> Side {
    let (mut side, fd) = Side::new(SimConfig::new(2, 77), 1);
    side.import(0, &open(&std::env::var(HEAP_OF).expect("started by its parent")));
    eprintln!("{}", name(&fd));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    side
}

#[test]
fn messages_come_through_between_processes() {
    let mut other = start("plays_messages", 1);
    writeln!(other.input, "go").unwrap();
    let out = other.side.start_messages(BYTES, ROUNDS, Duration::from_secs(60));
    let sums = other.side.read_u32(out, ROUNDS as usize * 128).unwrap();
    assert_eq!(sums, expected(2)[0]);
    assert!(other.child.wait().unwrap().success());
}

#[test]
#[ignore = "started by messages_come_through_between_processes"]
fn plays_messages() {
    let side = joined();
    let out = side.start_messages(BYTES, ROUNDS, Duration::from_secs(60));
    assert_eq!(side.read_u32(out, ROUNDS as usize * 128).unwrap(), expected(2)[1]);
    assert_eq!(open_memory(), 2);
    drop(side);
    assert_eq!(open_memory(), 0);
}

/// Descriptors of simulated memory that this process has.
fn open_memory() -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter(|to| to.to_string_lossy().contains("tileweave-sim"))
        .count()
}

/// Killed in the middle of a kernel, a process leaves its memory to those that have it mapped.
#[test]
fn what_a_killed_process_leaves_stays_mapped() {
    for seed in 0..3 {
        let mut other = start("plays_for_ever", seed);
        writeln!(other.input, "go").unwrap();
        let side = &other.side;
        let out = side.start_messages(BYTES, FOR_EVER, Duration::from_secs(2));
        // Some rounds are through.
        let mut round = [0; 8];
        while u64::from_le_bytes(round) < 10 {
            assert!(!side.node.stream_wait(side.stream, Duration::ZERO).unwrap());
            side.node.peek(&mut round, side.heaps[0]).unwrap();
        }
        other.child.kill().unwrap();
        other.child.wait().unwrap();
        // Its own deadline ends the kernel, long before all rounds.
        side.node.stream_synchronize(side.stream).unwrap();
        let sums = side.read_u32(out, FOR_EVER as usize * 128).unwrap();
        assert_eq!(sums.last(), Some(&0xeeee_eeee));
        let mut heap = vec![0; HEAP];
        side.node.peek(&mut heap, side.heaps[1]).unwrap();
        side.node.poke(side.heaps[1] + STAGING, &[1; 8]).unwrap();
        side.node.physical_unmap(side.heaps[1], HEAP).unwrap();
    }
}

#[test]
#[ignore = "started by what_a_killed_process_leaves_stays_mapped"]
fn plays_for_ever() {
    let side = joined();
    side.start_messages(BYTES, FOR_EVER, Duration::from_secs(60));
    side.node.stream_synchronize(side.stream).unwrap();
}

/// Nanoseconds that the threads of this process have run.
fn cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("schedstat")).unwrap();
    tasks
        .map(|task| of(task.unwrap()).split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_node_that_waits_for_another_leaves_the_cores_to_it() {
    let mut other = start("plays_a_waiter", 9);
    writeln!(other.input, "go").unwrap();
    assert!(other.child.wait().unwrap().success());
}

#[test]
#[ignore = "started by a_node_that_waits_for_another_leaves_the_cores_to_it"]
fn plays_a_waiter() {
    let side = joined();
    let out = side.wait(side.heaps[1] + STAGING, 7, Duration::from_secs(1));
    let before = cpu_ns();
    assert!(!side.waited(out).0);
    // Of one second: it looks about 1800 times, a few microseconds each.
    assert!(cpu_ns() - before < 500_000_000, "{} ns", cpu_ns() - before);
}
