//! How fast the simulated node computes [sim]: one rank's GEMM through the public API, by kernel. Criterion's elements are
//! floating-point operations, so its elements a second are FLOP/s of the simulator, on one core of the host.

use std::sync::Arc;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tileweave::abi::TwParams;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, Launch, Place, TensorMap};
use tileweave::{Buffer, DType, GroupConfig, Node, Op, OpSpec, Operands, Path, Want};

/// One rank's GEMM, whose sum is its own partial: nothing travels, and the time is the product's.
fn gemm(c: &mut Criterion, size: usize, dtype: DType, kernel: &str) {
    let spec = OpSpec::new(Op::GemmAllReduce, size, size, size, dtype).route(Want::Exactly(Path::Fused));
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(1, 0)).expect("a simulated node")));
    let config = GroupConfig::default()
        .one_shot_bytes(0)
        .sized_for(std::slice::from_ref(&spec), 1)
        .expect("a size");
    let rank = node.group(1, &config).expect("a group").remove(0);
    let plan = rank.plan(&spec).expect("a plan");
    // The name in the results must be that of what ran.
    assert_eq!(plan.route(size).kernel, kernel);
    let bytes = size * size * dtype.size();
    let [mut x, mut weight, mut out] = [(); 3].map(|()| rank.alloc(bytes).expect("memory"));
    for (buffer, salt) in [(&mut x, 7), (&mut weight, 11)] {
        let values: Vec<f64> = (0..size * size)
            .map(|i| (i % salt) as f64 / salt as f64 - 0.5)
            .collect();
        buffer
            .upload(&tileweave::reference::encode(dtype, &values))
            .expect("a copy");
    }
    let mut group = c.benchmark_group("simulated gemm");
    group
        .throughput(Throughput::Elements(2 * (size as u64).pow(3)))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10);
    group.bench_function(format!("{kernel}, {size}^3"), |b| {
        b.iter(|| {
            let mat = |buffer| Buffer::mat(buffer, size, size, dtype).expect("a matrix");
            let out = out.mat_mut(size, size, dtype).expect("a matrix");
            plan.launch(&Operands::gemm(size, mat(&x), mat(&weight), out))
                .expect("a launch");
            rank.synchronize().expect("a finished operation");
        });
    });
    group.finish();
}

/// A product of wgmma, with its loader and waits, as the machine's own kernel does it: 512 x 1024, K = 2048.
fn wgmma(c: &mut Criterion) {
    let (m, n, k) = (512usize, 1024usize, 2048usize);
    let place = Place {
        device: 0,
        share: 0,
        shares: 1,
    };
    let node = SimNode::new(SimConfig::new(1, 0)).expect("a simulated node");
    let stream = node.stream_create(place).expect("a stream");
    let [x, weight, out] = [m * k * 2, n * k * 2, m * n * 4].map(|bytes| node.alloc(place, bytes).expect("memory"));
    // SAFETY: plain integers, for which zero is a value.
    let mut p: TwParams = unsafe { std::mem::zeroed() };
    let map = |address, rows: usize, of_box| TensorMap {
        address,
        dtype: DType::Bf16,
        rank: 2,
        dims: [k as u64, rows as u64, 1, 1],
        strides: [2 * k as u64, 0, 0],
        box_dims: [64, of_box, 1, 1],
    };
    p.map_x = node.encode_tensor_map(place, &map(x, m, 64)).expect("a map");
    p.map_weight = node.encode_tensor_map(place, &map(weight, n, 256)).expect("a map");
    (p.out, p.out_ld, p.m, p.n, p.k) = (out, n as u64, m as u32, n as u32, k as u32);
    for (ptr, bytes) in [(x, m * k * 2), (weight, n * k * 2)] {
        node.fill(ptr, 0x3c, bytes, stream).expect("a fill");
    }
    let launch = Launch {
        grid: 1,
        threads: 288,
        shared: 1024 + 3 * (128 + 256) * 128,
        cluster: 1,
    };
    let mut group = c.benchmark_group("simulated wgmma");
    group
        .throughput(Throughput::Elements((2 * m * n * k) as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10);
    group.bench_function(format!("selftest_wgmma_gemm, {m} x {n}, K = {k}"), |b| {
        b.iter(|| {
            node.launch("selftest_wgmma_gemm", launch, &p, stream)
                .expect("a launch");
            node.stream_synchronize(stream).expect("a finished kernel");
        });
    });
    group.finish();
}

fn kernels(c: &mut Criterion) {
    gemm(c, 512, DType::Bf16, "gemm_ar_bf16_64");
    gemm(c, 1024, DType::Bf16, "gemm_ar_bf16_128");
    gemm(c, 512, DType::F32, "gemm_ar_f32");
}

criterion_group!(benches, kernels, wgmma);
criterion_main!(benches);
