//! Routes over machines of all kinds: what is never chosen, what is always said, and which way times go.

use proptest::prelude::*;
use tileweave::probe::{LinkProbe, Outcome, Probe, WayProbe};
use tileweave::route::model::{Transport, Work};
use tileweave::route::{Allowed, Alternative, Decision, LinkKind, Machine, Obstacle, decide};
use tileweave::topology::{Ancestor, Fabric, Gpu, Link, Mig, NvLinkPath, Source, Status, Topology, VERSION};
use tileweave::{DType, EXCHANGES, Exchange, GroupConfig, Numerics, Op, Path};

const ALLOWED: Allowed = Allowed {
    one_shot_bytes: 64 << 10,
    numerics: Numerics::Exact,
    alternative: Alternative::Nobody,
    exchanges: EXCHANGES,
};

fn work(op: Op, m: u64, n: u64, k: u64) -> Work {
    Work {
        op,
        m,
        n,
        k: if op.has_gemm() { k } else { 0 },
        dtype: DType::Bf16,
        wire: DType::Bf16,
    }
}

fn gpu(index: usize, name: &str, compute_capability: (u32, u32)) -> Gpu {
    Gpu {
        uuid: format!("GPU-{index}"),
        pci: format!("00000000:{index:02x}:00.0"),
        name: name.into(),
        compute_capability,
        sms: Some(132),
        memory_bytes: 80 << 30,
        numa: None,
        mig: Mig::Off,
        fabric: Fabric::NotSupported,
        multicast: Status::No,
        nvlinks: Vec::new(),
    }
}

fn link(from: usize, to: usize, nvlink: Option<(u32, bool)>, write: Status) -> Link {
    Link {
        from,
        to,
        nvlink: nvlink.map(|(lanes, switched)| NvLinkPath {
            lanes,
            version: 4,
            gb_per_s: 25.0 * f64::from(lanes),
            switched,
        }),
        ancestor: Ancestor::System,
        read: write,
        write,
        atomics: write,
    }
}

/// `gpus` H100, every pair joined by `nvlink`.
fn machine(gpus: usize, nvlink: Option<(u32, bool)>) -> Topology {
    let pairs = (0..gpus).flat_map(|from| (0..gpus).map(move |to| (from, to)));
    Topology {
        version: VERSION,
        source: Source::Nvml,
        driver: "580".into(),
        cuda: None,
        gpus: (0..gpus).map(|i| gpu(i, "NVIDIA H100 80GB HBM3", (9, 0))).collect(),
        links: pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| link(from, to, nvlink, Status::Yes))
            .collect(),
        notes: Vec::new(),
    }
}

fn way(outcome: Outcome, gb_per_s: Option<f64>) -> WayProbe {
    WayProbe {
        outcome,
        gb_per_s,
        latency_us: None,
    }
}

/// A probe that found every link in order, at this rate.
fn probe(topology: &Topology, gb_per_s: Option<f64>) -> Probe {
    Probe {
        crate_version: "0".into(),
        driver: topology.driver.clone(),
        gpus: topology.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        links: topology
            .links
            .iter()
            .map(|l| LinkProbe {
                from: l.from,
                to: l.to,
                store: way(Outcome::Works, gb_per_s),
                load: way(Outcome::Works, gb_per_s),
                copy: way(Outcome::Works, gb_per_s),
                atomics: Outcome::Works,
            })
            .collect(),
        multicast: Outcome::Skipped("not claimed".into()),
    }
}

fn all(gpus: usize) -> Vec<usize> {
    (0..gpus).collect()
}

fn on(topology: &Topology, probe: Option<&Probe>) -> Decision {
    let machine = Machine::of(topology, probe, &all(topology.gpus.len()));
    decide(&machine, &work(Op::GemmAllReduce, 4096, 8192, 3584), &ALLOWED)
}

fn declined(topology: &Topology, probe: Option<&Probe>) -> String {
    let decision = on(topology, probe);
    assert_eq!(decision.path, Path::Decline, "{}", decision.reason);
    let predicted = decision.predicted;
    assert_eq!((predicted.fused_us, predicted.unfused_us), (None, None));
    decision.reason
}

#[test]
fn a_good_machine_is_served_and_told() {
    let machine = machine(8, Some((18, true)));
    let reason = on(&machine, None).reason;
    assert!(
        reason.ends_with("two-shot push; 8 x H100 behind NVSwitch, push 360 GB/s by the data sheet, links not tried"),
        "{reason}"
    );
    let reason = on(&machine, Some(&probe(&machine, Some(350.0)))).reason;
    assert!(reason.ends_with("behind NVSwitch, push 350 GB/s probed"), "{reason}");
}

#[test]
fn every_obstacle_is_named() {
    let good = || machine(4, Some((18, true)));
    let pairs = |topology: &Topology| topology.links.len();

    let mut t = good();
    t.links[0].write = Status::Disabled;
    assert_eq!(
        declined(&t, None),
        "GPU 0 (GPU-0) to GPU 1 (GPU-1): peer-to-peer access is disabled by the driver or the chipset"
    );
    t.links[5].write = Status::No;
    assert!(declined(&t, None).ends_with("(and 1 more reason)"));

    let t = good();
    let mut p = probe(&t, None);
    assert_eq!(p.links.len(), pairs(&t));
    p.links[2].store.outcome = Outcome::Failed("3 of 4096 bytes differ".into());
    assert_eq!(
        declined(&t, Some(&p)),
        "GPU 0 (GPU-0) to GPU 3 (GPU-3): stores failed: 3 of 4096 bytes differ"
    );
    // A claim does not bring back what a probe could not map.
    p.links.remove(2);
    assert_eq!(
        declined(&t, Some(&p)),
        "GPU 0 (GPU-0) to GPU 3 (GPU-3): the probe did not come to it"
    );

    let mut t = good();
    t.gpus[1].mig = Mig::SliceOf("GPU-9".into());
    assert_eq!(
        declined(&t, None),
        "GPU 1 (GPU-1) is a MIG slice, which reaches no peer"
    );
    t.gpus[1].mig = Mig::On;
    assert!(declined(&t, None).contains("divided by MIG"));

    let mut t = good();
    t.gpus[2].fabric = Fabric::InProgress;
    assert!(declined(&t, None).starts_with("GPU 2 (GPU-2): its NVLink fabric is still initialising"));
    let up = |clique| Fabric::Completed {
        status: 0,
        cluster: "0".repeat(32),
        clique,
    };
    for gpu in &mut t.gpus {
        gpu.fabric = up(7);
    }
    assert_eq!(on(&t, None).path, Path::Fused);
    t.gpus[3].fabric = up(8);
    assert!(declined(&t, None).starts_with("GPU 0 to GPU 3: different cliques of NVLink (7 of"));

    let mut t = good();
    t.gpus[0] = gpu(0, "Tesla V100-SXM2-32GB", (7, 0));
    assert_eq!(
        declined(&t, None),
        "GPU 0 (Tesla V100-SXM2-32GB) has compute capability 7.0: the kernels need 8.0 or later"
    );

    assert_eq!(
        declined(&machine(17, Some((18, true))), None),
        "17 ranks: the kernels serve 1 to 16"
    );
    let beyond = Machine::of(&good(), None, &[0, 4]);
    assert_eq!(beyond.obstacles[0], Obstacle::NoGpu { gpu: 4, gpus: 4 });
    assert_eq!(beyond.link, LinkKind::Nothing);
}

/// The simulated node's links as they are, not as it says.
mod groups {
    use tileweave::driver::sim::{LinkState, SimConfig, SimLink};
    use tileweave::{DType, Error, GroupConfig, Node, Op, OpSpec, Operands, Path, Probing, Rank, Want};

    fn group(state: Option<LinkState>, probing: Probing) -> Vec<Rank> {
        let mut config = SimConfig::new(3, 0);
        config
            .links
            .extend(state.map(|state| SimLink { from: 1, to: 2, state }));
        let node = Node::sim(config).unwrap();
        node.group(3, &GroupConfig::default().heap_bytes(8 << 20).probing(probing))
            .unwrap()
    }

    fn spec() -> OpSpec {
        OpSpec::new(Op::GemmAllReduce, 256, 64, 1000, DType::Bf16)
    }

    /// Every rank's plan, which all have the same routes.
    fn route(ranks: &[Rank]) -> (Path, String) {
        let routes = ranks[0].plan(&spec()).unwrap().routes();
        for rank in ranks {
            assert_eq!(rank.plan(&spec()).unwrap().routes(), routes);
        }
        assert_eq!((routes[0].0.start, routes.last().unwrap().0.end), (0, 1001));
        assert!(routes.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));
        (routes[0].1.path, routes[0].1.reason.clone())
    }

    #[test]
    fn a_sound_node_is_fused_over_tried_links() {
        let (path, reason) = route(&group(None, Probing::Always));
        assert_eq!(path, Path::Fused);
        assert!(!reason.contains("not tried"), "{reason}");
        let (_, reason) = route(&group(None, Probing::Never));
        assert!(reason.ends_with("links not tried"), "{reason}");
        // Slow is not wrong.
        assert_eq!(route(&group(Some(LinkState::Slow(8)), Probing::Always)).0, Path::Fused);
    }

    #[test]
    fn bad_links_decline_by_name() {
        for (state, probing, said) in [
            (LinkState::Absent, Probing::Never, "by the driver's word"),
            (LinkState::Absent, Probing::Always, ""),
            (LinkState::ClaimedOnly, Probing::Always, ""),
            (LinkState::Corrupting, Probing::Always, "stores"),
        ] {
            let ranks = group(Some(state), probing);
            let (path, reason) = route(&ranks);
            assert_eq!(path, Path::Decline, "{state:?}: {reason}");
            assert!(
                reason.starts_with("GPU 1 (GPU-") && reason.contains(") to GPU 2 (GPU-"),
                "{state:?}: {reason}"
            );
            assert!(reason.contains(said), "{state:?}: {reason}");
            // What was asked for is refused, and nothing is launched.
            let Err(Error::RouteUnavailable { path, reason: why }) =
                ranks[0].plan(&spec().route(Want::Exactly(Path::Fused)))
            else {
                panic!("{state:?}")
            };
            assert_eq!((path, why), (Path::Fused, reason));
            let plan = ranks[0].plan(&OpSpec::new(Op::AllReduce, 8, 0, 8, DType::F32)).unwrap();
            let mut y = ranks[0].alloc(256).unwrap();
            let launched = plan.launch(&Operands::in_place(8, y.mat_mut(8, 8, DType::F32).unwrap()));
            assert!(
                matches!(
                    launched,
                    Err(Error::RouteUnavailable {
                        path: Path::Decline,
                        ..
                    })
                ),
                "{launched:?}"
            );
        }
    }
}

/// Ranks that share a GPU, or a slice, need no peer.
#[test]
fn one_gpu_serves_several_ranks() {
    let mut t = machine(1, None);
    t.gpus[0].mig = Mig::SliceOf("GPU-9".into());
    let machine = Machine::of(&t, None, &[0, 0, 0, 0]);
    assert_eq!((machine.link, machine.gpus, machine.sms), (LinkKind::SameGpu, 1, 33));
    let decision = decide(&machine, &work(Op::GemmReduceScatter, 64, 4096, 512), &ALLOWED);
    assert_eq!(decision.path, Path::Fused, "{}", decision.reason);
    assert_eq!(decision.predicted.nccl_us, None);
}

/// What the kernels do not offer is not chosen, however good.
#[test]
fn only_exchanges_that_the_kernels_have() {
    let t = machine(4, Some((18, true)));
    let mut p = probe(&t, Some(300.0));
    for link in &mut p.links {
        link.store.gb_per_s = Some(3.0);
    }
    let machine = Machine::of(&t, Some(&p), &all(4));
    let work = work(Op::AllReduce, 4096, 8192, 0);
    assert_eq!(decide(&machine, &work, &ALLOWED).exchange, Exchange::Push);
    let pulls = Allowed {
        exchanges: &[Exchange::Push, Exchange::Pull],
        ..ALLOWED
    };
    assert_eq!(decide(&machine, &work, &pulls).exchange, Exchange::Pull);
    let none = Allowed {
        exchanges: &[],
        ..ALLOWED
    };
    assert!(decide(&machine, &work, &none).reason.contains("no exchange that works"));

    // The switch adds only where sums may depend on it, and where it can.
    let mut t = t;
    t.gpus.iter_mut().for_each(|gpu| gpu.multicast = Status::Yes);
    let switched = Allowed {
        exchanges: &[Exchange::Push, Exchange::InSwitch],
        numerics: Numerics::InSwitch,
        ..ALLOWED
    };
    let exact = Allowed {
        numerics: Numerics::Exact,
        ..switched
    };
    let capable = Machine::of(&t, None, &all(4));
    assert_eq!(decide(&capable, &work, &switched).exchange, Exchange::InSwitch);
    assert_eq!(decide(&capable, &work, &exact).exchange, Exchange::Push);
    p.multicast = Outcome::Failed("sums differ".into());
    let found_out = Machine::of(&t, Some(&p), &all(4));
    assert_eq!(decide(&found_out, &work, &switched).exchange, Exchange::Push);
}

#[test]
fn who_stands_in_where_nccl_is_faster() {
    let t = machine(8, Some((18, true)));
    let machine = Machine::of(&t, None, &all(8));
    // The vendor's GEMM twice as fast as ours: nothing could hide that.
    let slow = Machine {
        class: tileweave::route::constants::Class {
            our_gemm: 0.3,
            ..machine.class
        },
        ..machine
    };
    let work = work(Op::GemmReduceScatter, 8192, 8192, 8192);
    let by = |alternative| decide(&slow, &work, &Allowed { alternative, ..ALLOWED });
    assert_eq!(by(Alternative::Runtime).path, Path::Decline);
    assert_eq!(by(Alternative::Nccl).path, Path::Nccl);
    let served = by(Alternative::Nobody);
    assert_eq!(served.path, Path::Fused);
    assert!(served.reason.ends_with("NCCL would be faster"), "{}", served.reason);
    for alternative in [Alternative::Runtime, Alternative::Nccl] {
        let reason = by(alternative).reason;
        assert!(
            reason.starts_with("the vendor's GEMM and NCCL are clearly faster: "),
            "{reason}"
        );
    }
}

/// GPUs are known by UUID: a probe that lists them in another order says the same.
#[test]
fn a_probe_in_another_order() {
    let t = machine(3, Some((4, false)));
    let mut p = probe(&t, Some(70.0));
    p.links[0].store.outcome = Outcome::Failed("nothing arrived".into());
    let mut turned = p.clone();
    turned.gpus.reverse();
    for link in &mut turned.links {
        (link.from, link.to) = (2 - link.from, 2 - link.to);
    }
    assert_eq!(
        Machine::of(&t, Some(&p), &all(3)),
        Machine::of(&t, Some(&turned), &all(3))
    );
}

fn any_status() -> impl Strategy<Value = Status> {
    prop::sample::select(vec![
        Status::Yes,
        Status::Yes,
        Status::Yes,
        Status::Yes,
        Status::Yes,
        Status::Yes,
        Status::Unknown,
        Status::No,
        Status::Disabled,
    ])
}

/// A random machine with, perhaps, what a probe found.
fn any_machine() -> impl Strategy<Value = (Topology, Option<Probe>)> {
    let names = vec![
        ("NVIDIA H100 80GB HBM3", (9, 0)),
        ("NVIDIA A100-SXM4-80GB", (8, 0)),
        ("NVIDIA L40S", (8, 9)),
        ("NVIDIA B200", (10, 0)),
        ("NVIDIA Unheard-of", (8, 6)),
    ];
    (1usize..=6).prop_flat_map(move |gpus| {
        let pairs = gpus * (gpus - 1);
        let any_link = (prop::option::weighted(0.8, (1u32..=18, any::<bool>())), any_status());
        let found = (prop::option::of(1.0..900.0f64), 0..40u32, any::<bool>());
        (
            prop::collection::vec(prop::sample::select(names.clone()), gpus),
            prop::collection::vec(any_link, pairs),
            prop::option::of(prop::collection::vec(found, pairs)),
            any::<bool>(),
        )
            .prop_map(move |(names, links, found, multicast)| {
                let mut t = machine(gpus, None);
                for (i, (name, cc)) in names.iter().enumerate() {
                    t.gpus[i] = gpu(i, name, *cc);
                    t.gpus[i].multicast = if multicast { Status::Yes } else { Status::No };
                }
                for (slot, (nvlink, status)) in t.links.iter_mut().zip(links) {
                    *slot = link(slot.from, slot.to, nvlink, status);
                }
                let probe = found.map(|found| {
                    let mut p = probe(&t, None);
                    for (slot, (rate, failed, tried)) in p.links.iter_mut().zip(found) {
                        let outcome = match (failed, tried) {
                            (0, _) => Outcome::Failed("bytes differ".into()),
                            (_, false) => Outcome::Skipped("no time".into()),
                            _ => Outcome::Works,
                        };
                        slot.store = way(outcome.clone(), rate);
                        slot.load = way(outcome, rate.map(|rate| rate / 2.0));
                    }
                    p
                });
                (t, probe)
            })
    })
}

fn any_work() -> impl Strategy<Value = Work> {
    (
        prop::sample::select(Op::ALL.to_vec()),
        0u64..20000,
        0u64..20000,
        0u64..20000,
    )
        .prop_map(|(op, m, n, k)| work(op, m, n, k))
}

const ALL_EXCHANGES: &[Exchange] = &[Exchange::Push, Exchange::Pull, Exchange::InSwitch];

fn any_allowed() -> impl Strategy<Value = Allowed> {
    let alternatives = vec![Alternative::Nobody, Alternative::Runtime, Alternative::Nccl];
    let exchanges = vec![EXCHANGES, ALL_EXCHANGES];
    (
        prop::sample::select(vec![0u64, 65536, 1 << 20]),
        any::<bool>(),
        prop::sample::select(alternatives),
        prop::sample::select(exchanges),
    )
        .prop_map(|(one_shot_bytes, switch, alternative, exchanges)| Allowed {
            one_shot_bytes,
            numerics: if switch { Numerics::InSwitch } else { Numerics::Exact },
            alternative,
            exchanges,
        })
}

/// Times of all paths by every transport, infinite where there is none.
fn times(machine: &Machine, work: &Work) -> Vec<f64> {
    let possible = machine.obstacles.is_empty();
    let of = |time: Option<f64>| time.filter(|_| possible).unwrap_or(f64::INFINITY);
    let mut times = vec![work.nccl_us(machine).unwrap_or(f64::INFINITY)];
    for exchange in [Exchange::Push, Exchange::Pull] {
        for one_shot in [false, true] {
            let by = Transport { exchange, one_shot };
            times.push(of(work.fused_us(machine, by).map(|(us, _)| us)));
            times.push(of(work.unfused_us(machine, by)));
        }
    }
    times
}

fn none_shorter(before: &[f64], after: &[f64]) -> Result<(), TestCaseError> {
    for (i, (before, after)) in before.iter().zip(after).enumerate() {
        // Sums of the same terms in another order differ in the last bits.
        prop_assert!(
            *after >= before * (1.0 - 1e-9),
            "time {}: {} after {}",
            i,
            after,
            before
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that a rank knows of itself goes in, so each has the same route. What goes in survives the way between
    /// processes, as text, with the same bits out.
    #[test]
    fn the_same_from_every_ranks_view((t, p) in any_machine(), work in any_work(), allowed in any_allowed()) {
        let gpus = t.gpus.len();
        let here = decide(&Machine::of(&t, p.as_ref(), &all(gpus)), &work, &allowed);
        let text = serde_json::to_string(&(&t, &p)).unwrap();
        let (t, p): (Topology, Option<Probe>) = serde_json::from_str(&text).unwrap();
        for _rank in 0..gpus {
            let there = decide(&Machine::of(&t, p.as_ref(), &all(gpus)), &work, &allowed);
            prop_assert_eq!(&there, &here);
        }
    }

    /// No path of ours over a link that failed, or that is not there; and always a reason.
    #[test]
    fn never_over_a_bad_link((t, p) in any_machine(), work in any_work(), allowed in any_allowed()) {
        let gpus = t.gpus.len();
        let decision = decide(&Machine::of(&t, p.as_ref(), &all(gpus)), &work, &allowed);
        prop_assert!(!decision.reason.is_empty() && !decision.reason.contains('\n'));
        if matches!(decision.path, Path::Fused | Path::Unfused) {
            for link in &t.links {
                let found = p.as_ref().map(|p| p.link(link.from, link.to).unwrap());
                let good = match found {
                    Some(found) => found.store.outcome.works() && found.load.outcome.works(),
                    None => matches!(link.write, Status::Yes | Status::Unknown),
                };
                prop_assert!(good, "{:?} {:?}: {}", link, found, decision.reason);
            }
            prop_assert!(work.op.has_gemm() || decision.path == Path::Unfused);
            prop_assert!(allowed.exchanges.contains(&decision.exchange) || decision.one_shot);
            prop_assert!(allowed.numerics == Numerics::InSwitch || decision.exchange != Exchange::InSwitch);
        }
        prop_assert!(decision.path != Path::Nccl || allowed.alternative == Alternative::Nccl);
    }

    /// A link less, in one direction or both, makes no path faster.
    #[test]
    fn removing_a_link_never_helps((t, p) in any_machine(), work in any_work(), pick in any::<prop::sample::Index>(), absent in any::<bool>()) {
        prop_assume!(!t.links.is_empty());
        let ranks = all(t.gpus.len());
        let mut less = t.clone();
        let at = pick.index(t.links.len());
        less.links[at].nvlink = None;
        if absent {
            (less.links[at].read, less.links[at].write) = (Status::No, Status::No);
        }
        let before = times(&Machine::of(&t, p.as_ref(), &ranks), &work);
        let after = times(&Machine::of(&less, p.as_ref(), &ranks), &work);
        none_shorter(&before, &after)?;
    }

    /// A link that is slower, by the data sheet or by the probe, makes no path faster.
    #[test]
    fn less_bandwidth_never_helps((t, p) in any_machine(), work in any_work(), pick in any::<prop::sample::Index>(), part in 0.01..1.0f64) {
        prop_assume!(!t.links.is_empty());
        let ranks = all(t.gpus.len());
        let (mut less, mut slower) = (t.clone(), p.clone());
        let at = pick.index(t.links.len());
        if let Some(path) = &mut less.links[at].nvlink {
            path.gb_per_s *= part;
        }
        if let Some(link) = slower.as_mut().map(|p| &mut p.links[at]) {
            for way in [&mut link.store, &mut link.load] {
                way.gb_per_s = way.gb_per_s.map(|rate| rate * part);
            }
        }
        let before = times(&Machine::of(&t, p.as_ref(), &ranks), &work);
        let after = times(&Machine::of(&less, slower.as_ref(), &ranks), &work);
        none_shorter(&before, &after)?;
    }

    /// Times are numbers, and what is chosen has one.
    #[test]
    fn times_are_times((t, p) in any_machine(), work in any_work(), allowed in any_allowed()) {
        let machine = Machine::of(&t, p.as_ref(), &all(t.gpus.len()));
        let decision = decide(&machine, &work, &allowed);
        let times = [decision.predicted.fused_us, decision.predicted.unfused_us, decision.predicted.nccl_us];
        for time in times.into_iter().flatten().chain([decision.predicted.gemm_us]) {
            prop_assert!(time.is_finite() && time >= 0.0, "{:?}", decision);
        }
        if decision.path == Path::Fused {
            prop_assert!(decision.predicted.fused_us.is_some());
        }
    }
}

#[test]
fn one_shot_by_the_groups_default() {
    // What the tables of docs and program assume.
    assert_eq!(GroupConfig::default().one_shot_bytes as u64, ALLOWED.one_shot_bytes);
}
