//! What goes with wgmma: stmatrix, and the register budgets of warpgroups.

use tileweave::Error;
use tileweave::driver::Driver;
use tileweave::driver::sim::SimConfig;

use crate::support::{Bench, grid, no_params, report};

fn stmatrix(stride: u32, shared: u32, no_sync: u32, seed: u64) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(SimConfig::new(1, seed));
    let out = bench.alloc(0, 2048);
    let mut p = no_params();
    (p.out, p.k, p.n) = (out, stride, no_sync);
    bench
        .node
        .launch("selftest_stmatrix", grid(1, 64, shared), &p, bench.streams[0])?;
    bench.read_u32(0, out, 512)
}

#[test]
fn stmatrix_is_the_inverse_of_ldmatrix() {
    for seed in 0..8 {
        let words = stmatrix(16, 4096, 0, seed).unwrap();
        for thread in 0..64u32 {
            let (seen, back) = words[8 * thread as usize..][..8].split_at(4);
            let (warp, other) = (thread / 32 * 32, (thread % 32) ^ 1);
            // Row j of matrix i: register i of lanes 4 j to 4 j + 3.
            let row: Vec<u32> = (0..4).map(|q| (warp + other % 8 * 4 + q) * 4 + other / 8).collect();
            assert_eq!(seen, row);
            assert_eq!(back, (0..4).map(|i| thread * 4 + i).collect::<Vec<_>>());
        }
        for (stride, shared, no_sync, with) in [
            (24, 4096, 0, "that is not 16 aligned bytes of the CTA's shared memory"),
            (16, 512 + 496, 0, "stmatrix writes a row, given by thread"),
            (16, 4096, 1, "reads 16 bytes that another thread wrote"),
        ] {
            let text = report(stmatrix(stride, shared, no_sync, seed));
            assert!(
                text.contains(with),
                "stride {stride}, {shared} bytes, seed {seed}: {text}"
            );
        }
    }
}

fn registers(case: u32, seed: u64) -> Result<Vec<u32>, Error> {
    let bench = Bench::new(SimConfig::new(1, seed));
    let out = bench.alloc(0, 2048);
    let mut p = no_params();
    (p.out, p.k) = (out, case);
    bench
        .node
        .launch("selftest_registers", grid(1, 512, 0), &p, bench.streams[0])?;
    bench.read_u32(0, out, 512)
}

#[test]
fn register_budgets_are_kept() {
    for seed in 0..8 {
        assert_eq!(registers(0, seed).unwrap(), [1; 512]);
        for (fault, parts) in [
            (
                1,
                &["at reg_alloc<160>", "at reg_alloc<200>", "nothing can run any more"][..],
            ),
            (2, &["at reg_alloc<", "nothing can run any more"]),
            (
                3,
                &["reg_alloc<120> of a warpgroup that has 128 registers a thread: expected 128 to 256"],
            ),
            (
                4,
                &["reg_dealloc<136> of a warpgroup that has 128 registers a thread: expected 24 to 128"],
            ),
            (5, &["at reg_alloc<160>", "at the CTA barrier Site::TileBarrier"]),
        ] {
            let text = report(registers(fault, seed));
            for part in parts {
                assert!(text.contains(part), "case {fault}, seed {seed}: {part:?} in {text}");
            }
        }
    }
}
