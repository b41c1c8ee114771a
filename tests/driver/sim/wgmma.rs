//! Warpgroups: products against a reference on many schedules, and every mistake that is promised to be found.

use half::{bf16, f16};
use tileweave::DType;
use tileweave::Error;
use tileweave::driver::sim::{Fault, SimConfig, Site};
use tileweave::driver::{Driver, TensorMap};

use crate::support::{Bench, grid, no_params, place, report};

/// The layout that is right: 128-byte swizzle, 1024 bytes from eight rows to the next.
const LAYOUT: u64 = 1 << 62 | 64 << 32 | 1 << 16;

/// Operands whose sums are exact in f32.
fn value(i: usize) -> f32 {
    ((i * 7919) % 17) as f32 - 8.0
}

struct Shape {
    m: usize,
    n: usize,
    k: usize,
    f16: bool,
    stages: u32,
    /// The sum begins with what stands in `out`.
    onto: bool,
}

fn product(config: SimConfig, s: &Shape, of: impl Fn(usize) -> f32) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(config);
    let stream = bench.streams[0];
    let bits = |x: f32| match s.f16 {
        true => f16::from_f32(x).to_bits(),
        false => bf16::from_f32(x).to_bits(),
    };
    let bytes =
        |count: usize, salt: usize| -> Vec<u8> { (0..count).flat_map(|i| bits(of(i + salt)).to_le_bytes()).collect() };
    let [x, w, out] = [s.m * s.k * 2, s.n * s.k * 2, s.m * s.n * 4].map(|bytes| bench.alloc(0, bytes));
    let before: Vec<u8> = (0..s.m * s.n).flat_map(|i| value(i).to_le_bytes()).collect();
    bench.node.copy_in(x, &bytes(s.m * s.k, 0), stream)?;
    bench.node.copy_in(w, &bytes(s.n * s.k, 5), stream)?;
    bench.node.copy_in(out, &before, stream)?;
    let mut p = no_params();
    (p.x, p.weight, p.out) = (x, w, out);
    (p.x_ld, p.weight_ld, p.out_ld) = (s.k as u64, s.k as u64, s.n as u64);
    (p.m, p.n, p.k, p.slots, p.window) = (s.m as u32, s.n as u32, s.k as u32, s.stages, u32::from(s.onto));
    let kernel = ["selftest_wgmma_bf16", "selftest_wgmma_f16"][usize::from(s.f16)];
    let shared = s.stages * (64 + s.n as u32) * 128;
    bench
        .node
        .launch(kernel, grid((s.m / 64) as u32, 128, shared), &p, stream)?;
    bench.read_u32(0, out, s.m * s.n)
}

fn expected(s: &Shape) -> Vec<u32> {
    let sum = |i: usize, j: usize| {
        (0..s.k)
            .map(|q| value(i * s.k + q) * value(j * s.k + q + 5))
            .sum::<f32>()
    };
    let of = |at: usize| sum(at / s.n, at % s.n) + if s.onto { value(at) } else { 0.0 };
    (0..s.m * s.n).map(|at| of(at).to_bits()).collect()
}

fn shape(n: usize, f16: bool, onto: bool) -> Shape {
    Shape {
        m: 128,
        n,
        k: 192,
        f16,
        stages: 2,
        onto,
    }
}

#[test]
fn right_on_every_schedule() {
    for n in [64, 128, 256] {
        for (f16, onto) in [(false, false), (true, false), (false, true), (true, true)] {
            let s = shape(n, f16, onto);
            let expected = expected(&s);
            for seed in 0..5 {
                let config = SimConfig::new(1, 16 * seed + n as u64 / 64);
                assert!(product(config, &s, value).unwrap() == expected, "N {n}, seed {seed}");
            }
        }
    }
}

/// The same numbers by mma and by wgmma have the same bits, where sums are rounded and where they are NaN.
#[test]
fn the_same_bits_as_mma() {
    for f16 in [false, true] {
        let (s, mut nan) = (
            Shape {
                m: 64,
                ..shape(64, f16, false)
            },
            0,
        );
        for (seed, rare) in [(1, 40), (2, 1 << 30)] {
            let of = |i: usize| match i * 2654435761 % rare {
                7 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3],
                x => (i * 40503 % 65536) as f32 / 3000.0 - 11.0 + (x % 3) as f32 * 1e-7,
            };
            let ours = product(SimConfig::new(1, seed), &s, of).unwrap();
            let theirs = mma_product(&s, of);
            nan += ours.iter().filter(|x| **x == 0x7fff_ffff).count();
            assert!(ours.iter().all(|x| !f32::from_bits(*x).is_nan() || *x == 0x7fff_ffff));
            assert!(ours == theirs, "f16 {f16}, seed {seed}");
        }
        assert!(nan > 64 && nan < 64 * 64 * 2, "{nan} NaN");
    }
}

fn mma_product(s: &Shape, of: impl Fn(usize) -> f32) -> Vec<u32> {
    let bench = Bench::new(SimConfig::new(1, 0));
    let bits = |x: f32| match s.f16 {
        true => f16::from_f32(x).to_bits(),
        false => bf16::from_f32(x).to_bits(),
    };
    let bytes =
        |count: usize, salt: usize| -> Vec<u8> { (0..count).flat_map(|i| bits(of(i + salt)).to_le_bytes()).collect() };
    let [x, w, out] = [s.m * s.k * 2, s.n * s.k * 2, s.m * s.n * 4].map(|bytes| bench.alloc(0, bytes));
    bench.node.copy_in(x, &bytes(s.m * s.k, 0), bench.streams[0]).unwrap();
    bench.node.copy_in(w, &bytes(s.n * s.k, 5), bench.streams[0]).unwrap();
    let mut p = no_params();
    (p.x, p.weight, p.out) = (x, w, out);
    (p.x_ld, p.weight_ld, p.out_ld) = (s.k as u64, s.k as u64, s.n as u64);
    (p.m, p.n, p.k) = (s.m as u32, s.n as u32, s.k as u32);
    let kernel = ["selftest_gemm_bf16", "selftest_gemm_f16"][usize::from(s.f16)];
    bench
        .node
        .launch(kernel, grid(1, 128, 32768), &p, bench.streams[0])
        .unwrap();
    bench.read_u32(0, out, s.m * s.n).unwrap()
}

#[test]
fn overwritten_operands_are_reported() {
    for seed in 0..12 {
        let text = report(product(
            SimConfig::new(1, seed),
            &Shape {
                stages: 1,
                ..shape(64, false, false)
            },
            value,
        ));
        assert!(text.contains("was overwritten before its wait"), "seed {seed}: {text}");
        let text = report(case(5, 0, 0, seed));
        assert!(
            text.contains("wgmma reads of A what was not ordered"),
            "seed {seed}: {text}"
        );
    }
}

#[test]
fn a_missing_barrier_is_reported() {
    for seed in 0..12 {
        let config = SimConfig {
            faults: vec![Fault::Ignore(Site::StageBarrier)],
            ..SimConfig::new(1, seed)
        };
        let text = report(product(config, &shape(128, true, false), value));
        assert!(text.contains("wgmma reads of"), "seed {seed}: {text}");
        // A barrier behind the issue is too late, whatever the schedule made of it.
        let text = report(case(7, 0, 0, seed));
        assert!(text.contains("did not know of when it issued"), "seed {seed}: {text}");
        let text = report(case(6, 0, 0, seed));
        assert!(
            text.contains("wgmma reads of B what nobody has written"),
            "seed {seed}: {text}"
        );
    }
}

/// Without the wait the accumulators are not there yet; and the end finds what was never waited for.
#[test]
fn an_ignored_wait_is_reported() {
    for seed in 0..8 {
        let config = SimConfig {
            faults: vec![Fault::Ignore(Site::WgmmaWait)],
            ..SimConfig::new(1, seed)
        };
        let text = report(product(config, &shape(64, false, false), value));
        assert!(
            text.contains("have not been committed and waited for"),
            "seed {seed}: {text}"
        );
    }
}

/// A bf16 matrix and boxes of so many of its rows.
fn matrix(address: u64, rows: usize, columns: usize, of_box: u32) -> TensorMap {
    TensorMap {
        address,
        dtype: DType::Bf16,
        rank: 2,
        dims: [columns as u64, rows as u64, 1, 1],
        strides: [2 * columns as u64, 0, 0],
        box_dims: [64, of_box, 1, 1],
    }
}

fn bf16_bytes(count: usize, salt: usize) -> Vec<u8> {
    let bits = |i| bf16::from_f32(value(i)).to_bits().to_le_bytes();
    (salt..salt + count).flat_map(bits).collect()
}

/// `selftest_wgmma_gemm`: a loader, two warpgroups and three stages.
fn gemm(config: SimConfig, (m, n, k): (usize, usize, usize)) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(config);
    let stream = bench.streams[0];
    let [x, w, out] = [m * k * 2, n * k * 2, m * n * 4].map(|bytes| bench.alloc(0, bytes));
    bench.node.copy_in(x, &bf16_bytes(m * k, 0), stream)?;
    bench.node.copy_in(w, &bf16_bytes(n * k, 5), stream)?;
    let mut p = no_params();
    p.map_x = bench.node.encode_tensor_map(place(0), &matrix(x, m, k, 64))?;
    p.map_weight = bench.node.encode_tensor_map(place(0), &matrix(w, n, k, 256))?;
    (p.out, p.out_ld, p.m, p.n, p.k) = (out, n as u64, m as u32, n as u32, k as u32);
    let launch = grid(2, 288, 1024 + 3 * (128 + 256) * 128);
    bench.node.launch("selftest_wgmma_gemm", launch, &p, stream)?;
    bench.read_u32(0, out, m * n)
}

#[test]
fn a_pipeline_of_loads_and_products() {
    let s = Shape {
        m: 384,
        n: 256,
        k: 320,
        ..shape(256, false, false)
    };
    let expected = expected(&s);
    for seed in 0..8 {
        let seen = gemm(SimConfig::new(1, seed), (s.m, s.n, s.k)).unwrap();
        assert!(seen == expected, "seed {seed}");
        for fault in [
            Fault::Ignore(Site::StageFull),
            Fault::Ignore(Site::StageEmpty),
            Fault::Ignore(Site::WgmmaWait),
            Fault::WrongPhase(Site::StageFull),
            Fault::WrongPhase(Site::StageEmpty),
        ] {
            let config = SimConfig {
                faults: vec![fault],
                ..SimConfig::new(1, seed)
            };
            report(gemm(config, (s.m, s.n, s.k)));
        }
    }
}

/// `selftest_wgmma_tma` with so many rows of x and of the weight written.
fn loaded(case: u32, rows: usize, weight_rows: usize, seed: u64) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(SimConfig::new(1, seed));
    let stream = bench.streams[0];
    let [x, w, out] = [8192, 8192, 64 * 64 * 4].map(|bytes| bench.alloc(0, bytes));
    let matrix = |address| matrix(address, 64, 64, 64);
    bench.node.copy_in(x, &bf16_bytes(rows * 64, 0), stream)?;
    bench.node.copy_in(w, &bf16_bytes(weight_rows * 64, 5), stream)?;
    let mut p = no_params();
    p.map_x = bench.node.encode_tensor_map(place(0), &matrix(x))?;
    p.map_weight = bench.node.encode_tensor_map(place(0), &matrix(w))?;
    (p.out, p.out_ld, p.k) = (out, 64, case);
    bench
        .node
        .launch("selftest_wgmma_tma", grid(1, 160, 1024 + 2 * 8192), &p, stream)?;
    bench.read_u32(0, out, 64 * 64)
}

#[test]
fn operands_that_tma_loads() {
    let s = Shape {
        m: 64,
        k: 64,
        ..shape(64, false, false)
    };
    let expected = expected(&s);
    for seed in 0..24 {
        assert!(loaded(0, 64, 64, seed).unwrap() == expected, "seed {seed}");
        // What nobody wrote may be multiplied, and shows in its own rows alone.
        let some = loaded(0, 40, 64, seed).unwrap();
        assert!(some[..40 * 64] == expected[..40 * 64] && some[40 * 64..].iter().all(|x| *x == 0x7fff_ffff));
        let text = report(loaded(0, 64, 40, seed));
        assert!(text.contains("wgmma reads of B, at 0x"), "seed {seed}: {text}");
        let text = report(loaded(2, 64, 64, seed));
        // Whoever comes first: the product, or the loads.
        let said = ["when it issued", "a wgmma in flight reads", "what nobody has written"];
        assert!(said.iter().any(|part| text.contains(part)), "seed {seed}: {text}");
    }
    // Nobody notes who read shared memory: this shows where the load comes before the wait is over.
    let caught = (0..48).filter(|seed| {
        let result = loaded(1, 64, 64, *seed);
        let early = ["overwrites what a wgmma in flight reads", "when it issued"];
        let said = |text: &str| assert!(early.iter().any(|part| text.contains(part)), "seed {seed}: {text}");
        result.map_err(|_| said(&report(loaded(1, 64, 64, *seed)))).is_err()
    });
    assert!(caught.count() > 12);
}

/// `selftest_wgmma_case`: what each thread added up, as bits.
fn case(case: u32, a: u64, b: u64, seed: u64) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(SimConfig::new(1, seed));
    let out = bench.alloc(0, 1024);
    let mut p = no_params();
    (p.x, p.weight, p.out, p.k) = (a, b, out, case);
    bench
        .node
        .launch("selftest_wgmma_case", grid(1, 256, 16384), &p, bench.streams[0])?;
    bench.read_u32(0, out, 256)
}

#[test]
fn every_thread_must_do_the_same() {
    for seed in 0..6 {
        case(0, 0, 0, seed).unwrap();
        for (fault, with) in [
            (1, "threads 0 and 77 of one warpgroup issued different wgmmas"),
            (2, "wgmma before any wgmma_fence"),
            (3, "have not been committed and waited for"),
            (4, "have not been committed and waited for"),
            (
                8,
                "have left the kernel while others are at wgmma_wait<0> (Site::WgmmaWait)",
            ),
            (9, "have come apart: some are at wgmma_wait<"),
            (11, "have not been committed and waited for"),
            (12, "missing is fence_async_shared"),
        ] {
            let text = report(case(fault, 0, 0, seed));
            assert!(text.contains(with), "case {fault}, seed {seed}: {text}");
        }
    }
}

#[test]
fn half_a_warpgroup_is_none() {
    let bench = Bench::new(SimConfig::new(1, 0));
    let mut p = no_params();
    p.out = bench.alloc(0, 1024);
    bench
        .node
        .launch("selftest_wgmma_case", grid(1, 192, 16384), &p, bench.streams[0])
        .unwrap();
    let text = report(bench.node.stream_synchronize(bench.streams[0]));
    assert!(
        text.contains("the CTA has 192, and this one is behind the last whole 128"),
        "{text}"
    );
}

#[test]
fn descriptors_are_checked_field_by_field() {
    let at = |start: u64| LAYOUT | start >> 4;
    // Steps in K, the other operand's tile, and eight rows every 2048 bytes.
    for good in [at(32), at(64), at(96), at(8192), at(0) ^ 192 << 32] {
        case(0, good, 0, 0).unwrap();
        case(0, 0, good, 0).unwrap();
    }
    for (bits, field) in [
        (at(0) & !(3 << 62), "the swizzle mode (bits 62..63) is 0: expected 1"),
        (at(0) ^ 3 << 62, "the swizzle mode (bits 62..63) is 2: expected 1"),
        (at(0) | 3 << 49, "the base offset (bits 49..51) is 3: expected 0"),
        (at(0) | 1 << 46, "the unused bits"),
        (at(0) | 1 << 14, "the unused bits"),
        (
            at(0) ^ 3 << 16,
            "the leading byte offset (bits 16..29, in 16 bytes) is 2: expected 1",
        ),
        (
            at(0) ^ 96 << 32,
            "the stride byte offset (bits 32..45, in 16 bytes) is 32: expected 64",
        ),
        (
            at(0) ^ 64 << 32,
            "the stride byte offset (bits 32..45, in 16 bytes) is 0: expected 64",
        ),
        (
            at(16),
            "the start address (bits 0..13, in 16 bytes) is 1: expected a tile at a multiple of 1024",
        ),
        (at(128), "the start address (bits 0..13, in 16 bytes) is 8: expected"),
        (at(512), "the start address (bits 0..13, in 16 bytes) is 32: expected"),
        (at(9216), "the end of the last row, in bytes is 17408: expected inside"),
    ] {
        for (a, b, operand) in [(bits, 0, 'A'), (0, bits, 'B')] {
            let text = report(case(0, a, b, 3));
            let with = format!("wgmma's descriptor of {operand}, {bits:#x}: {field}");
            assert!(text.contains(&with), "{with}: {text}");
        }
    }
}
