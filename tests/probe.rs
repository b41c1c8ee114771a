//! The probe on simulated nodes: it finds each link that is not as it should be, and no other.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tileweave::driver::Driver;
use tileweave::driver::sim::{Fault, LinkState, SimConfig, SimLink, SimNode, Site};
use tileweave::probe::{LinkProbe, Outcome, Probe, Progress};
use tileweave::{GroupConfig, Node, Probing};

fn config(gpus: usize, seed: u64, links: &[(usize, usize, LinkState)]) -> SimConfig {
    let link = |&(from, to, state): &(usize, usize, LinkState)| SimLink { from, to, state };
    SimConfig {
        links: links.iter().map(link).collect(),
        ..SimConfig::new(gpus, seed)
    }
}

fn probe(config: SimConfig) -> Probe {
    let all: Vec<usize> = (0..config.gpus).collect();
    let driver: Arc<dyn Driver> = Arc::new(SimNode::new(config).unwrap());
    let topology = driver.describe().unwrap().unwrap();
    let probe = Probe::run(&driver, &topology, &all, &mut |_| {}).unwrap();
    probe.check(&topology).unwrap();
    probe
}

fn outcomes(link: &LinkProbe) -> [&Outcome; 4] {
    [
        &link.store.outcome,
        &link.load.outcome,
        &link.copy.outcome,
        &link.atomics,
    ]
}

fn failed_with(outcome: &Outcome, text: &str) -> bool {
    matches!(outcome, Outcome::Failed(reason) if reason.contains(text))
}

/// Some of the links of a node, each with something wrong.
fn bad_links() -> impl Strategy<Value = (usize, Vec<(usize, usize, LinkState)>)> {
    let state = prop_oneof![
        Just(LinkState::Absent),
        Just(LinkState::ClaimedOnly),
        Just(LinkState::Corrupting),
        (20..200u32).prop_map(LinkState::Slow),
    ];
    (2..=5usize).prop_flat_map(move |gpus| {
        let pairs: Vec<_> = (0..gpus).flat_map(|from| (0..gpus).map(move |to| (from, to))).collect();
        let pairs: Vec<_> = pairs.into_iter().filter(|(from, to)| from != to).collect();
        let most = pairs.len();
        let some = proptest::sample::subsequence(pairs, 0..=most);
        let links = (some, proptest::collection::vec(state.clone(), most))
            .prop_map(|(pairs, states)| pairs.into_iter().zip(states).map(|((f, t), s)| (f, t, s)).collect());
        (Just(gpus), links)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_bad_link_is_found_and_no_other((gpus, bad) in bad_links(), seed in 0..1000u64) {
        let probe = probe(config(gpus, seed, &bad));
        prop_assert_eq!(probe.links.len(), gpus * (gpus - 1));
        // A dependent load of a sound link, where links have times at all.
        let state = |link: &LinkProbe| bad.iter().find(|b| (b.0, b.1) == (link.from, link.to)).map(|b| b.2);
        let sound = probe.links.iter().filter(|link| state(link).is_none()).filter_map(|link| link.load.latency_us);
        let slowest_sound = sound.fold(0.0, f64::max);
        for link in &probe.links {
            let found = outcomes(link);
            let excluded = probe.excluded().iter().any(|e| (e.from, e.to) == (link.from, link.to));
            match state(link) {
                None => prop_assert!(!excluded && found.iter().all(|o| o.works()), "{:?}", link),
                Some(LinkState::Absent) => {
                    let told = found.iter().all(|o| matches!(o, Outcome::Skipped(why) if why.contains("claims access")));
                    prop_assert!(excluded && told, "{:?}", link);
                }
                Some(LinkState::ClaimedOnly) => {
                    let told = found.iter().all(|o| failed_with(o, "cannot be mapped: the memory of device"));
                    prop_assert!(excluded && told, "{:?}", link);
                }
                Some(LinkState::Corrupting) => {
                    let told = found[..3].iter().all(|o| failed_with(o, "vectors of 16 bytes are not as they were sent"));
                    prop_assert!(excluded && told && found[3].works(), "{:?}", link);
                }
                Some(LinkState::Slow(_)) => {
                    prop_assert!(!excluded && found.iter().all(|o| o.works()), "{:?}", link);
                    let latency = link.load.latency_us.expect("links have times");
                    prop_assert!(latency > 10.0 * slowest_sound, "{} and {}: {:?}", latency, slowest_sound, link);
                }
            }
        }
    }
}

#[test]
fn a_slow_link_delays_pushes_as_much_as_it_is_slow() {
    let latency = |factor| {
        let found = probe(config(2, 3, &[(0, 1, LinkState::Slow(factor))]));
        let load = |at: usize| found.links[at].load.latency_us.unwrap();
        assert!((load(0) / load(1) / f64::from(factor) - 1.0).abs() < 0.01, "{found:?}");
        found.links[0].store.latency_us.unwrap()
    };
    assert!(latency(100) > 5.0 * latency(1));
}

#[test]
fn without_bad_links_the_schedule_is_the_probes_alone() {
    let digest = |config: SimConfig| {
        let node = Arc::new(SimNode::new(config).unwrap());
        let driver: Arc<dyn Driver> = node.clone();
        let topology = driver.describe().unwrap().unwrap();
        Probe::run(&driver, &topology, &[0, 1], &mut |_| {}).unwrap();
        node.schedule_digest().unwrap()
    };
    assert_eq!(digest(config(2, 9, &[])), digest(config(2, 9, &[])));
    // Changed bytes have dice of their own.
    let third = [(2, 0, LinkState::Slow(1))];
    let corrupting = [(2, 0, LinkState::Corrupting)];
    assert_eq!(digest(config(3, 9, &third)), digest(config(3, 9, &corrupting)));
}

#[test]
fn lost_signals_are_a_failed_link_after_the_deadline() {
    let mut config = config(3, 4, &[]);
    config.faults = vec![Fault::DropSignals { from: 1, to: 2 }];
    let probe = probe(config);
    for link in &probe.links {
        let lost = (link.from, link.to) == (1, 2);
        assert_eq!(
            failed_with(&link.store.outcome, "words do not arrive: 0 of 17"),
            lost,
            "{link:?}"
        );
        assert!(lost || link.store.outcome.works(), "{link:?}");
        assert!(
            link.load.outcome.works() && link.copy.outcome.works() && link.atomics.works(),
            "{link:?}"
        );
    }
}

#[test]
fn devices_in_any_order_and_twice() {
    let driver: Arc<dyn Driver> = Arc::new(SimNode::new(config(4, 1, &[(3, 1, LinkState::Corrupting)])).unwrap());
    let topology = driver.describe().unwrap().unwrap();
    let mut heard: Vec<Progress> = Vec::new();
    let probe = Probe::run(&driver, &topology, &[3, 1, 3], &mut |p| heard.push(p)).unwrap();
    assert_eq!(
        probe.gpus,
        [topology.gpus[1].uuid.clone(), topology.gpus[3].uuid.clone()]
    );
    let excluded: Vec<_> = probe.excluded().iter().map(|e| (e.from, e.to)).collect();
    assert_eq!(excluded, [(1, 0)], "indices are the probe's own");
    let steps: Vec<_> = heard.iter().map(|p| (p.done, p.pairs, p.next)).collect();
    assert_eq!(steps, [(0, 2, Some((1, 3))), (1, 2, Some((3, 1))), (2, 2, None)]);
    let error = Probe::run(&driver, &topology, &[4], &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("device is 4: expected below 4"), "{error}");
    let mut other = topology.clone();
    other.gpus.truncate(2);
    let error = Probe::run(&driver, &other, &[3], &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("expected a GPU of the topology"), "{error}");
}

#[test]
fn words_that_publish_too_little_are_found() {
    // The simulated node sees the missing order itself, whatever the schedule made of it.
    for site in [Site::TileRelease, Site::TileAcquire] {
        let mut config = config(2, 6, &[]);
        config.faults = vec![Fault::Ignore(site)];
        let found = probe(config);
        assert!(
            failed_with(
                &found.links[0].store.outcome,
                "nothing orders the write before the read"
            ),
            "{site:?}: {found:?}"
        );
    }
    // A word raised before its data: 16 bytes that are not there yet.
    let mut early = config(2, 6, &[]);
    early.launch_hook = Some(Arc::new(|seen, params| {
        let answers = params.k == tileweave::abi::TW_PROBE_ECHO && params.n == 1 && params.group.rank == 0;
        if seen.kernel == "probe" && answers {
            params.n = 0;
        }
    }));
    let found = probe(early);
    for link in &found.links {
        let told = failed_with(&link.store.outcome, "17 of 17 words arrived before what they publish");
        assert!(told && link.load.outcome.works(), "{link:?}");
    }
}

#[test]
fn multicast_is_tried_where_it_is_claimed() {
    for gpus in [2, 5] {
        let mut config = config(gpus, 8, &[(1, 0, LinkState::Slow(2))]);
        config.multicast = true;
        assert_eq!(probe(config).multicast, Outcome::Works);
    }
    let none = probe(config(2, 8, &[])).multicast;
    assert_eq!(none, Outcome::Skipped("device 0 claims none".into()));
    // Numbers that a member did not write, and stores by one of them that go astray.
    for (mode, text) in [
        (tileweave::abi::TW_PROBE_NUMBERS, "sums through the switch: "),
        (tileweave::abi::TW_PROBE_CAST, "what device 1 sent through the switch: "),
    ] {
        let mut config = config(3, 8, &[]);
        config.multicast = true;
        config.launch_hook = Some(Arc::new(move |seen, params| {
            if params.k == mode && seen.kernel == "probe" && seen.place.device == 1 {
                params.hash += 1;
            }
        }));
        let found = probe(config);
        assert!(failed_with(&found.multicast, text), "{:?}", found.multicast);
        assert!(found.excluded().is_empty());
    }
}

#[test]
fn one_device_has_no_links() {
    let probe = probe(config(1, 1, &[]));
    assert!(probe.links.is_empty());
    assert_eq!(probe.multicast, Outcome::Skipped("it takes two GPUs".into()));
}

#[test]
fn a_lost_node_ends_the_probe_with_the_reason() {
    // A store that stays behind: the simulated node reports it and stops.
    let mut config = config(3, 4, &[]);
    config.launch_hook = Some(Arc::new(|seen, params| {
        if seen.place.device == 2 {
            params.x += 8;
        }
    }));
    let probe = probe(config);
    let of = |from, to| probe.link(from, to).unwrap();
    assert!(outcomes(of(0, 1)).iter().all(|o| o.works()));
    assert!(
        failed_with(&of(0, 2).store.outcome, "16-byte alignment"),
        "{:?}",
        of(0, 2)
    );
    for link in [
        of(0, 2).load.outcome.clone(),
        of(1, 0).store.outcome.clone(),
        of(2, 1).copy.outcome.clone(),
    ] {
        let lost = matches!(&link, Outcome::Skipped(why) if why.contains("was lost while another"));
        assert!(lost, "{link:?}");
    }
}

#[test]
fn groups_are_told_what_was_found() {
    let bad = [(0, 1, LinkState::Corrupting), (2, 0, LinkState::ClaimedOnly)];
    let node = Node::sim(config(3, 2, &bad)).unwrap();
    let group = |probing| {
        node.group(
            3,
            &GroupConfig::default().deadline(Duration::from_secs(1)).probing(probing),
        )
    };
    let ranks = group(Probing::Always).unwrap();
    let found = ranks[0].probe().expect("a probe");
    let excluded: Vec<_> = found.excluded().iter().map(|e| (e.from, e.to)).collect();
    assert_eq!(excluded, [(0, 1), (2, 0)]);
    assert_eq!(ranks[2].probe(), Some(found));
    assert_eq!(node.probe().unwrap().excluded().len(), 2);
    // Whoever believes the node cannot map what it only claims.
    for probing in [Probing::Never, Probing::IfNeeded] {
        let error = group(probing).unwrap_err().to_string();
        assert_eq!(
            error,
            "the memory of device 0 for device 2 is not available: there is no link between the two, whatever the node claims"
        );
    }
    let honest = Node::sim(config(3, 2, &[(2, 0, LinkState::Absent)])).unwrap();
    let ranks = honest.group(3, &GroupConfig::default()).unwrap();
    assert!(ranks[0].probe().is_none() && ranks[0].notes().is_empty());
}
