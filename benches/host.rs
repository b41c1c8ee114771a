//! What the crate costs a runtime's host thread: making a plan (once per layer) and launching one (once per layer and
//! step). On the simulated node [sim]: validation, the table look-up, the parameters and the enqueueing are the same code
//! on a GPU; the driver's own launch is not in it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::{DType, GroupConfig, Node, Op, OpSpec, Operands, Rank};

const WORLD: usize = 2;

fn group(spec: &OpSpec) -> Vec<Rank> {
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(WORLD, 0)).expect("a simulated node")));
    let config = GroupConfig::default().sized_for(std::slice::from_ref(spec), WORLD).expect("a size");
    node.group(WORLD, &config).expect("a group")
}

fn plans(c: &mut Criterion) {
    // Llama-3 70B's output projection at P = 8.
    let spec = OpSpec::new(Op::GemmAllReduce, 8192, 1024, 8192, DType::Bf16);
    let small = OpSpec::new(Op::GemmAllReduce, 8192, 1024, 64, DType::Bf16);
    let rank = &group(&small)[0];
    c.bench_function("plan/gemm-all-reduce, M up to 64", |b| b.iter(|| black_box(rank.plan(&small))));
    c.bench_function("heap_bytes_for/gemm-all-reduce, M up to 8192", |b| {
        b.iter(|| black_box(GroupConfig::heap_bytes_for(std::slice::from_ref(&spec), 8)))
    });
}

/// Time to enqueue on one rank; the simulated work itself is done between samples, outside the time.
fn launches(c: &mut Criterion) {
    let spec = OpSpec::new(Op::GemmAllReduce, 64, 64, 16, DType::Bf16);
    let ranks = group(&spec);
    let plans: Vec<_> = ranks.iter().map(|r| r.plan(&spec).expect("a plan")).collect();
    let buffer = |r: &Rank, elements: usize| {
        let mut b = r.alloc(elements * 2).expect("memory");
        b.fill(0).expect("a fill");
        b
    };
    let x: Vec<_> = ranks.iter().map(|r| buffer(r, 16 * 64)).collect();
    let weight: Vec<_> = ranks.iter().map(|r| buffer(r, 64 * 64)).collect();
    let mut out: Vec<_> = ranks.iter().map(|r| buffer(r, 16 * 64)).collect();
    c.bench_function("launch/gemm-all-reduce", |b| {
        b.iter_custom(|n| {
            let mut total = Duration::ZERO;
            for _ in 0..n {
                for (r, plan) in plans.iter().enumerate() {
                    let operands = Operands::gemm(
                        16,
                        x[r].mat(16, 64, DType::Bf16).expect("a view"),
                        weight[r].mat(64, 64, DType::Bf16).expect("a view"),
                        out[r].mat_mut(16, 64, DType::Bf16).expect("a view"),
                    );
                    let began = Instant::now();
                    plan.launch(black_box(&operands)).expect("a launch");
                    total += began.elapsed();
                }
                ranks.iter().for_each(|r| r.synchronize().expect("a healthy run"));
            }
            total / WORLD as u32
        })
    });
}

criterion_group!(benches, plans, launches);
criterion_main!(benches);
