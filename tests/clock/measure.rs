//! One operation on a node with a clock, measured as on a GPU: by events on every rank's stream.

use std::sync::Arc;

use half::bf16;
use tileweave::driver::Driver;
use tileweave::driver::sim::{SimConfig, SimNode, Usage};
use tileweave::machines::Description;
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Operands, Path, Rank, Want, chunk};

pub const BF16: DType = DType::Bf16;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Case {
    Fused,
    Unfused,
    /// The unfused operation's GEMM.
    Gemm,
}

/// What was seen.
#[derive(Debug, PartialEq)]
pub struct Seen {
    /// The longest of all ranks, of each launch in turn.
    pub ns: Vec<u64>,
    /// By rank: payload bytes and signal words that left.
    pub sent: Vec<(u64, u64)>,
    pub usage: Vec<Usage>,
    /// By rank: what came out, where kernels compute.
    pub out: Vec<Vec<bf16>>,
}

pub fn named(name: &str) -> Description {
    Description::named(name).expect("a known machine")
}

/// `m`, `n`, `k` are those of one rank's GEMM; of an all-gather `m` counts all ranks' rows.
pub fn measure(node: SimConfig, op: Op, [m, n, k]: [usize; 3], world: usize, case: Case, launches: usize) -> Seen {
    let path = if case == Case::Fused {
        Path::Fused
    } else {
        Path::Unfused
    };
    let spec = OpSpec::new(op, n, k, m, BF16).route(Want::Exactly(path));
    let config = GroupConfig::default()
        .sized_for(std::slice::from_ref(&spec), world)
        .expect("sizes");
    let computes = node.computes;
    let sim = Arc::new(SimNode::new(node).expect("a node"));
    let ranks = Node::new(sim.clone()).group(world, &config).expect("a group");
    let driver: &dyn Driver = &*sim;
    let own = |rank: &Rank| chunk(m, world, rank.rank()).len();
    let mut on: Vec<_> = ranks
        .iter()
        .map(|rank| {
            let plan = rank.plan(&spec).expect("a plan");
            let rows = if op == Op::AllGatherGemm && case != Case::Gemm {
                own(rank)
            } else {
                m
            };
            let outs = if op == Op::GemmReduceScatter && case != Case::Gemm {
                own(rank)
            } else {
                m
            };
            let buffer = |elements: usize| -> Buffer {
                let mut buffer = rank.alloc(elements * 2).expect("memory");
                // A node that computes wants operands.
                if computes {
                    let value = |i: usize| bf16::from_f32(((i * 37 + rank.rank() * 11) % 61) as f32 / 8.0 - 3.5);
                    let values: Vec<bf16> = (0..elements).map(value).collect();
                    buffer.upload(&values).expect("memory");
                }
                buffer
            };
            let event = || driver.event_create(rank.place()).expect("an event");
            (
                plan,
                [buffer(rows * k), buffer(n * k), buffer(outs * n)],
                [rows, outs],
                [event(), event()],
            )
        })
        .collect();
    let before: Vec<_> = ranks.iter().map(|rank| sent(driver, rank)).collect();
    let mut ns = Vec::new();
    for _ in 0..launches {
        for ((plan, [x, weight, out], [rows, outs], [begin, end]), rank) in on.iter_mut().zip(&ranks) {
            driver.event_record(*begin, rank.stream()).expect("an event");
            let (x, weight) = (
                x.mat(*rows, k, BF16).expect("x"),
                weight.mat(n, k, BF16).expect("weight"),
            );
            let mut out = out.mat_mut(*outs, n, BF16).expect("out");
            match case {
                Case::Gemm => plan.launch_gemm(m, x, weight, &mut out),
                _ => plan.launch(&Operands::gemm(m, x, weight, out)),
            }
            .expect("a launch");
            driver.event_record(*end, rank.stream()).expect("an event");
        }
        ranks.iter().for_each(|rank| rank.synchronize().expect("no fault"));
        let elapsed = |pair: &[tileweave::driver::Event; 2]| {
            let ms = driver.event_elapsed_ms(pair[0], pair[1]).expect("both happened");
            // Where nothing takes time, none.
            (ms.unwrap_or_default() * 1e6).round() as u64
        };
        ns.push(on.iter().map(|(.., events)| elapsed(events)).max().unwrap_or(0));
    }
    let sent = ranks.iter().zip(before).map(|(rank, before)| {
        let after = sent(driver, rank);
        (after.0 - before.0, after.1 - before.1)
    });
    let sent = sent.collect();
    let out = on.iter().filter(|_| computes).map(|(_, [.., out], [_, outs], _)| {
        let values = out.to_vec(outs * n).expect("memory");
        assert!(values.iter().any(|value: &bf16| *value != values[0]), "{op}: all alike");
        values
    });
    Seen {
        ns,
        sent,
        usage: sim.usage().expect("the node runs"),
        out: out.collect(),
    }
}

fn sent(driver: &dyn Driver, rank: &Rank) -> (u64, u64) {
    driver.observed_traffic(rank.place()).unwrap_or_default()
}

/// On a described machine.
pub fn clocked(node: &Description, op: Op, shape: [usize; 3], world: usize, case: Case) -> Seen {
    measure(SimConfig::clocked(node, 1), op, shape, world, case, 2)
}

/// The last launch's time.
pub fn ns(node: &Description, op: Op, shape: [usize; 3], world: usize, case: Case) -> u64 {
    *clocked(node, op, shape, world, case).ns.last().expect("launches")
}
