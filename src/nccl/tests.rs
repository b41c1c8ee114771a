//! The calls against a stand-in for the library (`tests/nccl/fake.c`): that they are well-formed, that every way to fail ends,
//! and, over host memory, that the right elements are summed. Not that NCCL does what they ask.

#[path = "../../tests/nccl/fake.rs"]
pub(crate) mod fake;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::fake::Fake;
use super::*;
use crate::driver::Stream;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::{Op, chunk};

const DEADLINE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(5);

pub(crate) fn fake(name: &str, flags: &[&str]) -> Fake {
    Fake::new(Path::new(env!("CARGO_MANIFEST_DIR")), name, flags)
}

fn open(fake: &Fake) -> Arc<Library> {
    Library::open(fake.path.as_os_str()).expect("a library")
}

fn in_place() -> Box<Context> {
    Box::new(|_, body| body())
}

/// Ranks `ranks` of `world`, of a clique of their own.
fn clique(library: &Arc<Library>, world: usize, ranks: &[usize], deadline: Duration) -> Result<Communicators> {
    let id = library.unique_id()?;
    let config = Config {
        deadline,
        most_ctas: None,
    };
    Communicators::new(library, &id, world, ranks, config, in_place())
}

fn words<T>(outcome: Result<T>) -> String {
    outcome.err().expect("an error").to_string()
}

/// An all-reduce of a few elements that are nowhere.
fn nowhere(rank: usize, count: usize) -> [(usize, Call, Stream); 1] {
    let (from, to) = (0x1000 + rank as u64, 0x2000 + rank as u64);
    let call = Call {
        collective: Collective::AllReduce,
        from,
        to,
        count,
        dtype: DType::Bf16,
    };
    [(rank, call, Stream(0x30 + rank))]
}

/// On one rank, of a stand-in that looks at no address.
fn launch(communicators: &Communicators, rank: usize, count: usize) -> Result<()> {
    // SAFETY: the stand-in was compiled without SUMS, and touches no memory.
    unsafe { communicators.enqueue(&nowhere(rank, count)) }
}

#[test]
fn an_absent_incomplete_or_old_library_is_refused() {
    let text = words(Library::open("libnccl-absent.so.2".as_ref()));
    assert!(
        text.starts_with("NCCL is not available: libnccl-absent.so.2: ") && text.contains("cannot open"),
        "{text}"
    );
    let text = words(Library::open(fake("old", &["-DVERSION=21605"]).path.as_os_str()));
    assert!(
        text.ends_with("it is NCCL 2.16.5, and 2.18.1 or later is needed"),
        "{text}"
    );
    let text = words(Library::open(fake("incomplete", &["-DWITHOUT_ABORT"]).path.as_os_str()));
    assert!(text.ends_with("it lacks ncclCommAbort"), "{text}");
    let oldest = open(&fake("oldest", &["-DVERSION=21801"]));
    assert_eq!((oldest.version(), oldest.code()), ("2.18.1".to_string(), OLDEST));
}

#[test]
fn ranks_that_the_world_has_not_are_refused() {
    let library = open(&fake("ranks", &[]));
    for ranks in [&[][..], &[2], &[1, 0], &[0, 0]] {
        let text = words(clique(&library, 2, ranks, DEADLINE));
        assert!(
            text.ends_with("expected some below 2, the clique's size, by ascending number"),
            "{text}"
        );
    }
    let both = clique(&library, 2, &[0, 1], DEADLINE).expect("communicators");
    assert_eq!(words(launch(&both, 2, 1)), "rank is 2: expected one of this process");
}

#[test]
fn a_failing_init_speaks_in_nccls_words_and_ends_what_it_made() {
    let fake = fake("init", &["-DINIT_FAILS"]);
    let text = words(clique(&open(&fake), 3, &[0, 1, 2], DEADLINE));
    assert_eq!(
        text,
        "ncclCommInitRankConfig failed: invalid usage: Multiple Ranks are using the same GPU (5)"
    );
    // The group is closed all the same.
    let notes = fake.notes_that_end_with("abort 0;");
    assert_eq!(notes, "start;init 0/3;end;abort 0;");
}

#[test]
fn an_init_that_does_not_end_or_whose_peers_do_not_come_is_aborted() {
    for (name, flags, world, ranks) in [
        ("never", &["-DNEVER_READY"][..], 2, &[0, 1][..]),
        ("alone", &[], 3, &[0, 2]),
    ] {
        let fake = fake(name, flags);
        let text = words(clique(&open(&fake), world, ranks, SOON));
        assert!(text.contains("NCCL was not ready after 0.005 s"), "{text}");
        let last = format!("abort {};", ranks[1]);
        assert!(
            fake.notes_that_end_with(&last)
                .ends_with(&format!("end;abort 0;{last}"))
        );
    }
}

#[test]
fn calls_carry_their_counts_types_and_streams() {
    let fake = fake("good", &[]);
    let both = clique(&open(&fake), 2, &[0, 1], DEADLINE).expect("communicators");
    let mut expected = "start;init 0/2;init 1/2;end;".to_string();
    for rank in [0, 1] {
        launch(&both, rank, 64).expect("a healthy library");
        expected +=
            &format!("start;all_reduce rank {rank} 100{rank}>200{rank} count 64 type 9 op 0 stream 3{rank};end;");
    }
    assert_eq!(fake.notes(), expected);
    both.health(0).expect("health");
    both.close(DEADLINE).expect("an orderly end");
    expected += "start;finalize 0;finalize 1;end;destroy 0;destroy 1;";
    assert_eq!(fake.notes(), expected);
}

#[test]
fn what_is_dropped_is_aborted_once() {
    let fake = fake("drop", &[]);
    let both = clique(&open(&fake), 2, &[0, 1], DEADLINE).expect("communicators");
    both.abort();
    both.abort();
    assert_eq!(
        words(launch(&both, 0, 1)),
        "the group was aborted: the communicators were ended"
    );
    drop(both);
    assert!(fake.notes_that_end_with("abort 1;").ends_with("end;abort 0;abort 1;"));
}

#[test]
fn an_asynchronous_error_comes_to_light_and_stays() {
    let fake = fake("broken", &[]);
    let both = clique(&open(&fake), 2, &[0, 1], DEADLINE).expect("communicators");
    launch(&both, 0, 64).expect("a healthy library");
    both.health(1).expect("health");
    fake.break_all(6);
    let text = "an operation of NCCL failed: remote process exited: a peer is gone (6)";
    assert_eq!(words(both.health(1)), text);
    assert!(fake.notes_that_end_with("abort 1;").ends_with("abort 0;abort 1;"));
    assert_eq!(words(launch(&both, 0, 64)), text);
    assert_eq!(words(both.health(0)), text);
}

#[test]
fn counts_that_differ_are_an_error_of_all() {
    let fake = fake("counts", &[]);
    let both = clique(&open(&fake), 2, &[0, 1], DEADLINE).expect("communicators");
    launch(&both, 0, 64).expect("a healthy library");
    let text = words(launch(&both, 1, 65));
    assert!(text.contains("the ranks called different collectives"), "{text}");
    assert_eq!(words(both.health(0)), text);
}

/// One thread, rank by rank: since 2.22 that waits for itself, unless the clique was connected before.
#[test]
fn a_clique_that_is_connected_needs_no_thread_a_rank() {
    let fake = fake("lazy", &["-DLAZY", "-DSUMS"]);
    let library = open(&fake);
    let mut memory = [vec![0u16; 512], vec![0u16; 512]];
    let spaces: Vec<Space> = (0..2)
        .zip(&mut memory)
        .map(|(rank, memory)| Space {
            rank,
            ptr: memory.as_mut_ptr().expose_provenance() as u64,
            bytes: 1024,
            stream: Stream(rank),
        })
        .collect();
    let reduce = |communicators: &Communicators, rank: usize| {
        let call = Call {
            collective: Collective::AllReduce,
            from: spaces[rank].ptr,
            to: spaces[rank].ptr,
            count: 10,
            dtype: DType::Bf16,
        };
        // SAFETY: the memory is there, and nobody else's.
        unsafe { communicators.enqueue(&[(rank, call, Stream(rank))]) }
    };
    // Time enough to be made.
    let unconnected = clique(&library, 2, &[0, 1], Duration::from_secs(1)).expect("communicators");
    assert!(words(reduce(&unconnected, 0)).contains("does every rank take part?"));
    let connected = clique(&library, 2, &[0, 1], DEADLINE).expect("communicators");
    // SAFETY: the memory is there, aligned, and nobody else's.
    unsafe { connect(&connected, 2, &spaces) }.expect("connected");
    for (op, m) in [
        (Op::AllReduce, 5),
        (Op::ReduceScatter, 4),
        (Op::ReduceScatter, 5),
        (Op::AllGather, 4),
        (Op::AllGather, 5),
    ] {
        for rank in [0, 1] {
            let (from, to) = (spaces[rank].ptr, spaces[rank].ptr + 512);
            let calls = calls(op, m, 10, (2, rank), (from, to), DType::Bf16);
            let parts: Vec<_> = calls.into_iter().map(|call| (rank, call, Stream(rank))).collect();
            // SAFETY: the memory is there, and nobody else's: 50 elements in each half.
            unsafe { connected.enqueue(&parts) }.unwrap_or_else(|error| panic!("{op} of {m} waits: {error}"));
        }
    }
    // Another thread's abort ends a wait.
    let waiting = Arc::new(clique(&library, 2, &[0, 1], Duration::from_secs(3600)).expect("communicators"));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| reduce(&waiting, 0));
        std::thread::sleep(SOON);
        waiting.abort();
        let outcome = thread.join().expect("no panic");
        assert!(matches!(outcome, Err(Error::Aborted { .. })), "{outcome:?}");
    });
}

fn bits(value: f32, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => value.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
        DType::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

fn matrix(rows: std::ops::Range<usize>, cols: usize, dtype: DType, value: impl Fn(usize) -> usize) -> Vec<u8> {
    let elements = rows.start * cols..rows.end * cols;
    elements.flat_map(|i| bits(value(i) as f32, dtype)).collect()
}

/// Every collective at M that divide and that do not, in place and not, from a thread a rank: small whole numbers, so exact.
#[test]
fn the_right_elements_get_to_the_right_ranks() {
    let fake = fake("sums", &["-DSUMS"]);
    let library = open(&fake);
    let cols = 3;
    for world in 1..=4 {
        let ranks: Vec<usize> = (0..world).collect();
        let all = clique(&library, world, &ranks, DEADLINE).expect("communicators");
        for (op, dtype) in [
            (Op::AllReduce, DType::Bf16),
            (Op::GemmAllReduce, DType::F16),
            (Op::ReduceScatter, DType::F32),
            (Op::GemmReduceScatter, DType::Bf16),
            (Op::AllGather, DType::F16),
            (Op::AllGatherGemm, DType::F32),
        ] {
            for m in 0..10 {
                let mine = |rank: usize| move |i: usize| (i * 7 + rank * 3) % 16;
                let sum = |i: usize| ranks.iter().map(|rank| mine(*rank)(i)).sum();
                let gathered = |i: usize| {
                    let owner = ranks.iter().find(|rank| chunk(m, world, **rank).contains(&(i / cols)));
                    mine(*owner.expect("an owner"))(i)
                };
                let one = |rank: usize| {
                    let own = chunk(m, world, rank);
                    let (given, expected) = match op.collective() {
                        Op::AllReduce => (0..m, matrix(0..m, cols, dtype, sum)),
                        Op::ReduceScatter => (0..m, matrix(own, cols, dtype, sum)),
                        _ => (own, matrix(0..m, cols, dtype, gathered)),
                    };
                    let mut x = matrix(given, cols, dtype, mine(rank));
                    let mut out = vec![0xa5; expected.len()];
                    let in_place = op.collective() == Op::AllReduce && m % 2 == 0;
                    let from = x.as_mut_ptr().expose_provenance() as u64;
                    let to = if in_place {
                        from
                    } else {
                        out.as_mut_ptr().expose_provenance() as u64
                    };
                    let calls = calls(op, m, cols, (world, rank), (from, to), dtype);
                    let parts: Vec<_> = calls.into_iter().map(|call| (rank, call, Stream(0))).collect();
                    // SAFETY: the stand-in reads and writes the two vectors alone, of these sizes, until the last rank has called,
                    // for which the barrier below waits.
                    unsafe { all.enqueue(&parts) }.expect("a healthy library");
                    (x, out, in_place, expected)
                };
                let barrier = std::sync::Barrier::new(world);
                std::thread::scope(|scope| {
                    for rank in ranks.iter().copied() {
                        let (one, barrier) = (&one, &barrier);
                        scope.spawn(move || {
                            let (x, out, in_place, expected) = one(rank);
                            barrier.wait();
                            let result = if in_place { x } else { out };
                            assert_eq!(result, expected, "{op} of {m} rows on rank {rank} of {world}");
                        });
                    }
                });
            }
        }
    }
}
