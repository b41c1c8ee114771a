//! How fast the simulated node computes [sim]: one rank's GEMM through the public API, by kernel. Criterion's elements are
//! floating-point operations, so its elements a second are FLOP/s of the simulator, on one core of the host.

use std::sync::Arc;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use tileweave::abi::TwParams;
use tileweave::driver::sim::{SimConfig, SimNode};
use tileweave::driver::{Driver, Launch, Place, TensorMap};
use tileweave::{Buffer, DType, GroupConfig, Mainloop, Node, Op, OpSpec, Operands, Path, Rank, Want};

fn rank(spec: &OpSpec) -> Rank {
    let node = Node::new(Arc::new(SimNode::new(SimConfig::new(1, 0)).expect("a simulated node")));
    let config = GroupConfig::default()
        .one_shot_bytes(0)
        .sized_for(std::slice::from_ref(spec), 1)
        .expect("a size");
    node.group(1, &config).expect("a group").remove(0)
}

/// One rank's GEMM: of a fused all-reduce, whose sum is its own partial, so that nothing travels and the time is the
/// product's; or alone.
fn gemm(c: &mut Criterion, [m, n, k]: [usize; 3], dtype: DType, mainloop: Mainloop, path: Path, kernel: &str) {
    let spec = OpSpec::new(Op::GemmAllReduce, n, k, m, dtype)
        .route(Want::Exactly(path))
        .mainloop(mainloop);
    let rank = rank(&spec);
    let plan = rank.plan(&spec).expect("a plan");
    // The name in the results must be that of what ran.
    assert_eq!(plan.route(m).kernel.split(" + ").next(), Some(kernel));
    let alloc = |rows: usize, cols: usize| rank.alloc(rows * cols * dtype.size()).expect("memory");
    let (mut x, mut weight, mut out) = (alloc(m, k), alloc(n, k), alloc(m, n));
    for (buffer, count, salt) in [(&mut x, m * k, 7), (&mut weight, n * k, 11)] {
        let values: Vec<f64> = (0..count).map(|i| (i % salt) as f64 / salt as f64 - 0.5).collect();
        buffer
            .upload(&tileweave::reference::encode(dtype, &values))
            .expect("a copy");
    }
    let mut group = c.benchmark_group("simulated gemm");
    group
        .throughput(Throughput::Elements(2 * (m * n * k) as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10);
    group.bench_function(format!("{kernel}, {m} x {n} x {k}"), |b| {
        b.iter(|| {
            let x = Buffer::mat(&x, m, k, dtype).expect("a matrix");
            let weight = Buffer::mat(&weight, n, k, dtype).expect("a matrix");
            let mut out = out.mat_mut(m, n, dtype).expect("a matrix");
            match path {
                Path::Unfused => plan.launch_gemm(m, x, weight, &mut out),
                _ => plan.launch(&Operands::gemm(m, x, weight, out)),
            }
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
    use Mainloop::{Hopper, Portable};
    use Path::{Fused, Unfused};
    let (small, large) = ([512; 3], [1024; 3]);
    gemm(c, small, DType::Bf16, Portable, Fused, "gemm_ar_bf16_64");
    gemm(c, small, DType::Bf16, Hopper, Fused, "gemm_ar_bf16_128_sm90");
    gemm(c, large, DType::Bf16, Portable, Fused, "gemm_ar_bf16_128");
    gemm(c, large, DType::Bf16, Hopper, Fused, "gemm_ar_bf16_128_sm90");
    gemm(c, large, DType::Bf16, Hopper, Unfused, "gemm_bf16_128_sm90");
    // As many blocks as tiles of 128 x 256 are taken for.
    gemm(c, [1024, 2048, 512], DType::Bf16, Hopper, Unfused, "gemm_bf16_256_sm90");
    gemm(c, small, DType::F32, Portable, Fused, "gemm_ar_f32");
}

criterion_group!(benches, kernels, wgmma);
criterion_main!(benches);
