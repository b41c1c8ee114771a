use super::*;
use crate::abi::TwHello;

fn diagnose(before: &[TwControl], after: &[TwControl]) -> Error {
    super::diagnose(before, after, &|_| None)
}

/// Ranks that have started and finished `epoch`.
fn finished(world: usize, epoch: u64) -> Vec<TwControl> {
    let descriptor = TwDescriptor {
        op: abi::TW_GEMM_ALL_REDUCE,
        m: 64,
        n: 512,
        world: world as u32,
        ..Default::default()
    };
    let one = TwControl {
        epoch: epoch + 1,
        epoch_started: epoch,
        epoch_finished: epoch,
        current: descriptor,
        abort: abi::TW_ABORT_WAIT as u64,
        hello: [[TwHello { epoch, hash: 1 }; 16]; 2],
        ..TwControl::initial()
    };
    vec![one; world]
}

fn waits(controls: &mut [TwControl], rank: usize, peer: usize, kind: u32, cause: u32) {
    controls[rank].record = TwWaitRecord {
        state: abi::TW_RECORD_COMPLETE,
        kind,
        cause,
        op: abi::TW_GEMM_ALL_REDUCE,
        rank: rank as u32,
        peer: peer as u32,
        tile: 7,
        epoch: controls[rank].epoch_started,
        expected: 3,
        seen: 1,
        waited_ns: 5_000_000,
        ..Default::default()
    };
}

fn root(error: Error) -> (usize, usize, String, Vec<usize>) {
    let Error::Wait { root, verdict, chain } = error else {
        panic!("{error}")
    };
    (
        root.rank,
        root.peer,
        verdict,
        chain.iter().map(|wait| wait.rank).collect(),
    )
}

#[test]
fn a_rank_that_never_launched() {
    let mut controls = finished(3, 5);
    controls[1].epoch_started = 4;
    controls[1].epoch_finished = 4;
    waits(&mut controls, 0, 1, abi::TW_WAIT_HELLO, abi::TW_CAUSE_DEADLINE);
    waits(&mut controls, 2, 0, abi::TW_WAIT_RESULT, abi::TW_CAUSE_ABORT);
    let verdict = "rank 1 never launched it: its last operation is epoch 4";
    assert_eq!(
        root(diagnose(&controls, &controls)),
        (0, 1, verdict.to_string(), vec![0, 2])
    );
    controls[1].epoch_started = 0;
    assert_eq!(
        root(diagnose(&controls, &controls)).2,
        "rank 1 never launched an operation"
    );
}

#[test]
fn the_chain_is_followed_to_its_root() {
    // 0 ran into the deadline waiting for 3, which waits for 2, which waits for 1, which never came.
    let mut controls = finished(4, 2);
    controls[1].epoch_started = 1;
    waits(&mut controls, 0, 3, abi::TW_WAIT_RESULT, abi::TW_CAUSE_DEADLINE);
    waits(&mut controls, 3, 2, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_ABORT);
    waits(&mut controls, 2, 1, abi::TW_WAIT_HELLO, abi::TW_CAUSE_ABORT);
    let (rank, peer, _, chain) = root(diagnose(&controls, &controls));
    assert_eq!((rank, peer, chain), (2, 1, vec![0, 3, 2]));
}

#[test]
fn a_lost_hello_and_a_cycle_around_it() {
    // Nothing that rank 1 sends reaches rank 0; rank 1 waits for what rank 0 therefore does not send.
    let mut controls = finished(2, 1);
    // Rank 0 waits for a result before it looks at hellos: that none came tells enough.
    waits(&mut controls, 0, 1, abi::TW_WAIT_RESULT, abi::TW_CAUSE_ABORT);
    waits(&mut controls, 1, 0, abi::TW_WAIT_RESULT, abi::TW_CAUSE_DEADLINE);
    controls[0].hello[1][1] = TwHello::default();
    let (rank, peer, verdict, chain) = root(diagnose(&controls, &controls));
    assert_eq!((rank, peer, chain), (0, 1, vec![1, 0]));
    assert_eq!(
        verdict,
        "rank 1 launched it, but its hello did not arrive: lost, or sent too late"
    );
}

#[test]
fn still_computing_or_sent_and_lost() {
    let mut after = finished(2, 1);
    waits(&mut after, 0, 1, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_DEADLINE);
    let mut before = after.clone();
    before[1].epoch_finished = 0;
    assert!(root(diagnose(&before, &after)).2.contains("still computing"));
    assert!(root(diagnose(&after, &after)).2.contains("what it sent did not arrive"));
    // A peer that is ahead, and waits there, had finished the operation all the same.
    after[1].epoch_started = 2;
    waits(&mut after, 1, 0, abi::TW_WAIT_HELLO, abi::TW_CAUSE_ABORT);
    let (rank, _, verdict, _) = root(diagnose(&after, &after));
    assert!(
        rank == 0 && verdict.contains("what it sent did not arrive"),
        "{verdict}"
    );
}

#[test]
fn a_cycle_is_named() {
    let mut controls = finished(4, 1);
    waits(&mut controls, 0, 1, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_DEADLINE);
    waits(&mut controls, 1, 2, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_ABORT);
    waits(&mut controls, 2, 1, abi::TW_WAIT_RESULT, abi::TW_CAUSE_ABORT);
    let (rank, peer, verdict, chain) = root(diagnose(&controls, &controls));
    let lost = "these wait for each other, so something that was sent did not arrive";
    assert_eq!(verdict, format!("{lost}: rank 1 for rank 2, rank 2 for rank 1"));
    // Rank 2's partial comes before anybody's result.
    assert_eq!((rank, peer, chain), (1, 2, vec![0, 2, 1]));
}

#[test]
fn a_disagreement_names_both() {
    let mut controls = finished(2, 9);
    controls[1].current.m = 65;
    waits(&mut controls, 0, 1, abi::TW_WAIT_HELLO, abi::TW_CAUSE_DISAGREED);
    waits(&mut controls, 1, 0, abi::TW_WAIT_HELLO, abi::TW_CAUSE_DEADLINE);
    let Error::Disagreed {
        epoch: 9,
        rank: 0,
        peer: 1,
        ours,
        theirs,
    } = diagnose(&controls, &controls)
    else {
        panic!()
    };
    assert!(
        ours.contains("M 64, N 512") && theirs.contains("M 65, N 512"),
        "{ours} / {theirs}"
    );
    controls[1].epoch_started = 10;
    let Error::Disagreed { theirs, .. } = diagnose(&controls, &controls) else {
        panic!()
    };
    assert_eq!(theirs, "an operation of hash 0x0000000000000001");
    // Where all have gone on to other operations, what was launched tells.
    controls[0].epoch_started = 10;
    let known = |hash| {
        Some(TwDescriptor {
            m: hash * 100,
            ..controls[0].current
        })
    };
    let Error::Disagreed { ours, theirs, .. } = super::diagnose(&controls, &controls, &known) else {
        panic!()
    };
    assert!(
        ours.contains("M 300,") && theirs.contains("M 100,"),
        "{ours} / {theirs}"
    );
}

#[test]
fn aborts_without_a_wait() {
    let mut controls = finished(2, 1);
    let aborted = |controls: &[TwControl]| matches!(diagnose(controls, controls), Error::Aborted { .. });
    assert!(aborted(&controls));
    controls[0].abort = abi::TW_ABORT_HOST as u64;
    waits(&mut controls, 1, 0, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_ABORT);
    assert!(aborted(&controls));
    controls[0].abort = abi::TW_ABORT_WAIT as u64;
    assert_eq!(root(diagnose(&controls, &controls)).0, 1);
}

#[test]
fn records_that_make_no_sense_are_not_believed() {
    let mut controls = finished(2, 1);
    waits(&mut controls, 0, 1, abi::TW_WAIT_PARTIAL, abi::TW_CAUSE_DEADLINE);
    let good = controls[0].record;
    let bad = [
        TwWaitRecord {
            state: abi::TW_RECORD_CLAIMED,
            ..good
        },
        TwWaitRecord { peer: 2, ..good },
        TwWaitRecord { kind: 99, ..good },
        TwWaitRecord { cause: 99, ..good },
    ];
    for record in bad {
        controls[0].record = record;
        assert!(matches!(diagnose(&controls, &controls), Error::Aborted { .. }));
    }
}
