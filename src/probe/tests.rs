//! The probe from inside: a pair's ways over memory that somebody else changes, drivers that do nothing, and checks of
//! values. What it finds on simulated nodes is in `tests/probe.rs`.

use std::sync::Arc;

use proptest::prelude::*;

use super::bench::{Bench, Sizes};
use super::*;
use crate::abi;
use crate::driver::Driver;
use crate::driver::sim::{SimConfig, SimNode};
use crate::group::fake::Fake;
use crate::topology::Topology;

fn node(gpus: usize) -> (Arc<dyn Driver>, Topology) {
    let driver: Arc<dyn Driver> = Arc::new(SimNode::new(SimConfig::new(gpus, 5)).unwrap());
    let topology = driver.describe().unwrap().unwrap();
    (driver, topology)
}

fn of(gpus: usize) -> (Probe, Topology) {
    let (driver, topology) = node(gpus);
    let all: Vec<_> = (0..gpus).collect();
    (Probe::run(&driver, &topology, &all, &mut |_| {}).unwrap(), topology)
}

/// Bytes of an area of a simulated device: a zone between two guards.
fn span() -> usize {
    Sizes::of(false).checked + 2 * 512 * 16
}

/// What a check says of an area that was filled and stored to, after `change` had its bytes.
fn verdict_after(change: impl FnOnce(&mut [u8])) -> Option<String> {
    let (driver, _) = node(1);
    let bench = Bench::new(&driver, 0).unwrap();
    let area = bench.source(Sizes::of(false).checked, 77);
    bench.run_on(abi::TW_PROBE_FILL, &area).unwrap();
    bench.run_on(abi::TW_PROBE_STORE, &area).unwrap();
    let mut bytes = vec![0; span()];
    driver.peek(&mut bytes, area.ptr).unwrap();
    change(&mut bytes);
    driver.poke(area.ptr, &bytes).unwrap();
    area.verdict(&bench.run_on(abi::TW_PROBE_CHECK, &area).unwrap())
}

#[test]
fn bytes_as_they_were_sent_pass() {
    assert_eq!(verdict_after(|_| {}), None);
}

#[test]
fn every_byte_of_a_zone_changes_and_guards_do_not() {
    let (driver, _) = node(1);
    let bench = Bench::new(&driver, 0).unwrap();
    let area = bench.source(Sizes::of(false).checked, 78);
    let mut images = [vec![0; span()], vec![0; span()]];
    for (mode, image) in [abi::TW_PROBE_FILL, abi::TW_PROBE_STORE].into_iter().zip(&mut images) {
        bench.run_on(mode, &area).unwrap();
        driver.peek(image, area.ptr).unwrap();
    }
    let [filled, stored] = images;
    let guard = 512 * 16;
    for (at, (before, after)) in filled.iter().zip(&stored).enumerate() {
        let guarded = at < guard || at >= span() - guard;
        assert_eq!(*after, if guarded { *before } else { !before }, "byte {at}");
    }
    // Vectors of an area differ from each other, and from those of another seed.
    bench.run_on(abi::TW_PROBE_FILL, &bench.source(area.zone, 79)).unwrap();
    let mut other = vec![0; span()];
    driver.peek(&mut other, area.ptr).unwrap();
    let vectors: std::collections::HashSet<_> = filled.chunks(16).chain(other.chunks(16)).collect();
    assert_eq!(vectors.len(), 2 * span() / 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn one_changed_byte_is_found_wherever_it_is(at in 0..span(), flip in 1..=255u8) {
        let found = verdict_after(|bytes| bytes[at] ^= flip).expect("a verdict");
        let vectors = span() / 16;
        let offset = (at / 16 * 16) as i64 - 512 * 16;
        let start = format!("1 of {vectors} vectors of 16 bytes are not as they were sent, the first at byte {offset}");
        prop_assert!(found.starts_with(&start), "{found}");
        let inside = (0..Sizes::of(false).checked as i64).contains(&offset);
        prop_assert_eq!(found.ends_with("outside what was sent"), !inside);
    }

    #[test]
    fn vectors_in_each_others_place_are_found(a in 0..span() / 16, b in 0..span() / 16) {
        prop_assume!(a != b);
        let found = verdict_after(|bytes| {
            for i in 0..16 {
                bytes.swap(16 * a + i, 16 * b + i);
            }
        });
        prop_assert!(found.is_some_and(|found| found.starts_with("2 of ")));
    }
}

#[test]
fn a_driver_that_does_nothing_passes_nothing() {
    // Fake machines say yes to everything, and run no kernel.
    let (_, node) = Fake::node(2);
    let mut topology = of(2).1;
    for (gpu, at) in topology.gpus.iter_mut().zip(0..) {
        gpu.uuid = format!("GPU-{at}");
    }
    let probe = Probe::run(node.driver(), &topology, &[0, 1], &mut |_| {}).unwrap();
    for link in &probe.links {
        let ways = [
            &link.store.outcome,
            &link.load.outcome,
            &link.copy.outcome,
            &link.atomics,
        ];
        assert!(ways.iter().all(|way| matches!(way, Outcome::Failed(_))), "{link:?}");
    }
}

#[test]
fn json_and_back() {
    let (probe, topology) = of(3);
    let again = Probe::from_json(&probe.to_json()).unwrap();
    assert_eq!(again, probe);
    again.check(&topology).unwrap();
    let text = probe.to_json();
    for broken in [
        &text[..text.len() / 2],
        "",
        "{}",
        "[1]",
        &text.replace("\"gpus\"", "\"gpu\""),
    ] {
        let error = Probe::from_json(broken).unwrap_err().to_string();
        assert!(error.starts_with("the probe's text is no probe ("), "{error}");
    }
}

#[test]
fn what_does_not_hold_together_is_named() {
    let (probe, topology) = of(3);
    let error = |change: &dyn Fn(&mut Probe)| {
        let mut changed = probe.clone();
        change(&mut changed);
        changed.check(&topology).unwrap_err().to_string()
    };
    let unknown = error(&|p| p.gpus[1] = "GPU-0".into());
    assert!(
        unknown.starts_with("probe.gpus[1] is GPU-0: expected GPUs of the topology"),
        "{unknown}"
    );
    assert!(error(&|p| p.gpus.swap(0, 2)).starts_with("probe.gpus[1] is "));
    assert!(error(&|p| drop(p.links.pop())).starts_with("probe.links is "));
    assert!(error(&|p| p.links[0].to = 2).starts_with("probe.links is "));
    let rate = error(&|p| p.links[3].copy.gb_per_s = Some(f64::NAN));
    assert_eq!(rate, "probe.links[3].copy.gb_per_s is NaN: expected a number above 0");
    let failed = error(&|p| {
        p.links[2].load.latency_us = Some(1.5);
        p.links[2].load.outcome = Outcome::Failed("lost".into());
    });
    assert_eq!(
        failed,
        "probe.links[2].load.latency_us is 1.5: expected null where the way does not work"
    );
}

#[test]
fn the_better_direction() {
    let (mut probe, _) = of(2);
    let (push, pull) = (0, 1);
    assert_eq!(probe.excluded(), []);
    probe.links[push].store.gb_per_s = Some(300.0);
    probe.links[pull].load.gb_per_s = Some(200.0);
    assert_eq!(probe.better(0, 1), Some(Direction::Push));
    probe.links[pull].load.gb_per_s = Some(400.0);
    assert_eq!(probe.better(0, 1), Some(Direction::Pull));
    (probe.links[push].store.gb_per_s, probe.links[push].store.latency_us) = (None, Some(1.0));
    probe.links[pull].load.latency_us = Some(2.0);
    assert_eq!(probe.better(0, 1), Some(Direction::Push));
    probe.links[push].store.outcome = Outcome::Failed("lost".into());
    assert_eq!(probe.better(0, 1), Some(Direction::Pull));
    let excluded = probe.excluded();
    assert_eq!((excluded[0].from, excluded[0].to), (0, 1));
    assert_eq!(excluded[0].reason, "stores failed: lost");
    probe.links[pull].load.outcome = Outcome::Skipped("no time".into());
    assert_eq!(probe.better(0, 1), None);
    assert_eq!(probe.better(0, 7), None);
}

#[test]
fn a_slice_is_the_same_gpu_however_its_uuid_is_written() {
    let (mut probe, mut topology) = of(2);
    topology.gpus[1].uuid = topology.gpus[1].uuid.replace("GPU-", "MIG-");
    probe.check(&topology).unwrap();
    assert_eq!(probe.gpu(&topology.gpus[1].uuid), Some(1));
    probe.gpus[1] = "GPU-51b00000-0000-0000-0000-00000000000F".into();
    assert_eq!(probe.gpu("MIG-51b00000-0000-0000-0000-00000000000f"), Some(1));
}
