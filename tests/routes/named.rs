//! Machines one by one: what is served and what is declined, by name.

use super::*;

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
    // A slice has what it says, not what its GPU had.
    t.gpus[0].sms = Some(60);
    assert_eq!(Machine::of(&t, None, &[0, 0]).sms, 30);
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
    let by = |nccl| decide(&slow, &work, &Allowed { nccl, ..ALLOWED });
    assert_eq!(by(NcclPolicy::Decline).path, Path::Decline);
    assert_eq!(by(NcclPolicy::Own).path, Path::Nccl);
    let served = by(NcclPolicy::Never);
    assert_eq!(served.path, Path::Fused);
    assert!(served.reason.ends_with("NCCL would be faster"), "{}", served.reason);
    for policy in [NcclPolicy::Decline, NcclPolicy::Own] {
        let reason = by(policy).reason;
        assert!(
            reason.starts_with("the vendor's GEMM and NCCL are clearly faster: "),
            "{reason}"
        );
    }
}

/// What was timed for one way alone is no ground to prefer it.
#[test]
fn latencies_count_where_both_ways_have_one() {
    let t = machine(2, Some((18, true)));
    let latencies = |store: Option<f64>, load: Option<f64>| {
        let mut p = probe(&t, None);
        for link in &mut p.links {
            (link.store.latency_us, link.load.latency_us) = (store, load);
        }
        let machine = Machine::of(&t, Some(&p), &all(2));
        (machine.push.latency_us, machine.pull.unwrap().latency_us)
    };
    assert_eq!(latencies(Some(2.0), Some(3.0)), (2.0, 3.0));
    let sheet = latencies(None, None);
    assert_eq!(sheet.0, sheet.1);
    assert_eq!(latencies(Some(0.01), None), sheet);
    assert_eq!(latencies(None, Some(0.01)), sheet);
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

#[test]
fn one_shot_by_the_groups_default() {
    // What the tables of docs and program assume.
    assert_eq!(GroupConfig::default().one_shot_bytes as u64, ALLOWED.one_shot_bytes);
}
