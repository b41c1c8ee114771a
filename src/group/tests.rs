//! Groups over a driver that only notes what it is told.

use std::mem::offset_of;
use std::time::Duration;

use super::fake::Fake;
use super::*;
use crate::abi::{CONTROL_BYTES, TwDescriptor, TwReport, TwWaitRecord};
use crate::dtype::DType;
use crate::op::{Op, OpSpec, Operands};

fn config() -> GroupConfig {
    GroupConfig::default().heap_bytes(4 << 20)
}

#[test]
fn heaps_begin_ready_and_go_with_the_last_handle() {
    let (fake, node) = Fake::node(2);
    let ranks = node.group(3, &config()).unwrap();
    let layout = ranks[0].facts().layout;
    for rank in &ranks {
        let group = rank.abi_group();
        assert_eq!((group.rank as usize, group.world), (rank.rank(), 3));
        assert_eq!(group.deadline_ns, 120_000_000_000);
        let mut bytes = vec![1; layout.staging as usize + 8];
        node.driver().peek(&mut bytes, group.heap[rank.rank()]).unwrap();
        let control = TwControl::from_bytes(bytes[..CONTROL_BYTES].try_into().unwrap());
        assert_eq!((control.epoch, control.round, control.abort), (1, 1, 0));
        assert!(bytes[CONTROL_BYTES..layout.scratch as usize].iter().all(|b| *b == 0));
        assert!(
            bytes[layout.scratch as usize..].iter().all(|b| *b == 0xa5),
            "staging and scratch stay as they came"
        );
    }
    let places: Vec<_> = ranks
        .iter()
        .map(|r| (r.place().device, r.place().share, r.place().shares))
        .collect();
    assert_eq!(places, [(0, 0, 2), (1, 0, 2), (0, 1, 2)]);
    let buffer = ranks[1].alloc(100).unwrap();
    drop((node, ranks));
    assert!(
        fake.alive.lock().unwrap().contains(&"mapping"),
        "a buffer keeps its group"
    );
    drop(buffer);
    assert!(fake.alive.lock().unwrap().is_empty(), "{:?}", fake.alive);
}

/// The caller may end them then; who else holds the group, its listening thread, may do so for longer.
#[test]
fn streams_are_looked_at_by_the_last_handle_and_never_after_it() {
    for busy in [false, true] {
        let (fake, node) = Fake::node(2);
        let ranks = node.group(2, &config()).unwrap();
        let held = ranks[0].group.group().clone();
        fake.busy.store(busy, Ordering::Relaxed);
        drop(ranks);
        let touched = fake.streams_touched.load(Ordering::Relaxed);
        drop((held, node));
        assert_eq!(fake.streams_touched.load(Ordering::Relaxed), touched);
        holdings::give_back();
        let alive = fake.alive.lock().unwrap();
        assert!(alive.is_empty(), "{alive:?}");
    }
}

#[test]
fn a_group_of_more_devices_than_ranks_shares_none() {
    let (_, node) = Fake::node(8);
    let ranks = node.group(4, &config()).unwrap();
    assert!(ranks.iter().all(|r| r.place()
        == Place {
            device: r.rank(),
            share: 0,
            shares: 1
        }));
}

#[test]
fn unusable_groups() {
    let (fake, node) = Fake::node(1);
    let message = |world, config: GroupConfig| node.group(world, &config).unwrap_err().to_string();
    assert_eq!(message(0, config()), "world is 0: expected 1 to 16 ranks");
    assert_eq!(message(17, config()), "world is 17: expected 1 to 16 ranks");
    assert_eq!(
        message(2, config().deadline(Duration::ZERO)),
        "deadline is 0 s: expected a bound longer than that"
    );
    let small = message(2, config().heap_bytes(1000));
    assert!(
        small.starts_with("the heap is too small: a group of 2 with one-shot messages of 131072 bytes needs "),
        "{small}"
    );
    assert!(matches!(
        Fake::node(0).1.group(1, &config()),
        Err(Error::Unavailable { .. })
    ));
    assert!(fake.alive.lock().unwrap().is_empty());
}

#[test]
fn ranks_in_each_others_way_are_named_before_anything_is_made() {
    let (fake, node) = Fake::node(2);
    let on = |device, share, shares, stream: Option<usize>| RankPlace {
        place: Place { device, share, shares },
        stream: stream.map(Stream),
    };
    // SAFETY: the fake driver never looks behind a stream.
    let message = |ranks: &[RankPlace]| unsafe { node.group_on(ranks, &config()) }.unwrap_err().to_string();
    assert_eq!(
        message(&[on(1, 0, 2, None), on(0, 0, 2, None), on(1, 0, 2, None)]),
        "rank 2's place is share 0 of 2 of device 1, as is rank 0's: expected a share for each: their kernels wait for \
         each other, so both must be resident"
    );
    assert_eq!(
        message(&[on(0, 0, 1, Some(5)), on(1, 0, 1, Some(5))]),
        "rank 1's stream is 0x5, as is rank 0's: expected a stream for each: kernels of one stream run one after the other"
    );
    assert_eq!(
        message(&[on(0, 0, 2, None), on(0, 1, 3, None)]),
        "rank 1's place is share 1 of 3 of device 0, where rank 0 has share 0 of 2: expected shares of one division, whose SMs are apart"
    );
    fake.kernels_at_once.store(3, Ordering::Relaxed);
    let four: Vec<_> = (0..4).map(|share| on(0, share, 4, Some(7 + share))).collect();
    assert_eq!(
        message(&four),
        "the number of ranks on device 0 is 4: expected at most 3, so that the kernel of each has a hardware queue; set \
         CUDA_DEVICE_MAX_CONNECTIONS=32 before the program starts"
    );
    assert!(fake.alive.lock().unwrap().is_empty());
    // SAFETY: as above.
    assert!(unsafe { node.group_on(&four[..3], &config()) }.is_ok());
}

#[test]
fn the_budget_and_the_smallest_rank_bound_every_grid() {
    let (fake, node) = Fake::node(2);
    let grid = |world, max_ctas| {
        let ranks = node.group(world, &config().max_ctas(max_ctas)).unwrap();
        let plan = ranks[0]
            .plan(&OpSpec::new(Op::ReduceScatter, 4096, 0, 4096, DType::Bf16))
            .unwrap();
        let x = ranks[0].alloc(4096 * 4096 * 2).unwrap();
        let mut out = ranks[0].alloc(4096 * 4096 * 2).unwrap();
        let rows = 4096 / world;
        let (x, out) = (x.mat(4096, 4096, DType::Bf16), out.mat_mut(rows, 4096, DType::Bf16));
        plan.launch(&Operands::plain(4096, x.unwrap(), out.unwrap())).unwrap();
        fake.take()[0].launch.grid
    };
    assert_eq!((grid(2, 0), grid(4, 0), grid(4, 5)), (64, 32, 5));
}

#[test]
fn stated_budgets_of_groups_that_share_sms_fit_together() {
    // Two ranks a device, 16 SMs of 2 CTAs each.
    let (_fake, node) = Fake::node(1);
    let made = |max_ctas| node.group(2, &config().max_ctas(max_ctas));
    let half = made(16).unwrap();
    let rest = made(15).unwrap();
    let error = made(1).unwrap_err().to_string();
    assert_eq!(
        error,
        "max_ctas is 1, up to 1 of the 16 SMs of a rank on device 0: expected a budget that fits beside the 16 SMs of other \
         groups there; or 0, where the groups' operations are ordered alike on all ranks"
    );
    assert!(made(0).is_ok(), "a group without a budget is ordered by its user");
    drop(rest);
    assert!(made(17).is_err());
    let again = made(16).unwrap();
    drop((half, again));
    assert!(made(1000).is_ok());
}

/// Writes into a rank's control block as a kernel would.
fn poke(rank: &Rank, at: usize, bytes: &[u8]) {
    let heap = rank.abi_group().heap[rank.rank()];
    rank.driver().poke(heap + at as u64, bytes).unwrap();
}

#[test]
fn a_failure_is_the_groups_and_stays() {
    let (fake, node) = Fake::node(1);
    let ranks = node.group(2, &config()).unwrap();
    assert!(ranks.iter().all(|r| r.synchronize().is_ok()));
    let mut control = TwControl::initial();
    control.abort = abi::TW_ABORT_WAIT as u64;
    poke(&ranks[1], 0, &control.to_bytes());
    control.epoch_started = 1;
    control.current = TwDescriptor {
        op: abi::TW_ALL_REDUCE,
        ..Default::default()
    };
    control.record = TwWaitRecord {
        state: abi::TW_RECORD_COMPLETE,
        kind: abi::TW_WAIT_HELLO,
        cause: abi::TW_CAUSE_DEADLINE,
        op: abi::TW_ALL_REDUCE,
        peer: 1,
        epoch: 1,
        expected: 1,
        waited_ns: 1_500_000,
        ..Default::default()
    };
    poke(&ranks[0], 0, &control.to_bytes());
    for rank in &ranks {
        rank.local()
            .report
            .tell(offset_of!(TwReport, abort), abi::TW_ABORT_WAIT as u64);
    }
    let text = "all-reduce (epoch 1): rank 0 waited 1.500 ms for rank 1's hello: expected 0x1, saw 0x0 (deadline); \
                rank 1 never launched an operation";
    for rank in &ranks {
        assert_eq!(rank.synchronize().unwrap_err().to_string(), text);
    }
    let plan = ranks[1].plan(&OpSpec::new(Op::AllReduce, 8, 0, 8, DType::F32)).unwrap();
    let mut data = ranks[1].alloc(256).unwrap();
    let error = plan
        .launch(&Operands::in_place(8, data.mat_mut(8, 8, DType::F32).unwrap()))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the group is poisoned by an earlier failure: {text}")
    );
    assert!(fake.take().is_empty());
    ranks[0].abort("too late");
    assert_eq!(ranks[0].health().unwrap_err().to_string(), text);
}

#[test]
fn an_abort_reaches_every_rank() {
    let (_, node) = Fake::node(1);
    let ranks = node.group(3, &config()).unwrap();
    ranks[1].abort("the user left");
    for rank in &ranks {
        assert_eq!(
            rank.health().unwrap_err().to_string(),
            "the group was aborted: the user left"
        );
        let control = rank.group.control(&rank.group.holdings.heaps[rank.rank()]).unwrap();
        assert_eq!(control.abort, abi::TW_ABORT_HOST as u64);
    }
}

#[test]
fn stats_are_what_kernels_counted() {
    let (_, node) = Fake::node(1);
    let ranks = node.group(2, &config()).unwrap();
    let report = &ranks[1].local().report;
    report.tell(offset_of!(TwReport, bytes_sent) + 8, 7);
    report.tell(offset_of!(TwReport, signals_sent), 5);
    report.tell(offset_of!(TwReport, operations), 3);
    report.tell(offset_of!(TwReport, longest_wait_ns), 2_000);
    assert_eq!((ranks[0].stats().operations(), ranks[0].stats().straggler()), (0, None));
    let stats = ranks[1].stats();
    assert_eq!(
        (stats.fused.operations, stats.unfused.bytes_sent, stats.signals_sent),
        (3, 7, 5)
    );
    assert_eq!(stats.straggler(), Some((0, Duration::from_micros(2))));
}
