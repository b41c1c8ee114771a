//! How fast the simulated node computes: GFLOP/s of a 512^3 bf16 GEMM on one core (criterion prints elements a second).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tileweave::abi::TwParams;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, Launch, Place};

const SIZE: usize = 512;

fn gemm(c: &mut Criterion) {
    let mut group = c.benchmark_group("simulated gemm 512^3 bf16");
    // One element a floating-point operation.
    group
        .throughput(Throughput::Elements(2 * (SIZE * SIZE * SIZE) as u64))
        .sample_size(10);
    for seed in 0..4 {
        group.bench_function(format!("seed {seed}"), |b| {
            let node = SimNode::new(SimConfig::new(1, seed)).expect("a node");
            let place = Place {
                device: 0,
                share: 0,
                shares: 1,
            };
            let stream = node.stream_create(place).expect("a stream");
            let [x, w] = [7, 11].map(|salt| {
                let ptr = node.alloc(place, SIZE * SIZE * 2).expect("memory");
                let data: Vec<u8> = (0..SIZE * SIZE)
                    .flat_map(|i| [0, 0x3f + (i % salt) as u8 / 8])
                    .collect();
                node.copy_in(ptr, &data, stream).expect("a copy");
                ptr
            });
            let out = node.alloc(place, SIZE * SIZE * 4).expect("memory");
            let ld = SIZE as u64;
            let size = SIZE as u32;
            // SAFETY: plain integers, for which zero is a value.
            let mut p: TwParams = unsafe { std::mem::zeroed() };
            (p.x, p.weight, p.out, p.x_ld, p.weight_ld, p.out_ld) = (x, w, out, ld, ld, ld);
            (p.m, p.n, p.k) = (size, size, size);
            b.iter(|| {
                let launch = Launch {
                    grid: 8,
                    threads: 128,
                    shared: 32768,
                };
                node.launch("selftest_gemm_bf16", launch, black_box(&p), stream)
                    .expect("a launch");
                node.stream_synchronize(stream).expect("a finished kernel");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, gemm);
criterion_main!(benches);
