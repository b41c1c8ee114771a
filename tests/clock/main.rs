//! The node with a clock: what it must conserve, and what it must come to.
#![cfg(target_os = "linux")]

use tileweave::driver::sim::SimConfig;
use tileweave::machines::Description;
use tileweave::{DType, GroupConfig, Node, Op, OpSpec, Operands, Path, Rank, Want, chunk};

const BF16: DType = DType::Bf16;

/// One operation's time on `world` ranks of a node, in microseconds, by events on every rank's stream.
fn time(node: &Description, op: Op, [m, n, k]: [usize; 3], world: usize, want: Want, alone: bool) -> f64 {
    let begun = std::time::Instant::now();
    let spec = OpSpec::new(op, n, k, m, BF16).route(want);
    let config = GroupConfig::default()
        .sized_for(std::slice::from_ref(&spec), world)
        .unwrap();
    let ranks = Node::sim(SimConfig::clocked(node, 1))
        .unwrap()
        .group(world, &config)
        .unwrap();
    let driver = ranks[0].node().driver().clone();
    let mut plans = Vec::new();
    for rank in &ranks {
        let plan = rank.plan(&spec).unwrap();
        let rows = match op {
            Op::AllGatherGemm => chunk(m, world, rank.rank()).len(),
            _ => m,
        };
        let outs = match op {
            Op::GemmReduceScatter if !alone => chunk(m, world, rank.rank()).len(),
            _ => m,
        };
        let x = rank.alloc(rows * k * 2).unwrap();
        let weight = rank.alloc(n * k * 2).unwrap();
        let out = rank.alloc(outs * n * 2).unwrap();
        let events = [
            driver.event_create(rank.place()).unwrap(),
            driver.event_create(rank.place()).unwrap(),
        ];
        plans.push((plan, x, weight, out, rows, outs, events));
    }
    if begun.elapsed().as_millis() > 100 {
        eprintln!("set up {:?}", begun.elapsed());
    }
    let begun = std::time::Instant::now();
    let mut us = 0.0f64;
    for _ in 0..2 {
        for ((plan, x, weight, out, rows, outs, events), rank) in plans.iter_mut().zip(&ranks) {
            driver.event_record(events[0], rank.stream()).unwrap();
            let (x, weight) = (x.mat(*rows, k, BF16).unwrap(), weight.mat(n, k, BF16).unwrap());
            let mut out = out.mat_mut(*outs, n, BF16).unwrap();
            if alone {
                plan.launch_gemm(m, x, weight, &mut out).unwrap();
            } else {
                plan.launch(&Operands::gemm(m, x, weight, out)).unwrap();
            }
            driver.event_record(events[1], rank.stream()).unwrap();
        }
        ranks.iter().for_each(|rank: &Rank| rank.synchronize().unwrap());
        us = plans
            .iter()
            .map(|p| driver.event_elapsed_ms(p.6[0], p.6[1]).unwrap().unwrap() * 1e3)
            .fold(0.0, f64::max);
    }
    eprintln!(
        "{op:?} {m}x{n}x{k} P={world} {want:?} alone {alone}: {us:.1} us (took {:?}, {})",
        begun.elapsed() / 2,
        plans[0].0.route(m).kernel
    );
    us
}

#[test]
fn a_look() {
    let node = Description::named("h100x8").unwrap();
    let fused = Want::Exactly(Path::Fused);
    let unfused = Want::Exactly(Path::Unfused);
    let cases = std::env::var("CASES").unwrap_or_default();
    for case in cases.split(';').filter(|c| !c.is_empty()) {
        let w: Vec<&str> = case.split(',').collect();
        let op = match w[0] {
            "rs" => Op::GemmReduceScatter,
            "ar" => Op::GemmAllReduce,
            _ => Op::AllGatherGemm,
        };
        let n = |i: usize| w[i].parse::<usize>().unwrap();
        let want = if w[5] == "f" { fused } else { unfused };
        let node = Description::named(w[6]).unwrap();
        time(&node, op, [n(1), n(2), n(3)], n(4), want, w[5] == "g");
    }
    let _ = node;
}
