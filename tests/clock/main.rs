//! The node with a clock (`docs/clock.md`): what it must conserve, and what it must come to.
#![cfg(target_os = "linux")]

mod collective;
mod local;
mod measure;

use measure::{Case, clocked, measure, named, ns};
use tileweave::Op;
use tileweave::driver::sim::{Fault, SimConfig};
use tileweave::machines::Description;

const OPS: [Op; 3] = [Op::GemmReduceScatter, Op::GemmAllReduce, Op::AllGatherGemm];

#[test]
fn no_unit_is_busy_for_longer_than_there_was_time() {
    for (name, op) in [
        ("h100x8", OPS[0]),
        ("a100x8", OPS[1]),
        ("h100x4", OPS[2]),
        ("l40sx4", OPS[0]),
    ] {
        let seen = clocked(&named(name), op, [768, 1024, 512], 4, Case::Fused);
        for usage in &seen.usage {
            let room = u64::from(usage.count) * usage.until_ns;
            assert!(usage.busy_ns <= room, "{name} {op}: {usage:?}");
        }
        let used = |unit: &str| {
            seen.usage
                .iter()
                .filter(|u| u.unit == unit)
                .map(|u| u.busy_ns)
                .sum::<u64>()
        };
        for unit in [
            "tensor cores",
            "schedulers",
            "shared memory",
            "L2",
            "device memory",
            "links out",
            "links in",
        ] {
            assert!(used(unit) > 0, "{name} {op}: {unit} did nothing");
        }
        // What left came in.
        assert_eq!(used("links out"), used("links in"), "{name} {op}");
    }
}

#[test]
fn the_same_run_takes_the_same_time() {
    for op in OPS {
        let run = || clocked(&named("h800x8"), op, [512, 1024, 512], 8, Case::Fused);
        assert_eq!(run(), run(), "{op}");
    }
}

/// The work of tensor cores is what the shape says, whoever does it.
#[test]
fn tensor_cores_do_the_products_and_no_more() {
    let node = named("h100x8");
    let [m, n, k] = [1024, 1024, 512];
    for world in [1, 4] {
        let seen = clocked(&node, Op::GemmReduceScatter, [m, n, k], world, Case::Fused);
        let busy: u64 = seen
            .usage
            .iter()
            .filter(|u| u.unit == "tensor cores")
            .map(|u| u.busy_ns)
            .sum();
        let rate = node.compute.bf16_tflops.value * node.compute.sustained_part.value
            / f64::from(node.compute.sms.value)
            / 4.0;
        let expected = 2.0 * (2 * m * n * k * world) as f64 / rate / 1e3;
        let off = busy as f64 / expected;
        assert!((0.98..1.02).contains(&off), "world {world}: {off}");
    }
}

#[test]
fn one_rank_sends_nothing_and_takes_its_gemm() {
    let node = named("h100x8");
    for op in OPS {
        let shape = [1024, 2048, 1024];
        let fused = clocked(&node, op, shape, 1, Case::Fused);
        assert_eq!(fused.sent, [(0, 0)], "{op}");
        let links = fused.usage.iter().filter(|u| u.unit.starts_with("links"));
        assert_eq!(links.map(|u| u.busy_ns).sum::<u64>(), 0, "{op}");
        let gemm = ns(&node, op, shape, 1, Case::Gemm);
        assert!(fused.ns[1] >= gemm, "{op}: {} against {gemm}", fused.ns[1]);
    }
}

/// A node that has a clock and computes: every kernel runs on the clock and again with all lanes and values, where it may ask for
/// nothing else, call by call. It takes the same time to the nanosecond, and what comes out, and what is sent, is what a node
/// without a clock computes and sends, bit by bit.
#[test]
fn timing_mode_and_full_mode_agree_on_the_time() {
    let whole = named("h100x4");
    let mut few = whole.clone();
    few.compute.sms.value = 12;
    for (node, op, shape) in [
        (&whole, Op::GemmReduceScatter, [512, 512, 128]),
        // Several waves, so that owners reduce while they compute.
        (&few, Op::GemmReduceScatter, [1024, 1280, 64]),
        (&few, Op::GemmAllReduce, [1024, 1280, 64]),
        (&few, Op::AllGatherGemm, [1024, 1280, 64]),
        // Rows and columns that leave lanes and blocks empty; the last rank has fewer rows.
        (&few, Op::GemmReduceScatter, [389, 328, 72]),
        (&few, Op::GemmAllReduce, [389, 328, 40]),
        (&few, Op::AllGatherGemm, [613, 264, 72]),
        // One-shots, with K split over CTAs: whoever comes last to a block adds up.
        (&whole, Op::GemmAllReduce, [8, 256, 1024]),
        (&few, Op::GemmAllReduce, [64, 256, 2048]),
        // Few rows a rank: the portable mainloop.
        (&few, Op::GemmReduceScatter, [128, 256, 128]),
    ] {
        let ragged = shape[1] % 128 != 0;
        for case in [Case::Fused, Case::Unfused] {
            let run = |config| measure(config, op, shape, 4, case, 2);
            let timing = run(SimConfig::clocked(node, 7));
            let full = run(SimConfig {
                computes: true,
                ..SimConfig::clocked(node, 7)
            });
            let without = run(SimConfig {
                // The grid, and with it the order of blocks, follows from the SMs.
                sms: node.compute.sms.value,
                multicast: node.link.multicast.value,
                ..SimConfig::new(4, 7)
            });
            let what = format!("{op} {shape:?} {case:?}");
            assert_eq!(full.ns, timing.ns, "{what}");
            assert_eq!(full.usage, timing.usage, "{what}");
            assert!(full.ns.iter().all(|ns| *ns > 1000), "{what}: {:?}", full.ns);
            assert_eq!(full.sent, without.sent, "{what}");
            // The clock counts lane 0's bytes for its warp.
            assert!(ragged || timing.sent == full.sent, "{what}");
            assert!(
                full.sent.iter().all(|(bytes, signals)| *bytes > 0 && *signals > 0),
                "{what}"
            );
            assert!(full.out == without.out && full.out.len() == 4, "{what}: other values");
        }
    }
}

fn faster_links(node: &Description, by: f64) -> Description {
    let mut faster = node.clone();
    faster.link.gb_per_s.value *= by;
    faster.link.achieved_gb_per_s.value *= by;
    faster
}

#[test]
fn faster_links_slow_nothing_down() {
    let node = named("h800x8");
    let faster = faster_links(&node, 2.0);
    for op in OPS {
        // Of few rows, another algorithm would be chosen for other links.
        for (shape, case) in [
            ([1024, 1024, 512], Case::Fused),
            ([640, 4096, 512], Case::Fused),
            ([1024, 1024, 512], Case::Unfused),
        ] {
            let (slow, fast) = (ns(&node, op, shape, 8, case), ns(&faster, op, shape, 8, case));
            assert!(fast <= slow, "{op} {shape:?} {case:?}: {fast} ns after {slow}");
        }
    }
}

/// Links that take nothing: none are faster than memory. With `memory`, device memory and the L2 take nothing either.
fn free(node: &Description, memory: bool) -> Description {
    let mut free = node.clone();
    let rate = if memory { 1e6 } else { node.memory.hbm_gb_per_s.value };
    free.link.gb_per_s.value = rate;
    free.link.achieved_gb_per_s.value = rate;
    free.link.latency_us.value = 1e-6;
    free.link.switch_us.value = 0.0;
    free.link.fence_us.value = 0.0;
    free.link.atomic_us.value = 1e-6;
    if memory {
        free.memory.hbm_gb_per_s.value = rate;
        free.memory.l2_gb_per_s.value = rate;
        free.memory.hbm_latency_ns.value = 1e-3;
        free.memory.l2_latency_ns.value = 1e-3;
    }
    free
}

/// With links that take nothing, what is left of communication is what ranks do with the data themselves; where their memory
/// takes nothing either, it is what SMs do with it.
#[test]
fn links_that_take_nothing_leave_the_gemm() {
    let shape = [4096, 4096, 2048];
    for (op, memory, most) in [
        (Op::GemmReduceScatter, false, 1.12),
        (Op::AllGatherGemm, false, 1.08),
        (Op::GemmReduceScatter, true, 1.04),
        (Op::AllGatherGemm, true, 1.01),
        (Op::GemmAllReduce, true, 1.14),
    ] {
        let node = free(&named("h100x8"), memory);
        let (fused, gemm) = (
            ns(&node, op, shape, 4, Case::Fused),
            ns(&node, op, shape, 4, Case::Gemm),
        );
        let ratio = fused as f64 / gemm as f64;
        assert!(
            (1.0..most).contains(&ratio),
            "{op} {memory}: {ratio:.3}, {fused} beside {gemm}"
        );
    }
}

/// Where neither links nor memory take anything, ranks take no longer than one that has nobody to communicate with: of what links
/// do nothing is left.
#[test]
fn links_that_take_nothing_cost_nothing() {
    let (node, shape) = (free(&named("h100x8"), true), [4096, 4096, 2048]);
    for op in [Op::GemmReduceScatter, Op::AllGatherGemm] {
        let of = |world| ns(&node, op, shape, world, Case::Fused);
        let (alone, together) = (of(1), of(4));
        assert!(together <= alone + alone / 1000, "{op}: {together} beside {alone}");
    }
}

/// Where links take nothing, and what SMs do besides products takes nothing either, a fused operation takes its GEMM's time: its
/// schedule adds nothing, and all of the communication is hidden. (Tensor cores' rate is given apart from the clock.)
#[test]
fn links_and_sums_that_take_nothing_give_the_gemms_time() {
    // Some looks of those who wait, 40 ns apart.
    const LOOKS: u64 = 100;
    let mut node = free(&named("h100x8"), true);
    node.compute.clock_mhz.value = 1e6;
    for shape in [[4096, 4096, 2048], [2048, 4096, 1024], [8192, 2048, 512]] {
        for op in OPS {
            let (fused, gemm) = (
                ns(&node, op, shape, 4, Case::Fused),
                ns(&node, op, shape, 4, Case::Gemm),
            );
            assert!(
                (gemm..gemm + LOOKS).contains(&fused),
                "{op} {shape:?}: {fused} ns beside {gemm}"
            );
            assert!(gemm > 20_000, "{op} {shape:?}: {gemm} ns, no GEMM");
        }
    }
}

/// A launch takes its part, and nothing runs back: as many launches take as many times as long.
#[test]
fn launches_take_their_time_one_after_the_other() {
    let node = named("a100x8");
    let seen = measure(
        SimConfig::clocked(&node, 1),
        Op::GemmReduceScatter,
        [256, 512, 256],
        2,
        Case::Fused,
        4,
    );
    let launch = (node.host.launch_us.value * 1e3) as u64;
    assert!(seen.ns.iter().all(|ns| *ns > launch), "{:?}", seen.ns);
    // The first finds the L2 empty.
    assert!(
        seen.ns[1..].iter().all(|ns| *ns <= seen.ns[0] * 101 / 100),
        "{:?}",
        seen.ns
    );
}

#[test]
fn a_description_that_cannot_be_is_refused() {
    let mut node = named("h100x8");
    node.link.achieved_gb_per_s.value = 0.0;
    let error = tileweave::driver::sim::SimNode::new(SimConfig::clocked(&node, 1)).expect_err("no bandwidth");
    assert!(error.to_string().contains("link.achieved_gb_per_s is 0"), "{error}");
}

/// What has no clock computes, and behind a clock nothing goes wrong.
#[test]
fn a_node_that_cannot_be_is_refused() {
    let clocked = SimConfig::clocked(&named("h100x4"), 1);
    let refused = |config| {
        let error = tileweave::driver::sim::SimNode::new(config).expect_err("no such node");
        error.to_string()
    };
    let idle = SimConfig {
        computes: false,
        ..SimConfig::new(2, 1)
    };
    assert!(refused(idle).contains("true where there is no clock"));
    let faulty = SimConfig {
        computes: true,
        faults: vec![Fault::Slow { device: 0, factor: 2 }],
        ..clocked.clone()
    };
    assert!(refused(faulty).contains("Slow { device: 0, factor: 2 }"));
    let free = SimConfig {
        computes: true,
        free_running: true,
        ..clocked
    };
    assert!(refused(free).contains("free_running"));
}

/// Large GEMMs come near to what the description says that tensor cores keep up.
#[test]
fn large_gemms_are_bound_by_tensor_cores() {
    let node = named("h100x8");
    let [m, n, k] = [4096, 8192, 4096];
    let took = ns(&node, Op::GemmReduceScatter, [m, n, k], 1, Case::Gemm);
    let tflops = 2.0 * (m * n * k) as f64 / took as f64 / 1e3;
    let part = tflops / (node.compute.bf16_tflops.value * node.compute.sustained_part.value);
    assert!((0.8..1.0).contains(&part), "{part:.3}: {tflops:.0} TFLOP/s");
}
