//! Routes over machines of all kinds: what is never chosen, what is always said, and which way times go.

mod groups;
mod named;
mod properties;

use proptest::prelude::*;
use tileweave::probe::{LinkProbe, Outcome, Probe, WayProbe};
use tileweave::route::model::{Transport, Work};
use tileweave::route::{Allowed, Decision, LinkKind, Machine, Obstacle, decide};
use tileweave::topology::{Ancestor, Fabric, Gpu, Link, Mig, NvLinkPath, Source, Status, Topology, VERSION};
use tileweave::{DType, Exchange, GroupConfig, NcclPolicy, Numerics, Op, Path};

const ALLOWED: Allowed = Allowed {
    one_shot_bytes: 128 << 10,
    numerics: Numerics::Exact,
    nccl: NcclPolicy::Never,
    exchanges: &[Exchange::Push],
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
