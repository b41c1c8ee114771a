//! Stamps that are made up, and the spans and phases that come of them.

use super::read::track;
use super::*;

fn stamp(kind: u32, peer: u32, tile: u32, ns: u64) -> [u64; 2] {
    [u64::from(tile) << 32 | u64::from(peer) << 16 | u64::from(kind), ns]
}

const ALL: u32 = abi::TW_STAMP_ALL;

fn read(role: Role, times: (u64, u64), written: u64, stamps: &[[u64; 2]]) -> Track {
    track((0, 0, role), times, written, stamps.as_flattened())
}

fn span(activity: Activity, tile: u32, peer: Option<usize>, start_ns: u64, end_ns: u64) -> Span {
    Span {
        activity,
        tile,
        peer,
        start_ns,
        end_ns,
    }
}

fn rank(tracks: Vec<Track>) -> RankTimeline {
    RankTimeline {
        rank: 1,
        world: 4,
        kernels: vec!["one"],
        tracks,
    }
}

#[test]
fn a_stamp_ends_what_the_one_before_began() {
    let stamps = [
        stamp(abi::TW_STAMP_MATH, ALL, 7, 10),
        stamp(abi::TW_STAMP_PUSH, 2, abi::TW_STAMP_SAME, 30),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 35),
        stamp(abi::TW_STAMP_END, ALL, 0, 40),
    ];
    let read = read(Role::Cta, (5, 50), 4, &stamps);
    let expected = [
        span(Activity::Math, 7, None, 10, 30),
        span(Activity::Push, 7, Some(2), 30, 35),
        span(Activity::End, 0, None, 40, 50),
    ];
    assert_eq!((read.spans.as_slice(), read.dropped), (&expected[..], 0));
}

#[test]
fn a_wait_goes_to_whom_it_waited_for() {
    let partial = abi::TW_STAMP_WAIT + abi::TW_WAIT_PARTIAL;
    let stamps = [
        stamp(partial, ALL, 3, 100),
        stamp(abi::TW_STAMP_CAME, 0, 0, 180),
        stamp(abi::TW_STAMP_CAME, 1, 0, 0),
        stamp(abi::TW_STAMP_CAME, 2, 0, 150),
        stamp(abi::TW_STAMP_CAME, 3, 0, 90),
        stamp(abi::TW_STAMP_REDUCE, ALL, 3, 190),
        stamp(partial, ALL, 4, 200),
        stamp(abi::TW_STAMP_CAME, 0, 0, 0),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 202),
    ];
    let wait = Activity::Wait(WaitKind::Partial);
    let expected = [
        span(wait, 3, Some(2), 100, 150),
        span(wait, 3, Some(0), 150, 190),
        span(Activity::Reduce, 3, None, 190, 200),
        span(wait, 4, None, 200, 202),
    ];
    assert_eq!(read(Role::Communicator, (1, 300), 9, &stamps).spans, expected);
}

#[test]
fn words_of_one_peer_are_one_wait() {
    let stamps = [
        stamp(abi::TW_STAMP_WAIT + abi::TW_WAIT_ROWS, ALL, 3, 100),
        stamp(abi::TW_STAMP_CAME, 2, 0, 180),
        stamp(abi::TW_STAMP_CAME, 2, 0, 150),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 181),
    ];
    let expected = [span(Activity::Wait(WaitKind::Rows), 3, Some(2), 100, 181)];
    assert_eq!(read(Role::Loader, (1, 300), 4, &stamps).spans, expected);
}

/// What a full ring cuts off is not made up, and a clock that goes back makes no span of negative length.
#[test]
fn full_rings_and_crooked_clocks() {
    let stamps = [
        stamp(abi::TW_STAMP_MATH, ALL, 1, 20),
        stamp(abi::TW_STAMP_STORE, ALL, 1, 15),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 25),
        stamp(abi::TW_STAMP_MATH, ALL, 2, 30),
    ];
    let read = read(Role::Math, (10, 12), 9, &stamps);
    let expected = [
        span(Activity::Math, 1, None, 20, 20),
        span(Activity::Store, 1, None, 20, 25),
    ];
    assert_eq!((read.spans.as_slice(), read.dropped), (&expected[..], 5));
    assert_eq!((read.start_ns, read.end_ns), (10, 25));
}

#[test]
fn each_moment_of_a_cta_counts_once() {
    let math = [
        stamp(abi::TW_STAMP_MATH, ALL, 1, 10),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 60),
    ];
    let talk = [
        stamp(abi::TW_STAMP_REDUCE, ALL, 1, 40),
        stamp(abi::TW_STAMP_WAIT + abi::TW_WAIT_RESULT, 3, 1, 70),
        stamp(abi::TW_STAMP_NONE, ALL, 0, 90),
    ];
    let timeline = rank(vec![
        read(Role::Communicator, (0, 100), 3, &talk),
        read(Role::Math, (0, 95), 2, &math),
    ]);
    let summary = timeline.summary();
    assert_eq!((summary.time, summary.tail, summary.hidden), (100.0, 40.0, 20.0));
    let expected = Phases {
        computing: 50.0,
        moving: 10.0,
        waiting: vec![0.0, 0.0, 0.0, 20.0],
        other: 20.0,
    };
    assert_eq!(summary.phases, expected);
    assert_eq!(summary.phases.total(), summary.time);
}

#[test]
fn ranks_with_clocks_of_their_own_begin_together() {
    let at = |start: u64| rank(vec![read(Role::Cta, (start, start + 10), 0, &[])]);
    let begins = |one_clock: bool| -> Vec<u64> {
        let timeline = Timeline::of(vec![at(500), at(700)], one_clock);
        timeline.ranks.iter().map(RankTimeline::start_ns).collect()
    };
    assert_eq!(begins(true), [0, 200]);
    assert_eq!(begins(false), [0, 0]);
}
