//! Random machines and operations.

use super::*;

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
    let policies = vec![NcclPolicy::Never, NcclPolicy::Decline, NcclPolicy::Own];
    let exchanges = vec![ALLOWED.exchanges, ALL_EXCHANGES];
    (
        prop::sample::select(vec![0u64, 65536, 1 << 20]),
        any::<bool>(),
        prop::sample::select(policies),
        prop::sample::select(exchanges),
    )
        .prop_map(|(one_shot_bytes, switch, nccl, exchanges)| Allowed {
            one_shot_bytes,
            numerics: if switch { Numerics::InSwitch } else { Numerics::Exact },
            nccl,
            exchanges,
        })
}

/// Times of all paths by every transport, infinite where there is none.
fn times(machine: &Machine, work: &Work) -> Vec<f64> {
    let possible = machine.obstacles.is_empty();
    let of = |time: Option<f64>| time.filter(|_| possible).unwrap_or(f64::INFINITY);
    let mut times = vec![work.nccl_us(machine).unwrap_or(f64::INFINITY)];
    for exchange in [Exchange::Push, Exchange::Pull, Exchange::InSwitch] {
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
        prop_assert!(decision.path != Path::Nccl || allowed.nccl == NcclPolicy::Own);
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
