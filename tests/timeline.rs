//! Timelines of every kernel: each block is multiplied once, waits name whom they waited for, tracks are in order, phases add
//! up; results are what they are without; rings that are too small, absent, or in graphs.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use tileweave::abi::{self, TwParams};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::timeline::{Activity, RankTimeline, Recorder, Role, Timeline, Track};
use tileweave::{DType, Error, Exchange, GroupConfig, Mainloop, Node, Op, Path, Plan, Rank, Result, WaitKind, Wire};

/// Stamps for each role: more than any case here has.
const STAMPS: usize = 2000;

/// The parameters of every launch, by rank and kernel; on a GPU nobody sees them.
type Seen = Arc<Mutex<BTreeMap<(usize, String), TwParams>>>;

fn node_with(world: usize) -> (Node, Seen) {
    let seen = Seen::default();
    if on_gpu() {
        return (node(world, 3), seen);
    }
    let log = seen.clone();
    let mut config = SimConfig::new(world, 3);
    config.launch_hook = Some(Arc::new(move |launch, p| {
        let key = (p.group.rank as usize, launch.kernel.to_string());
        log.lock().unwrap().insert(key, *p);
    }));
    (Node::new(Arc::new(SimNode::new(config).unwrap())), seen)
}

fn launch_all(ranks: &[Rank], c: &Case, path: Path, loaded: &mut [Loaded], recorders: &[Recorder]) -> Result<()> {
    for ((rank, loaded), recorder) in ranks.iter().zip(loaded).zip(recorders) {
        let plan = rank.plan(&c.spec(rank.rank(), path))?;
        plan.launch_recorded(&loaded.operands(c.m)?, recorder)?;
    }
    // Every rank must be given its chance to finish before the first failure is returned.
    let ends: Vec<Result<()>> = ranks.iter().map(Rank::synchronize).collect();
    ends.into_iter().collect()
}

fn recorders(ranks: &[Rank], stamps: usize) -> Vec<Recorder> {
    ranks.iter().map(|rank| Recorder::new(rank, stamps).unwrap()).collect()
}

/// The timeline and the results of one launch.
fn record(ranks: &[Rank], c: &Case, path: Path, stamps: usize) -> (Timeline, Vec<Vec<u8>>) {
    let data = Data::new(c);
    let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, c, &data).unwrap()).collect();
    let recorders = recorders(ranks, stamps);
    launch_all(ranks, c, path, &mut loaded, &recorders).unwrap();
    let results = loaded.iter().map(|l| l.result().unwrap()).collect();
    (Timeline::read(&recorders).unwrap(), results)
}

/// What holds of every timeline.
fn in_order(rank: &RankTimeline, what: &str) {
    let kernels = rank.kernel_times();
    assert!(
        kernels.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "{what}: {kernels:?}"
    );
    for track in &rank.tracks {
        let mut now = track.start_ns;
        for span in &track.spans {
            assert!(
                now <= span.start_ns && span.start_ns <= span.end_ns,
                "{what}: {track:?}"
            );
            now = span.end_ns;
            assert!(span.peer.is_none_or(|peer| peer < rank.world), "{what}: {span:?}");
        }
        assert!(now <= track.end_ns, "{what}: {track:?}");
        let busy: u64 = track.spans.iter().map(|span| span.end_ns - span.start_ns).sum();
        assert!(busy <= track.end_ns - track.start_ns, "{what}: {track:?}");
    }
    let summary = rank.summary();
    let (sum, time) = (summary.phases.total(), summary.time);
    assert!((sum - time).abs() < 1e-6 * time.max(1.0), "{what}: {summary:?}");
    assert!(
        summary.tail <= time && summary.hidden <= summary.phases.computing,
        "{what}: {summary:?}"
    );
}

fn tile_of(kernel: &str) -> (u32, u32) {
    match kernel {
        _ if kernel.ends_with("_64_sm90") => (abi::TW_TILE_SLIM_M, abi::TW_TILE_SLIM_N),
        _ if kernel.contains("_256") => (abi::TW_TILE_256_M, abi::TW_TILE_256_N),
        _ if kernel.contains("_128") => (abi::TW_TILE_128_M, abi::TW_TILE_128_N),
        _ => (abi::TW_TILE_64_M, abi::TW_TILE_64_N),
    }
}

/// How many products a kernel computes, by its parameters: blocks that have rows, owner by owner and round by round.
fn products(kernel: &str, p: &TwParams) -> u32 {
    let (tile_m, tile_n) = tile_of(kernel);
    let across = p.n.div_ceil(tile_n);
    match p.desc.op {
        abi::TW_GEMM_REDUCE_SCATTER | abi::TW_ALL_GATHER_GEMM => {
            let part = |rank: u32| p.m.saturating_sub(rank * p.chunk).min(p.chunk);
            let panels = |rank: u32| (0..p.panels).map(move |q| part(rank).saturating_sub(q * p.panel).min(p.panel));
            let rows = (0..p.group.world).flat_map(panels).map(|rows| rows.div_ceil(tile_m));
            rows.sum::<u32>() * across
        }
        abi::TW_GEMM_ALL_REDUCE | abi::TW_GEMM if p.split_space != 0 => p.tiles * p.splits,
        abi::TW_GEMM_ALL_REDUCE | abi::TW_GEMM if kernel.ends_with("_64_sm90") => p.tiles,
        abi::TW_GEMM_ALL_REDUCE | abi::TW_GEMM => p.m.div_ceil(tile_m) * across,
        _ => 0,
    }
}

fn count(tracks: &[&Track], activity: Activity) -> usize {
    let spans = tracks.iter().flat_map(|track| &track.spans);
    spans.filter(|span| span.activity == activity).count()
}

/// Each block of the schedule has one product, on the role that multiplies, and where it is an owner's one sum.
fn every_block(rank: &RankTimeline, seen: &Seen, what: &str) -> Vec<Vec<u32>> {
    let mut blocks = Vec::new();
    for (number, kernel) in rank.kernels.iter().enumerate() {
        let p = seen.lock().unwrap().get(&(rank.rank, kernel.to_string())).copied();
        let tracks: Vec<&Track> = rank.tracks.iter().filter(|track| track.kernel == number).collect();
        let math = tracks
            .iter()
            .flat_map(|track| &track.spans)
            .filter(|span| span.activity == Activity::Math);
        let mut tiles: Vec<u32> = math.map(|span| span.tile).collect();
        tiles.sort();
        assert!(
            tiles.windows(2).all(|pair| pair[0] < pair[1]),
            "{what}: {kernel} multiplied twice: {tiles:?}"
        );
        let alone = kernel.starts_with("gemm_b") || kernel.starts_with("gemm_f");
        assert_eq!(count(&tracks, Activity::End), usize::from(!alone), "{what}: {kernel}");
        blocks.push(tiles.clone());
        let Some(p) = p else { continue };
        assert_eq!(tiles.len() as u32, products(kernel, &p), "{what}: {kernel}, {tiles:?}");
        let hopper = kernel.ends_with("_sm90");
        for track in &tracks {
            let multiplies = count(&[track], Activity::Math) != 0;
            let role = if hopper { Role::Math } else { Role::Cta };
            assert!(!multiplies || track.role == role, "{what}: {kernel}, {track:?}");
            let reduces = p.reducers != 0 && track.cta as u32 >= p.desc.grid - p.reducers;
            // All threads end a reduce-scatter on Hopper: they reduce one block at most, and do nothing else.
            let end = |activity| matches!(activity, Activity::Wait(_) | Activity::Reduce | Activity::End);
            let ends = hopper
                && kernel.starts_with("gemm_rs")
                && track.role == Role::Cta
                && track.spans.iter().all(|span| end(span.activity))
                && count(&[track], Activity::Reduce) <= 1;
            assert!(
                (track.role == Role::Cta) == (!hopper || reduces) || ends,
                "{what}: {kernel}, {track:?}"
            );
        }
    }
    blocks
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Op::ALL.map(|op| Case::new(op, 3, 200, 140, 24, DType::Bf16)).into();
    let hopper = |op, m| Case::new(op, 3, m, 264, 192, DType::Bf16).mainloop(Mainloop::Hopper);
    cases.extend([
        hopper(Op::GemmReduceScatter, 700),
        hopper(Op::GemmAllReduce, 500),
        hopper(Op::GemmAllReduce, 500).reducers(2),
        hopper(Op::AllGatherGemm, 500),
        // One-shot, portable and Hopper's, with blocks that CTAs share, and with a tail.
        Case::new(Op::GemmAllReduce, 3, 3, 70, 2048, DType::F16),
        hopper(Op::GemmAllReduce, 8),
        Case::new(Op::GemmAllReduce, 3, 4, 256, 24, DType::F32).tail(1e-5),
        Case::new(Op::AllReduce, 3, 300, 128, 0, DType::F16).tail(1e-5),
        Case::new(Op::GemmAllReduce, 4, 130, 200, 32, DType::F32)
            .wire(Wire::F32)
            .addend()
            .bias(),
        Case::new(Op::GemmReduceScatter, 3, 200, 140, 24, DType::Bf16).exchange(Exchange::Pull),
    ]);
    cases
}

#[test]
fn every_kernel_tells_where_its_time_went() {
    for c in cases() {
        for &path in c.routes() {
            let what = format!("{c:?}, {path}");
            let (node, seen) = node_with(c.world);
            let ranks = group_for(&node, &c).unwrap();
            let plain = run_on(&ranks, &c, &Data::new(&c), path).unwrap();
            let (timeline, results) = record(&ranks, &c, path, STAMPS);
            assert!(results == plain, "{what}: other bits");
            assert!(timeline.one_clock || on_gpu());
            assert_eq!(
                timeline.ranks.iter().map(RankTimeline::start_ns).min(),
                Some(0),
                "{what}"
            );
            let mut agreed = None;
            for rank in &timeline.ranks {
                in_order(rank, &what);
                assert_eq!(rank.dropped(), 0, "{what}");
                let blocks = every_block(rank, &seen, &what);
                // Of all ranks alike, but for splits, and columns where they differ.
                let alike = !matches!(c.op, Op::AllGatherGemm) && c.k != 2048;
                assert!(!alike || *agreed.get_or_insert(blocks.clone()) == blocks, "{what}");
                let hello = Activity::Wait(WaitKind::Hello);
                assert!(rank.spans().any(|span| span.activity == hello), "{what}");
                assert_eq!(
                    rank.spans().any(|span| span.activity == Activity::Tail),
                    c.tail.is_some(),
                    "{what}"
                );
            }
        }
    }
}

/// The blocks that a rank owns are reduced there, once each, and collected by all others.
#[test]
fn owners_reduce_and_others_collect() {
    for mainloop in [Mainloop::Portable, Mainloop::Hopper] {
        let c = Case::new(Op::GemmAllReduce, 3, 600, 264, 96, DType::Bf16).mainloop(mainloop);
        let (node, _) = node_with(c.world);
        let ranks = group_for(&node, &c).unwrap();
        let (timeline, _) = record(&ranks, &c, Path::Fused, STAMPS);
        let tiles = |rank: &RankTimeline, activity| {
            let spans = rank.spans().filter(|span| span.activity == activity);
            let mut tiles: Vec<(u32, Option<usize>)> = spans.map(|span| (span.tile, span.peer)).collect();
            tiles.sort();
            tiles
        };
        let mut owner = BTreeMap::new();
        for rank in &timeline.ranks {
            for (tile, _) in tiles(rank, Activity::Reduce) {
                assert_eq!(owner.insert(tile, rank.rank), None, "tile {tile} is reduced twice");
            }
        }
        for rank in &timeline.ranks {
            let others: Vec<_> = owner.iter().filter(|(_, owner)| **owner != rank.rank).collect();
            let expected: Vec<_> = others.iter().map(|(tile, owner)| (**tile, Some(**owner))).collect();
            assert_eq!(tiles(rank, Activity::Collect), expected);
            let sent: Vec<_> = owner.iter().map(|(tile, owner)| (*tile, Some(*owner))).collect();
            assert_eq!(tiles(rank, Activity::Push), sent);
        }
    }
}

/// Work for one rank alone, which takes its time.
fn delay(rank: &Rank, c: &Case) {
    let size = c.m;
    let plan = rank.plan(&c.spec(rank.rank(), Path::Unfused)).unwrap();
    let matrix = || {
        let mut buffer = rank.alloc(size * size * 4).unwrap();
        buffer.fill(0).unwrap();
        buffer
    };
    let (x, weight, mut out) = (matrix(), matrix(), matrix());
    let k = c.k_of(rank.rank()).len();
    let (x, weight) = (x.mat(size, k, c.dtype).unwrap(), weight.mat(size, k, c.dtype).unwrap());
    for _ in 0..4 {
        plan.launch_gemm(size, x, weight, &mut out.mat_mut(size, size, c.dtype).unwrap())
            .unwrap();
    }
}

/// A rank that has other work first is the one that others wait for; what it then does may make some of them late, but less.
#[test]
fn waits_name_who_was_late() {
    const LATE: usize = 1;
    let mut cases: Vec<Case> = Op::ALL.map(|op| Case::new(op, 4, 256, 128, 64, DType::F32)).into();
    let hopper = |op| Case::new(op, 4, 512, 256, 256, DType::Bf16).mainloop(Mainloop::Hopper);
    cases.extend(Op::ALL.into_iter().filter(|op| op.has_gemm()).map(hopper));
    // One-shot: few bytes, many blocks.
    cases.push(Case::new(Op::GemmAllReduce, 4, 16, 512, 32, DType::F16).mainloop(Mainloop::Portable));
    let before = Case::new(Op::GemmReduceScatter, 4, 512, 512, 512, DType::F32);
    for c in cases {
        let (node, _) = node_with(c.world);
        let specs = [c.all_specs(), before.all_specs()].concat();
        let ranks = node
            .group(4, &GroupConfig::default().sized_for(&specs, 4).unwrap())
            .unwrap();
        delay(&ranks[LATE], &before);
        let (timeline, _) = record(&ranks, &c, c.routes()[0], STAMPS);
        assert!(timeline.ranks[LATE].start_ns() > 0, "{c:?}");
        for rank in timeline.ranks.iter().filter(|rank| rank.rank != LATE) {
            in_order(rank, &format!("{c:?}"));
            let waiting = rank.summary().phases.waiting;
            let longest = (0..4)
                .filter(|peer| *peer != rank.rank)
                .max_by(|a, b| waiting[*a].total_cmp(&waiting[*b]));
            assert_eq!(longest, Some(LATE), "{c:?}: rank {} waited {waiting:?}", rank.rank);
        }
    }
}

/// A described machine with a clock records as any: each block once, the phases the kernel's time.
#[test]
#[cfg(target_os = "linux")]
fn a_clocked_node_tells_the_same() {
    let h100 = tileweave::machines::Description::named("h100x8").unwrap();
    for op in [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm] {
        let c = Case::new(op, 4, 2048, 1024, 2048, DType::Bf16);
        let node = Node::sim(SimConfig::clocked(&h100, 1)).unwrap();
        let ranks = group_for(&node, &c).unwrap();
        let (timeline, _) = record(&ranks, &c, Path::Fused, 64);
        let mut blocks = 0;
        for rank in &timeline.ranks {
            let what = format!("{c:?}");
            in_order(rank, &what);
            assert_eq!(rank.dropped(), 0, "{what}");
            blocks += every_block(rank, &Seen::default(), &what)[0].len();
            let summary = rank.summary();
            assert!(
                summary.phases.computing > 0.0 && summary.tail > 0.0,
                "{what}: {summary:?}"
            );
        }
        assert!(blocks >= 4 * 2048 * 256 / (128 * 256), "{c:?}: {blocks} blocks");
    }
}

/// Several rounds: staging is written again when all ranks have said that they are done with it.
#[test]
fn credits_are_waited_for() {
    for mainloop in [Mainloop::Portable, Mainloop::Hopper] {
        for op in [Op::GemmReduceScatter, Op::AllGatherGemm] {
            let c = Case::new(op, 2, 1100, 128, 32, DType::Bf16).mainloop(mainloop);
            let (node, seen) = node_with(c.world);
            let heap = smallest_heap(&node, &c, Path::Fused);
            let config = GroupConfig::default().one_shot_bytes(0).heap_bytes(heap);
            let ranks = node.group(c.world, &config).unwrap();
            let (timeline, results) = record(&ranks, &c, Path::Fused, STAMPS);
            judge(&c, &Data::new(&c), &results, "rounds");
            for rank in &timeline.ranks {
                let what = format!("{c:?}");
                in_order(rank, &what);
                every_block(rank, &seen, &what);
                let credit = Activity::Wait(WaitKind::Credit);
                assert!(rank.spans().any(|span| span.activity == credit), "{what}");
            }
        }
    }
}

/// A ring that is too small keeps what came first, leaves its neighbours alone, and says what is missing.
#[test]
fn what_there_is_no_room_for_is_counted() {
    let c = Case::new(Op::GemmReduceScatter, 2, 1500, 128, 32, DType::Bf16);
    let (node, _) = node_with(c.world);
    let ranks = group_for(&node, &c).unwrap();
    let (all, plain) = record(&ranks, &c, Path::Fused, STAMPS);
    for stamps in [1, 2, 3, 4] {
        let (some, results) = record(&ranks, &c, Path::Fused, stamps);
        assert!(results == plain);
        for (rank, whole) in some.ranks.iter().zip(&all.ranks) {
            in_order(rank, &format!("{stamps} stamps"));
            assert!(rank.dropped() > 0, "{stamps} stamps");
            assert_eq!(rank.tracks.len(), whole.tracks.len());
            for (track, whole) in rank.tracks.iter().zip(&whole.tracks) {
                assert!(track.spans.len() <= stamps);
                let first = |track: &Track| -> Vec<u32> {
                    let math = track.spans.iter().filter(|span| span.activity == Activity::Math);
                    math.map(|span| span.tile).collect()
                };
                assert!(first(whole).starts_with(&first(track)), "{stamps} stamps: {track:?}");
            }
        }
    }
}

/// Who does not ask for stamps writes none.
#[test]
fn a_launch_without_a_recorder_leaves_no_trace() {
    let c = Case::new(Op::GemmAllReduce, 2, 100, 64, 32, DType::Bf16);
    let (node, seen) = node_with(c.world);
    let ranks = group_for(&node, &c).unwrap();
    let data = Data::new(&c);
    let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, &c, &data).unwrap()).collect();
    let recorders = recorders(&ranks, STAMPS);
    assert!(recorders[0].read().unwrap().tracks.is_empty());
    launch_all(&ranks, &c, Path::Fused, &mut loaded, &recorders).unwrap();
    let before = Timeline::read(&recorders).unwrap();
    assert!(seen.lock().unwrap().values().all(|p| p.stamps != 0));
    run_on(&ranks, &c, &data, Path::Fused).unwrap();
    assert!(seen.lock().unwrap().values().all(|p| p.stamps == 0));
    assert_eq!(Timeline::read(&recorders).unwrap(), before);
}

/// Each replay of a captured launch stamps anew.
#[test]
fn replays_stamp_like_launches() {
    for (c, path) in [
        (
            Case::new(Op::GemmReduceScatter, 2, 200, 128, 32, DType::Bf16),
            Path::Fused,
        ),
        (
            Case::new(Op::AllGatherGemm, 2, 200, 128, 32, DType::Bf16),
            Path::Unfused,
        ),
    ] {
        let (node, seen) = node_with(c.world);
        let ranks = group_for(&node, &c).unwrap();
        let data = Data::new(&c);
        let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, &c, &data).unwrap()).collect();
        let recorders = recorders(&ranks, STAMPS);
        let plans: Vec<Plan> = ranks
            .iter()
            .map(|rank| rank.plan(&c.spec(rank.rank(), path)).unwrap())
            .collect();
        let graphs: Vec<_> = ranks
            .iter()
            .zip(&mut loaded)
            .zip(plans.iter().zip(&recorders))
            .map(|((rank, loaded), (plan, recorder))| {
                Captured::new(rank, || plan.launch_recorded(&loaded.operands(c.m)?, recorder)).unwrap()
            })
            .collect();
        let mut before = vec![0; ranks.len()];
        for replay in 0..3 {
            replay_all(&graphs);
            synchronize(&ranks);
            for (recorder, before) in recorders.iter().zip(&mut before) {
                let rank = recorder.read().unwrap();
                let what = format!("{c:?}, replay {replay}");
                in_order(&rank, &what);
                every_block(&rank, &seen, &what);
                assert!(rank.start_ns() >= *before, "{what}: of an earlier replay");
                *before = rank.end_ns();
            }
        }
    }
}

/// After a failure the timeline tells how far everybody came, and for whom they waited.
#[test]
fn a_failed_operation_can_be_read() {
    let c = Case::new(Op::GemmReduceScatter, 3, 200, 128, 32, DType::Bf16);
    let (node, _) = node_with(c.world);
    let config = GroupConfig::default().deadline(Duration::from_millis(5));
    let ranks = node
        .group(c.world, &config.sized_for(&c.all_specs(), c.world).unwrap())
        .unwrap();
    let data = Data::new(&c);
    let mut loaded: Vec<_> = ranks.iter().map(|rank| Loaded::new(rank, &c, &data).unwrap()).collect();
    let recorders = recorders(&ranks, STAMPS);
    // Rank 2 launches nothing.
    let failed = launch_all(&ranks[..2], &c, Path::Fused, &mut loaded, &recorders).unwrap_err();
    assert!(matches!(failed, Error::Wait { .. }), "{failed}");
    let timeline = Timeline::read(&recorders).unwrap();
    assert!(timeline.ranks[2].tracks.is_empty());
    for rank in &timeline.ranks[..2] {
        in_order(rank, "failed");
        let longest = rank.spans().max_by_key(|span| span.end_ns - span.start_ns).unwrap();
        assert_eq!(
            (longest.activity, longest.peer),
            (Activity::Wait(WaitKind::Hello), Some(2))
        );
    }
}

#[test]
fn bad_recorders_are_refused() {
    let c = Case::new(Op::AllReduce, 2, 8, 64, 0, DType::F32);
    let (node, _) = node_with(c.world);
    let ranks = group_for(&node, &c).unwrap();
    let mut loaded = Loaded::new(&ranks[0], &c, &Data::new(&c)).unwrap();
    let other = Recorder::new(&ranks[1], 4).unwrap();
    let plan = ranks[0].plan(&c.spec(0, Path::Unfused)).unwrap();
    let refused = plan
        .launch_recorded(&loaded.operands(c.m).unwrap(), &other)
        .unwrap_err();
    assert!(refused.to_string().contains("this plan's rank 0"), "{refused}");
    for stamps in [0, 1 << 17] {
        let refused = Recorder::new(&ranks[0], stamps).unwrap_err();
        assert!(refused.to_string().contains("1 to 65536"), "{refused}");
    }
}
