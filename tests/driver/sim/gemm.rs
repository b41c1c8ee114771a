//! The self-test GEMM: asynchronous copies, ldmatrix, mma and their waits, under many schedules.

use half::{bf16, f16};
use tileweave::driver::Driver;
use tileweave::driver::sim::{Copies, Fault, SimConfig, Site};

use crate::support::{Bench, grid, no_params, report};

/// Operands whose sums are exact in f32.
fn value(i: usize) -> f32 {
    ((i * 7919) % 17) as f32 - 8.0
}

fn run(config: SimConfig, f16_not_bf16: bool) -> Result<Vec<f32>, tileweave::Error> {
    let (m, n, k) = (128usize, 192usize, 256usize);
    let bench = Bench::new(config);
    let bits = |x: f32| {
        if f16_not_bf16 {
            f16::from_f32(x).to_bits()
        } else {
            bf16::from_f32(x).to_bits()
        }
    };
    let bytes = |count: usize, salt: usize| -> Vec<u8> {
        (0..count).flat_map(|i| bits(value(i + salt)).to_le_bytes()).collect()
    };
    let (x, w, out) = (
        bench.alloc(0, m * k * 2),
        bench.alloc(0, n * k * 2),
        bench.alloc(0, m * n * 4),
    );
    bench.node.copy_in(x, &bytes(m * k, 0), bench.streams[0])?;
    bench.node.copy_in(w, &bytes(n * k, 5), bench.streams[0])?;
    let mut p = no_params();
    (p.x, p.weight, p.out) = (x, w, out);
    (p.x_ld, p.weight_ld, p.out_ld) = (k as u64, k as u64, n as u64);
    (p.m, p.n, p.k) = (m as u32, n as u32, k as u32);
    let kernel = if f16_not_bf16 {
        "selftest_gemm_f16"
    } else {
        "selftest_gemm_bf16"
    };
    bench.node.launch(kernel, grid(3, 128, 32768), &p, bench.streams[0])?;
    Ok(bench.read_u32(0, out, m * n)?.into_iter().map(f32::from_bits).collect())
}

fn expected() -> Vec<f32> {
    let (m, n, k) = (128usize, 192usize, 256usize);
    let mut y = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            y[i * n + j] = (0..k).map(|q| value(i * k + q) * value(j * k + q + 5)).sum();
        }
    }
    y
}

#[test]
fn right_on_every_schedule() {
    let expected = expected();
    for seed in 0..12 {
        assert_eq!(
            run(SimConfig::new(1, seed), seed % 2 == 1).unwrap(),
            expected,
            "seed {seed}"
        );
    }
    for copies in [Copies::AtIssue, Copies::Mixed, Copies::AtWait] {
        let config = SimConfig {
            copies: Some(copies),
            ..SimConfig::new(1, 3)
        };
        assert_eq!(run(config, false).unwrap(), expected, "{copies:?}");
    }
}

#[test]
fn nan_is_one_nan() {
    // Infinity minus infinity and NaN operands: every NaN of the result has the same bits.
    let bench = Bench::new(SimConfig::new(1, 2));
    let (x, w, out) = (
        bench.alloc(0, 64 * 128),
        bench.alloc(0, 64 * 128),
        bench.alloc(0, 64 * 64 * 4),
    );
    let of = |i: usize| [0x3f80u16, 0x7f80, 0xff80, 0xffc1][if i.is_multiple_of(97) { i % 4 } else { 0 }];
    let data: Vec<u8> = (0..64 * 64).flat_map(|i| of(i).to_le_bytes()).collect();
    bench.node.copy_in(x, &data, bench.streams[0]).unwrap();
    bench.node.copy_in(w, &data, bench.streams[0]).unwrap();
    let mut p = no_params();
    (p.x, p.weight, p.out, p.x_ld, p.weight_ld, p.out_ld) = (x, w, out, 64, 64, 64);
    (p.m, p.n, p.k) = (64, 64, 64);
    bench
        .node
        .launch("selftest_gemm_bf16", grid(1, 128, 32768), &p, bench.streams[0])
        .unwrap();
    let bits = bench.read_u32(0, out, 64 * 64).unwrap();
    let nan: Vec<u32> = bits.into_iter().filter(|b| f32::from_bits(*b).is_nan()).collect();
    assert!(
        nan.len() > 100 && nan.iter().all(|b| *b == 0x7fff_ffff),
        "{} NaN",
        nan.len()
    );
}

#[test]
fn missing_waits_are_caught() {
    let expected = expected();
    for seed in 0..8 {
        for site in [Site::CopyWait, Site::StageBarrier] {
            let config = SimConfig {
                faults: vec![Fault::Ignore(site)],
                ..SimConfig::new(1, seed)
            };
            let report = report(run(config, false));
            assert!(
                report.contains("ldmatrix reads a row"),
                "{site:?}, seed {seed}: {report}"
            );
        }
        // Registers are read before the tensor core has written them: wrong numbers.
        let config = SimConfig {
            faults: vec![Fault::Ignore(Site::MmaWait)],
            ..SimConfig::new(1, seed)
        };
        assert!(
            run(config, false).map_or(true, |y| y != expected),
            "mma_wait, seed {seed}"
        );
    }
}
