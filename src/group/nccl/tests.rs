//! Groups with communicators, over the driver of unit tests and the stand-in for NCCL: what is enqueued, in which order, and how
//! they end.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::STAND_IN;
use crate::abi::{self, TwReport};
use crate::group::fake::{Fake, Launched};
use crate::nccl::tests::{fake as stand_in, fake::Fake as Nccl};
use crate::nccl::{Library, NcclPolicy};
use crate::op::{Op, OpSpec, Operands, Tail};
use crate::route::{Path, Want};
use crate::{DType, Error, GroupConfig, Mat, MatMut, Node, Probing, Rank, Wire};

fn config() -> GroupConfig {
    GroupConfig::default()
        .nccl(NcclPolicy::Own)
        .probing(Probing::Never)
        .deadline(Duration::from_secs(20))
}

fn machine(devices: usize, cuda: bool) -> (Arc<Fake>, Node) {
    let mut fake = Fake::default();
    (fake.devices, fake.cuda) = (devices, cuda);
    let fake = Arc::new(fake);
    (fake.clone(), Node::new(fake))
}

/// Three ranks that own communicators of the stand-in, which was made under this name.
fn group(name: &str, flags: &[&str]) -> (Nccl, Arc<Fake>, Vec<Rank>) {
    group_of(name, flags, &config())
}

fn group_of(name: &str, flags: &[&str], config: &GroupConfig) -> (Nccl, Arc<Fake>, Vec<Rank>) {
    let nccl = stand_in(name, flags);
    let library = Library::open(nccl.path.as_os_str()).expect("a library");
    STAND_IN.with(|stand_in| *stand_in.borrow_mut() = Some(Ok(library)));
    let (fake, node) = machine(3, true);
    let ranks = node.group(3, config);
    STAND_IN.with(|stand_in| *stand_in.borrow_mut() = None);
    (nccl, fake, ranks.expect("a group"))
}

fn asked(op: Op, n: usize, k: usize) -> OpSpec {
    OpSpec::new(op, n, k, 4096, DType::Bf16).route(Want::Exactly(Path::Nccl))
}

/// A matrix at an address that nobody looks at.
fn mat(ptr: u64, rows: usize, cols: usize, ld: usize) -> Mat<'static> {
    // SAFETY: neither the driver nor the library touches it.
    unsafe { Mat::from_raw(ptr, rows, cols, ld, DType::Bf16) }
}

fn out(ptr: u64, rows: usize, cols: usize, ld: usize) -> MatMut<'static> {
    // SAFETY: as above.
    unsafe { MatMut::from_raw(ptr, rows, cols, ld, DType::Bf16) }
}

/// The kernels launched, and what NCCL was asked for, since the last call.
fn taken(fake: &Fake, nccl: &Nccl, seen: &mut usize) -> (Vec<Launched>, String) {
    let notes = nccl.notes();
    let new = notes[*seen..].to_string();
    *seen = notes.len();
    (fake.take(), new)
}

#[test]
fn a_gemm_writes_where_nccl_reads_and_a_bias_is_added_once() {
    let (nccl, fake, ranks) = group("group-gemm", &[]);
    assert!(ranks[0].nccl().expect("communicators").starts_with("NCCL 2.30.7 ("));
    let mut seen = nccl.notes().len();
    fake.take();
    let spec = asked(Op::GemmAllReduce, 512, 64).bias(true);
    for rank in &ranks {
        let plan = rank.plan(&spec).expect("a plan");
        assert_eq!(
            plan.route(300).to_string(),
            "nccl (gemm_bf16_64 + ncclAllReduce): asked for"
        );
        let operands = Operands::gemm(
            300,
            mat(1 << 20, 300, 64, 64),
            mat(2 << 20, 512, 64, 64),
            out(3 << 20, 300, 512, 512),
        );
        plan.launch(&operands.bias(mat(4 << 20, 1, 512, 512)))
            .expect("a launch");
        let (launched, notes) = taken(&fake, &nccl, &mut seen);
        let [gemm] = &launched[..] else { panic!("{launched:?}") };
        let bias = if rank.rank() == 0 { 4 << 20 } else { 0 };
        assert_eq!(
            (gemm.params.out, gemm.params.out_ld, gemm.params.bias),
            (3 << 20, 512, bias)
        );
        let (number, stream) = (rank.rank(), rank.stream().0);
        let expected =
            format!("start;all_reduce rank {number} 300000>300000 count 153600 type 9 op 0 stream {stream:x};end;");
        assert_eq!(notes, expected);
        rank.synchronize().expect("health");
    }
}

#[test]
fn a_product_is_scattered_from_scratch_and_a_gather_comes_before_its_gemm() {
    let (nccl, fake, ranks) = group("group-scatter", &[]);
    let mut seen = nccl.notes().len();
    fake.take();
    let scratch = ranks[0].heap_address() + ranks[0].facts().layout.scratch;
    let plan = ranks[0].plan(&asked(Op::GemmReduceScatter, 512, 64)).expect("a plan");
    let operands = Operands::gemm(
        300,
        mat(1 << 20, 300, 64, 64),
        mat(2 << 20, 512, 64, 64),
        out(3 << 20, 100, 512, 512),
    );
    plan.launch(&operands).expect("a launch");
    let (launched, notes) = taken(&fake, &nccl, &mut seen);
    assert_eq!((launched[0].params.out, launched[0].params.out_ld), (scratch, 512));
    assert!(
        notes.contains(&format!("reduce_scatter rank 0 {scratch:x}>300000 count 51200 ")),
        "{notes}"
    );

    // 200 rows: chunks of 67, 67 and 66.
    let plan = ranks[0].plan(&asked(Op::AllGatherGemm, 512, 64)).expect("a plan");
    assert_eq!(plan.route(200).kernel, "ncclAllGather + gemm_bf16_64");
    let operands = Operands::gemm(
        200,
        mat(1 << 20, 67, 64, 64),
        mat(2 << 20, 512, 64, 64),
        out(3 << 20, 200, 512, 520),
    );
    plan.launch(&operands).expect("a launch");
    let (launched, notes) = taken(&fake, &nccl, &mut seen);
    let gemm = &launched[0].params;
    assert_eq!(
        (gemm.x, gemm.x_ld, gemm.out, gemm.out_ld, gemm.m),
        (scratch, 64, 3 << 20, 520, 200)
    );
    let second = scratch + 67 * 64 * 2;
    for part in [
        format!("broadcast rank 0 100000>{scratch:x} count 4288 "),
        format!("broadcast rank 0 {second:x}>{second:x} count 4288 "),
        " count 4224 type 9 op -1 ".to_string(),
    ] {
        assert!(notes.contains(&part), "{part} in {notes}");
    }
}

#[test]
fn gaps_go_through_scratch_where_it_has_room() {
    let (nccl, fake, ranks) = group("group-gaps", &[]);
    let mut seen = nccl.notes().len();
    let rank = &ranks[0];
    let scratch = rank.heap_address() + rank.facts().layout.scratch;
    let plan = rank.plan(&asked(Op::AllReduce, 4, 0)).expect("a plan");
    let mut given = rank.alloc(5 * 2 * 3).expect("memory");
    given.upload(&(0..15u16).collect::<Vec<_>>()).expect("an upload");
    let mut result = rank.alloc(6 * 2 * 3).expect("memory");
    result.fill(0xff).expect("a fill");
    let x = mat(given.ptr(), 3, 4, 5);
    plan.launch(&Operands::plain(3, x, out(result.ptr(), 3, 4, 6)))
        .expect("a launch");
    let (_, notes) = taken(&fake, &nccl, &mut seen);
    assert!(
        notes.contains(&format!("all_reduce rank 0 {scratch:x}>{scratch:x} count 12 ")),
        "{notes}"
    );
    // NCCL did nothing to them: they went in and came out.
    let gap = [0xffff; 2];
    let expected = [&[0, 1, 2, 3][..], &gap, &[5, 6, 7, 8], &gap, &[10, 11, 12, 13], &gap].concat();
    assert_eq!(result.to_vec::<u16>(18).expect("a copy"), expected);

    let large = rank
        .plan(&OpSpec {
            max_m: 1 << 20,
            ..asked(Op::AllReduce, 64, 0)
        })
        .expect("a plan");
    let wide = 1 << 20;
    let operands = Operands::plain(wide, mat(1 << 40, wide, 64, 65), out(2 << 40, wide, 64, 64));
    let error = large.launch(&operands).expect_err("too large").to_string();
    assert!(
        error.starts_with("x is a matrix with gaps between its rows: expected one without: NCCL takes no other"),
        "{error}"
    );
    large
        .launch(&Operands::plain(
            wide,
            mat(1 << 40, wide, 64, 64),
            out(2 << 40, wide, 64, 64),
        ))
        .expect("no gaps, no scratch");
}

#[test]
fn what_nccl_cannot_is_refused_with_the_reason() {
    let (_nccl, _fake, ranks) = group("group-refused", &[]);
    let ar = || asked(Op::GemmAllReduce, 512, 64);
    for (spec, why) in [
        (ar().tail(Tail::RmsNorm { eps: 0.0 }), "no residual and RMSNorm"),
        (ar().tail(Tail::Residual), "no residual behind its sum"),
        (
            asked(Op::AllGather, 512, 0).axis(crate::Axis::Columns),
            "one behind the other, not side by side",
        ),
        (ar().wire(Wire::F32), "sums in the operands' own type, bf16, not in f32"),
        (ar().exchange(crate::Exchange::Pull), "pull was asked for"),
    ] {
        let error = ranks[0].plan(&spec).expect_err("no such plan");
        assert!(
            matches!(error, Error::RouteUnavailable { path: Path::Nccl, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(why), "{error}");
    }
    let auto = ranks[0]
        .plan(&ar().tail(Tail::RmsNorm { eps: 0.0 }).route(Want::Auto))
        .expect("a plan");
    assert!(
        auto.route(1)
            .reason
            .contains("NCCL was not considered: NCCL has no residual"),
        "{}",
        auto.route(1)
    );
}

#[test]
fn without_nccl_the_group_is_made_and_says_why() {
    let spec = |route| asked(Op::GemmAllReduce, 512, 64).route(route);
    for (devices, cuda, policy, why) in [
        (3, false, NcclPolicy::Own, "the simulated node has no NCCL"),
        (
            1,
            true,
            NcclPolicy::Own,
            "NCCL wants a GPU for each rank, and 3 ranks share 1",
        ),
        (
            3,
            true,
            NcclPolicy::Decline,
            "communicators of NCCL's were not asked of the group (GroupConfig::nccl, NcclPolicy::Own)",
        ),
    ] {
        let (_fake, node) = machine(devices, cuda);
        let ranks = node.group(3, &config().nccl(policy)).expect("a group");
        assert_eq!(ranks[0].nccl().expect_err("none"), why);
        let error = ranks[0]
            .plan(&spec(Want::Exactly(Path::Nccl)))
            .expect_err("no such plan")
            .to_string();
        assert_eq!(error, format!("route nccl is not available: {why}"));
        let auto = ranks[0].plan(&spec(Want::Auto)).expect("a plan").route(300);
        let told = auto.reason.contains(&format!("NCCL was not considered: {why}"));
        assert_eq!(told, policy == NcclPolicy::Own, "{auto}");
    }
}

#[test]
fn a_failure_on_either_side_is_the_groups_and_ends_the_communicators() {
    let (nccl, _fake, ranks) = group("group-abort", &[]);
    ranks[1].abort("no more");
    assert!(
        nccl.notes_that_end_with("abort 2;")
            .ends_with("abort 0;abort 1;abort 2;")
    );

    let (nccl, _fake, ranks) = group("group-broken", &[]);
    nccl.break_all(6);
    let error = ranks[2].health().expect_err("a failure");
    assert!(
        matches!(&error, Error::Driver { code: 6, message, .. } if message.contains("a peer is gone")),
        "{error:?}"
    );
    assert_eq!(
        ranks[0].synchronize().expect_err("the same").to_string(),
        error.to_string()
    );
    let plan = ranks[0].plan(&asked(Op::AllReduce, 4, 0)).expect("a plan");
    let refused = plan
        .launch(&Operands::in_place(1, out(1 << 20, 1, 4, 4)))
        .expect_err("poisoned");
    assert!(matches!(refused, Error::Poisoned(_)), "{refused:?}");

    // Some launched, some did not: nobody will.
    let (nccl, _fake, ranks) = group("group-uneven", &[]);
    let plan = ranks[0].plan(&asked(Op::AllReduce, 4, 0)).expect("a plan");
    plan.launch(&Operands::in_place(1, out(1 << 20, 1, 4, 4)))
        .expect("a launch");
    drop((plan, ranks));
    assert!(
        nccl.notes_that_end_with("abort 2;")
            .ends_with("abort 0;abort 1;abort 2;")
    );
}

/// A launch by NCCL on rank 0.
fn launch_one(ranks: &[Rank]) {
    let plan = ranks[0].plan(&asked(Op::AllReduce, 4, 0)).expect("a plan");
    let operands = Operands::in_place(1, out(1 << 20, 1, 4, 4));
    plan.launch(&operands).expect("a launch");
}

#[test]
fn work_of_nccls_is_waited_for_with_a_bound_until_the_stream_was_dry() {
    let soon = config().deadline(Duration::from_secs(1));
    let (_nccl, fake, ranks) = group_of("group-bound", &[], &soon);
    let group = ranks[0].group.clone();
    // Nothing of NCCL's: the driver's own wait, which the fake has no end of work for.
    fake.busy.store(true, Ordering::Relaxed);
    group.finish(0, ranks[0].stream()).expect("no wait of ours");
    launch_one(&ranks);
    // A wait that ended without it leaves it there.
    for _ in 0..2 {
        let error = group.finish(0, ranks[0].stream()).expect_err("stuck").to_string();
        assert!(error.contains("kernels of NCCL's were not done after 1 s"), "{error}");
    }
    fake.busy.store(false, Ordering::Relaxed);
    group.finish(0, ranks[0].stream()).expect("dry");
    fake.busy.store(true, Ordering::Relaxed);
    group.finish(0, ranks[0].stream()).expect("nothing left");
}

#[test]
fn captured_work_of_nccls_may_come_back_at_any_time() {
    let soon = config().deadline(Duration::from_secs(1));
    let (_nccl, fake, ranks) = group_of("group-captured", &[], &soon);
    let buffer = ranks[0].alloc(16).expect("memory");
    fake.captures.store(true, Ordering::Relaxed);
    launch_one(&ranks);
    fake.captures.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        ranks[0].synchronize().expect("dry");
    }
    // As a graph that was launched.
    fake.busy.store(true, Ordering::Relaxed);
    let error = buffer.to_vec::<u8>(16).expect_err("stuck").to_string();
    assert!(error.contains("kernels of NCCL's were not done after 1 s"), "{error}");
    assert_eq!(ranks[0].synchronize().expect_err("the same").to_string(), error);
}

#[test]
fn a_rank_that_gives_up_ends_the_wait_for_nccl_and_is_the_failure() {
    let (nccl, fake, ranks) = group("group-gave-up", &[]);
    launch_one(&ranks);
    fake.busy.store(true, Ordering::Relaxed);
    // Rank 1's own kernel, of another operation.
    let report = &ranks[1].local().report;
    report.tell(offset_of!(TwReport, abort), abi::TW_ABORT_WAIT as u64);
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ranks[0].synchronize());
        // NCCL's kernels leave once it is aborted, long before the deadline.
        assert!(nccl.notes_that_end_with("abort 2;").ends_with("abort 2;"));
        fake.busy.store(false, Ordering::Relaxed);
        waiting.join().expect("no panic").expect_err("a failure")
    });
    // No rank has left a record here; it is the kernels' failure all the same.
    assert!(
        matches!(&error, Error::Aborted { why } if why.contains("left no record")),
        "{error:?}"
    );
}

#[test]
fn a_group_that_fails_meanwhile_ends_the_wait_for_nccl() {
    let (nccl, fake, ranks) = group("group-failed-meanwhile", &[]);
    launch_one(&ranks);
    fake.busy.store(true, Ordering::Relaxed);
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ranks[0].synchronize());
        ranks[2].abort("no more");
        assert!(nccl.notes_that_end_with("abort 2;").ends_with("abort 2;"));
        fake.busy.store(false, Ordering::Relaxed);
        waiting.join().expect("no panic").expect_err("a failure")
    });
    assert_eq!(error.to_string(), "the group was aborted: no more");
}
